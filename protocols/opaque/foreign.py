"""Numbers as R sends them, and as it can take them."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError
from protocols.opaque.accepted import EXACT, integer, integers
from protocols.opaque.whole import Whole
from protocols.opaque.whole_array import WholeArray

SMALL: Final = 1 << 31
"""R's integers are below this in magnitude: -2^31 is its NA."""
EMBEDDED: Final = "rpycall"
"""A module that reticulate builds into each Python that it starts in R."""

Integers = npt.NDArray[np.integer[Any]]


def in_r() -> bool:
    """Return whether this Python runs inside of R, so that reticulate turns results into R's numbers."""
    return EMBEDDED in sys.builtin_module_names


def whole_number(value: Any) -> int:
    """Return the integer that a value stands for: an integer of any kind, or a whole float of magnitude below 2^53, as R's numbers are.

    Raises:
        SharingError: something else.
    """
    number = integer(np.asarray(value)[()] if isinstance(value, np.ndarray) and not value.ndim else value)
    _check_missing(isinstance(value, int) and number == -SMALL)
    return number


def whole_array(values: Any) -> Integers | None:
    """Return an array of integers for what stands for several: an array of integers or whole floats, or a list of these, R's vector.

    Returns:
        None for what is one value, no array.

    Raises:
        SharingError: a value is not whole, or too large; or a list holds lists, for which R has matrices and arrays.
    """
    if isinstance(values, WholeArray):
        return np.asarray(values)
    if isinstance(values, np.ndarray):
        _check_missing(values.dtype == np.int32 and bool((values == -SMALL).any()))
        return integers(values) if values.ndim else None
    if not isinstance(values, list | tuple):
        return None
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        raise SharingError(
            "a list of lists or arrays was given: one array is needed, or numbers in one list; in R a vector, matrix or array"
        )
    numbers = [integer(value) for value in values]
    _check_missing(any(isinstance(value, int) and value == -SMALL for value in values))
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low < -(1 << 63) or high >= 1 << (63 if low < 0 else 64):
        raise SharingError("numbers in a list are out of range: from -2^63 to 2^63 - 1, or from 0 to 2^64 - 1, is needed")
    return np.array(numbers, np.int64 if high < 1 << 63 else np.uint64)


def _check_missing(found: bool) -> None:
    """Refuse R's missing integer, which arrives as -2^31; the number itself is a double in R.

    Raises:
        SharingError: it is there, and this Python runs inside of R.
    """
    if found and in_r():
        raise SharingError("a value is NA, which is no number: leave it out, or replace it")


def to_caller(result: int | Integers) -> Any:
    """Return a result as whoever called can take it: in Python as it is; in R so that reticulate changes no digit of it.

    In R an integer is a double where its integers end, and a `Whole` from 2^53 on, where doubles are not exact any more; an array with
    such a value is a `WholeArray`.
    """
    if not in_r():
        return result
    if isinstance(result, np.ndarray):
        beyond = (result > EXACT) | (result < -EXACT) if result.dtype.kind == "i" else result > EXACT
        return WholeArray(result) if beyond.any() else result
    if abs(result) < SMALL:
        return result
    return float(result) if abs(result) <= EXACT else Whole(result)
