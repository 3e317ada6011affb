"""Settings of all tests: no wall clock, little output, few TensorFlow threads."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

settings.register_profile("confide", deadline=None)
settings.load_profile("confide")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no process is left with it in the end."""
    items.sort(key=lambda item: item.path.name != "test_examples.py")
