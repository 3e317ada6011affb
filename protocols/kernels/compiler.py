"""How a kernel is compiled: one decorator, used by every file of this folder.

A kernel is a plain Python function over numpy arrays, compiled for the types in its signatures when its module is imported, and kept on
disk next to it, so that the second process on a machine starts in a fraction of a second. It releases the GIL and never fuses, reorders
or approximates anything: it computes on integers modulo 2^64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(*signatures: str) -> Callable[[F], F]:
    """Compiles a function for the given numba signatures, at import."""

    def decorate(function: F) -> F:
        return cast(F, numba.njit(list(signatures), cache=True, nogil=True, error_model="numpy")(function))

    return decorate
