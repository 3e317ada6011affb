"""R programs as tests run them: by Rscript, with the Python that runs the tests inside."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = "CONFIDE_R"
"""Environment variable that `.ci/run` sets to "required" when it has installed R: then a missing R is a failure, not a reason to skip."""
WITHIN = 250.0
"""Seconds that a program may take on a machine that is busy with other things."""


def environment() -> dict[str, str]:
    """What Rscript is started with: our Python, this checkout, and nothing that tells where the tests run."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"RETICULATE_PYTHON": sys.executable, "PYTHONPATH": paths, "LC_ALL": "C.UTF-8"}


@functools.cache
def missing() -> str:
    """Return why no R program can be run here; empty: one can."""
    if shutil.which("Rscript") is None:
        return "there is no Rscript"
    done = subprocess.run(["Rscript", "-e", "library(reticulate)"], capture_output=True, text=True, timeout=WITHIN, env=environment())
    return "R has no package reticulate" if done.returncode else ""


def require_r() -> None:
    """Skip a test that needs R where there is none; fail it where R is required."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("this Python has no shared library, which reticulate would load")
    if why := missing():
        why += "; on Debian: apt-get install --no-install-recommends r-base-core r-cran-reticulate"
        if os.environ.get(NEEDED) == "required":
            pytest.fail(f"{why} ({NEEDED}=required)")
        pytest.skip(why)


def run(*arguments: str) -> str:
    """Run `Rscript arguments...`, which must end well, and return what it prints."""
    done = subprocess.run(["Rscript", *arguments], capture_output=True, text=True, timeout=WITHIN, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
