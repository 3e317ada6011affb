"""Each target of benchmarks/fuzz for a moment: its recorded inputs, and mutations of them that are the same each time.

Mutations are not guided here: that takes atheris, see benchmarks/fuzz/README.md.
"""

import time

import pytest

from benchmarks.fuzz.mutation import Fault, Watch, search
from benchmarks.fuzz.recorded import LARGEST, MOST, recorded
from benchmarks.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_raise_nothing_take_no_second_and_little_memory(name):
    with TARGETS[name].ready() as run:
        watch = Watch(run)
        search(watch, TARGETS[name].seeds(), seed=1, seconds=0.2)
    assert watch.runs > len(TARGETS[name].seeds())


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_more_of_them(name):
    with TARGETS[name].ready() as run:
        search(Watch(run), TARGETS[name].seeds(), seed=2, seconds=20)


def test_what_is_recorded_is_small():
    for name in TARGETS:
        found = recorded(name)
        assert len(found) <= MOST
        assert all(len(one) <= LARGEST for one in found)


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_fault_is_found():
    """What raises or takes too long is a fault, and the input is in it."""

    def raises(data):
        if data == b"bad":
            raise KeyError(data)

    search(Watch(raises), [b"good"], seed=1, runs=10)
    with pytest.raises(Fault, match="raised KeyError") as found:
        search(Watch(raises), [b"good", b"bad"], seed=1, runs=10)
    assert found.value.data == b"bad"
    with pytest.raises(Fault, match="s of a processor"):
        Watch(lambda data: busy(0.1), limit=0.05)(b"slow")


def test_a_process_that_grows_is_found():
    with pytest.raises(Fault, match="has grown by"):
        Watch(lambda data: bytearray(data) * (100 << 20))(b"x")
