"""Freed memory stays with a process that listens, unless its user has said otherwise."""

import asyncio
import os
import platform
import subprocess
import sys

import pytest

from actors import allocation

FAULTS = """
import resource, sys
import numpy as np
from actors.allocation import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        first, second = np.ones(500_000), np.ones(500_000)
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def run(what: str, **environment: str) -> list[str]:
    return run_code(FAULTS, what, **environment)


def run_code(code: str, *arguments: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=clean | environment, capture_output=True, text=True, check=True
    ).stdout.split()


LARGE = """
import resource, threading
import numpy as np
from actors.allocation import keep_freed_memory
print(keep_freed_memory(large=True), keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        first, second = np.ones(6_000_000), np.ones(6_000_000)
        del first, second
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
found = []
for _ in range(2):
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
print(found[1])
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


@GLIBC
def test_large_arrays_of_threads_cost_no_new_pages_where_it_is_asked_for():
    first, again, faults = run_code(LARGE)
    assert first == again == "True"
    assert int(faults) < 100  # two arrays of 48 MB are 48 pages of 2 MB at least, ten times


@GLIBC
def test_arrays_that_come_and_go_cost_no_new_pages():
    kept, faults = run("keep")
    assert kept == "True"
    assert int(faults) < 1000


def test_the_users_own_settings_stay():
    assert run("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


PINNED = """
import asyncio
import sys
import numpy as np
from actors import allocation
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmRSS"))
async def main():
    print(allocation.keep_freed_memory(large=True))
    allocation.BUSY_PART = 100.0  # it does too little ever to count as one that works
    async with allocation.given_back_when_idle(0.2):
        for _ in range(int(sys.argv[1])):
            held = [(np.ones(2 << 20), np.ones(50_000)) for _ in range(10)]
            kept = [small for _, small in held]
            del held
            print(resident())
            for _ in range(100):
                if resident() > 120:
                    await asyncio.sleep(0.2)
            print(resident())
asyncio.run(main())
"""


@GLIBC
def test_who_is_idle_gives_back_what_lies_before_what_stays_each_time():
    """A little work may need much memory: that it was little is no reason to keep it."""
    asked, *found = run_code(PINNED, "3")
    assert asked == "True"
    for before, after in zip(found[::2], found[1::2], strict=True):
        assert int(before) > 160  # ten arrays of 16 MB, freed, each before one that is kept
        assert int(after) <= 120


def test_another_c_library_has_nothing_to_give_back_and_says_nothing(monkeypatch):
    monkeypatch.setattr(allocation, "ASKED", [])
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    assert not allocation.keep_freed_memory(large=True)

    async def run():
        async with allocation.given_back_when_idle(0.0):
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
