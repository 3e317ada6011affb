"""What an installation needs: workers and clients no Keras, nobody Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDDEN = "import sys; [sys.modules.__setitem__(name, None) for name in ('tensorflow', 'keras', 'h5py')]\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, whose packages are those of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_all_that_the_packages_offer_is_there_without_keras():
    shown = run(HIDDEN + "from protocols import *; from federated import *; from privacy import *; import protocols.workers.worker_process")
    assert (shown.returncode, shown.stderr) == (0, "")


ANSWERED = """
import asyncio
import numpy as np
from protocols import Cluster, LinearRegression, Worker

async def main():
    x = np.random.default_rng(0).uniform(-1, 1, (64, 3))
    async with Cluster(Worker("localhost:0"), Worker("localhost:0"), crypto_provider=Worker("localhost:0")) as cluster:
        features, target = await cluster.store("x", x), await cluster.store("y", x @ [[1.0], [2.0], [-1.0]] + 0.5)
        fitted = await LinearRegression(cluster).fit(features, target)
        print(np.abs(fitted.coef_ - [1, 2, -1]).max() < 1e-3)

asyncio.run(main())
"""


@pytest.mark.long
def test_workers_and_estimators_work_without_keras():
    shown = run(HIDDEN + ANSWERED)
    assert (shown.stdout.strip(), shown.returncode) == ("True", 0), shown.stderr


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import federated; federated.DataOwner(None)", "an owner without a trainer of its own"),
        ("from protocols.keras_hook import KerasHook; KerasHook()", "KerasHook"),
    ],
)
def test_what_needs_keras_says_so_and_how_to_get_it(code, what):
    shown = run(HIDDEN + code)
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[-1].endswith(
        f"KerasMissing: {what} needs keras and tensorflow, not installed here: pip install 'confide[keras]'"
    )


def test_the_demonstration_says_in_one_line_that_it_needs_keras():
    shown = run(HIDDEN + "sys.argv = ['confide', 'demo']; import federated.command; federated.command.main()")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "the demonstration needs keras and tensorflow" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("package", ["actors", "protocols.client.remote_model", "federated.runs.federation"])
def test_windows_is_refused_by_name(package):
    shown = run(f"import asyncio, sys; sys.platform = 'win32'; import {package}")
    assert shown.returncode == 1
    assert "ImportError: confide runs on Linux and macOS; on Windows, install it inside WSL 2" in shown.stderr
