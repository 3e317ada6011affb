"""Settings of all tests: no wall clock, little output, few TensorFlow threads."""

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="confide-tests-")  # nothing that killed processes have left is found there
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

settings.register_profile("confide", deadline=None)
settings.load_profile("confide")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no process is left with it in the end."""
    items.sort(key=lambda item: item.path.name != "test_examples.py")
