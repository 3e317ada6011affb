"""Memory that stays with a process, for arrays of megabytes that come and go with every message.

By default glibc gives each of them back to the kernel when it is freed, and the next one is made of new pages, which are cleared and
mapped one by one: that takes as long as the message itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import time
from collections.abc import AsyncIterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8  # <malloc.h>
KEPT = 128 << 20
"""Bytes of freed memory at the end of its heap that a process keeps at most."""
LARGEST = 32 << 20
"""Bytes of the largest array of which that is true: glibc takes no more."""
KEPT_OF_LARGE = 512 << 20
"""Bytes at the end of its heap that a process keeps that computes with larger arrays all the time, and all before what lies there still."""
IDLE = 10.0
"""Seconds without work after which such a process gives them back."""
BUSY_PART = 0.05
"""Part of them for which it may compute and counts as one without work: it answers who asks how it is."""
GROWN = 16 << 20
"""Bytes by which it has grown since it gave memory back last, from which on it gives again: a little work may have taken much."""
ASKED: list[bool] = []
"""What came of it; empty as long as nobody has asked."""


def keep_freed_memory(*, large: bool = False) -> bool:
    """Ask glibc, once a process, to keep freed memory for later arrays; return whether it will.

    Whoever has set glibc's variables for this (MALLOC_..., GLIBC_TUNABLES) has the last word, and other C libraries have no such thing.

    Args:
        large: arrays of any size, and of all threads, which then share one heap: for processes whose threads seldom allocate at once.
            What counts is who asks first; later, and once threads have begun, it is too late for this. What lies before an array that
            stays is never given back then, but by `given_back_when_idle`.
    """
    if not ASKED:
        ASKED.append(_ask(large=large))
    return ASKED[0]


def _ask(*, large: bool) -> bool:
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    settings = {_MMAP_MAX: 0, _ARENA_MAX: 1, _TRIM_THRESHOLD: KEPT_OF_LARGE} if large else {_MMAP_THRESHOLD: LARGEST, _TRIM_THRESHOLD: KEPT}
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(bool(mallopt(setting, value)) for setting, value in settings.items())
    return False


@contextlib.asynccontextmanager
async def given_back_when_idle(seconds: float = IDLE) -> AsyncIterator[None]:
    """Give freed memory back to the kernel, wherever it lies, whenever this process has done nothing for so many seconds.

    Without this a process whose `keep_freed_memory` is `large` is as large as it has ever been, for as long as it runs.
    """
    if not any(ASKED):
        yield
        return
    giving = asyncio.create_task(_give_back_when_idle(seconds))
    try:
        yield
    finally:
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)


async def _give_back_when_idle(seconds: float) -> None:
    trim, kept = ctypes.CDLL(None).malloc_trim, 0
    while True:
        before = time.process_time()
        await asyncio.sleep(seconds)
        kept = min(kept, _resident())
        if time.process_time() - before < BUSY_PART * seconds and _resident() - kept >= GROWN:
            await asyncio.to_thread(trim, 0)
            kept = _resident()


def _resident() -> int:
    """Return how many bytes of memory this process has now; 0 where the kernel does not say."""
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as told:
        return int(told.read().split()[1]) * mmap.PAGESIZE
    return 0
