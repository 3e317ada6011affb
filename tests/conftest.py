"""Settings of all tests: no wall clock, little output, few TensorFlow threads."""

import atexit
import gc
import os
import shutil
import sys
import tempfile

import pytest
from forked import forking
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="confide-tests-")  # nothing that killed processes have left is found there
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)

SLOWEST = (
    "test_examples.py",
    "test_asks.py",
    "test_training_as_compiled.py",
    "test_engines.py",
    "test_r.py",
    "test_engine.py",
    "test_gradients.py",
    "test_as_keras_fit.py",
    "test_processes.py",
    "test_admission.py",
    "test_private_examples.py",
    "test_logistic_fits.py",
)
"""Files that take more than twenty seconds. They come first: else one process would be at one of them, and the others had nothing left."""

settings.register_profile("confide", deadline=None)
settings.load_profile("confide")


@pytest.fixture(autouse=True, scope="session")
def workers_are_forked():
    """Have workers and nodes that a test starts by asyncio come from a process that has imported them."""
    with forking():
        yield


@pytest.fixture(autouse=True)
def names_of_layers_begin_anew():
    """Have Keras number the layers of each test from the beginning, whichever tests this process has run before."""
    if "keras" in sys.modules:
        sys.modules["keras.src.utils.naming"].reset_uids()


def pytest_collection_finish():
    """Spare the collector of cycles what stays for good: it would pass over TensorFlow and all tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before those that are `long` are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `long` what is not among the sample of a test's other cases, and begin with the files that take longest."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("long"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_one_test in cases.values():
        count = of_one_test[0].get_closest_marker("sample").args[0]
        chosen = {round(number * (len(of_one_test) - 1) / max(1, count - 1)) for number in range(count)}
        for number, item in enumerate(of_one_test):
            if number not in chosen:
                item.add_marker(pytest.mark.long)
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
