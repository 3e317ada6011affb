"""How a kernel is compiled: one decorator, used by every file of this folder.

A kernel is a plain Python function over numpy arrays, compiled for the types in its signatures when its module is imported, and kept on
disk next to it, so that the second process on a machine starts in a fraction of a second. It releases the GIL and never fuses, reorders
or approximates anything: it computes on integers modulo 2^64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(*signatures: str) -> Callable[[F], F]:
    """Compile a function for the given numba signatures, at import."""

    def decorate(function: F) -> F:
        compile_ = partial(numba.njit, list(signatures), nogil=True, error_model="numpy")
        try:
            return cast(F, compile_(cache=True)(function))
        except RuntimeError:  # no folder to keep it in can be written: compile it again in each process
            return cast(F, compile_(cache=False)(function))

    return decorate
