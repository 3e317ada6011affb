"""Memory that stays with a process, for arrays of megabytes that come and go with every message.

By default glibc gives each of them back to the kernel when it is freed, and the next one is made of new pages, which are cleared and
mapped one by one: that takes as long as the message itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
KEPT = 128 << 20
"""Bytes of freed memory that a process keeps at most."""
LARGEST = 32 << 20
"""Bytes of the largest array of which that is true: glibc takes no more."""


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc, once a process, to keep freed memory for later arrays; return whether it will.

    Whoever has set glibc's variables for this (MALLOC_..., GLIBC_TUNABLES) has the last word, and other C libraries have no such thing.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
    return False
