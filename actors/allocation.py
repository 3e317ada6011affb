"""Memory that stays with a process, for arrays of megabytes that come and go with every message.

By default glibc gives each of them back to the kernel when it is freed, and the next one is made of new pages, which are cleared and
mapped one by one: that takes as long as the message itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8  # <malloc.h>
KEPT = 128 << 20
"""Bytes of freed memory at the end of its heap that a process keeps at most."""
LARGEST = 32 << 20
"""Bytes of the largest array of which that is true: glibc takes no more."""
KEPT_OF_LARGE = 512 << 20
"""Bytes that a process keeps at most that computes with larger arrays all the time."""
ASKED: list[bool] = []
"""What came of it; empty as long as nobody has asked."""


def keep_freed_memory(*, large: bool = False) -> bool:
    """Ask glibc, once a process, to keep freed memory for later arrays; return whether it will.

    Whoever has set glibc's variables for this (MALLOC_..., GLIBC_TUNABLES) has the last word, and other C libraries have no such thing.

    Args:
        large: arrays of any size, and of all threads, which then share one heap: for processes whose threads seldom allocate at once.
            What counts is who asks first; later, and once threads have begun, it is too late for this.
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
