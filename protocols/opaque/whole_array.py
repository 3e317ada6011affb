"""An array of whole numbers that other languages keep as an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from protocols.errors import SharingError
from protocols.opaque.accepted import integer, integers
from protocols.opaque.whole import Whole

FORM = ("shape", "dtype", "ndim", "size", "nbytes")
"""Attributes that tell nothing of the numbers."""
CHANGES = ("astype", "copy", "flatten", "ravel", "reshape", "transpose", "view")
"""Methods that give the same numbers in another form."""

Integers = npt.NDArray[np.integer[Any]]


class WholeArray(NDArrayOperatorsMixin):
    """An array of int64 or uint64 that counts and prints like one of NumPy, and is none.

    Arithmetic with integers and with whole floats of magnitude below 2^53, arrays of them included, gives a `WholeArray` again, comparison
    an array of NumPy; so does `numpy.asarray`. The names in `FORM` and `CHANGES` are as there. An operation whose result would be
    floating point is refused, because it would lose digits.

    Args:
        array: of integers.

    Raises:
        SharingError: in arithmetic, numbers that are not whole, or a result that would be floating point.
    """

    def __init__(self, array: Integers) -> None:
        self._array = array

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self._array, dtype) if copy else np.asarray(self._array, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        operands = [self._operand(value) for value in inputs]
        if (out := settings.get("out")) is None:
            return _kept(getattr(ufunc, method)(*operands, **settings), ufunc.__name__)
        settings["out"] = tuple(value._array if isinstance(value, WholeArray) else value for value in out)
        getattr(ufunc, method)(*operands, **settings)
        return out[0] if len(out) == 1 else out

    def _operand(self, value: Any) -> Any:
        """Return a number or an array as NumPy computes with it, in the dtype of this array where that holds all of its values."""
        if isinstance(value, WholeArray):
            return value._array
        if isinstance(value, np.ndarray | list | tuple):
            public = integers(np.asarray(value))
        elif isinstance(value, bool | int | float | np.generic | Whole):
            public = np.asarray(integer(value))
        else:
            return value
        if public.dtype.kind == "O":
            raise SharingError(f"a number beyond the range of {self._array.dtype} was given")
        signed = self._array.dtype.kind == "i"
        fits = (public <= np.iinfo(np.int64).max).all() if signed else (public >= 0).all()
        return public.astype(np.int64 if signed else np.uint64) if fits else public

    def __getattr__(self, name: str) -> Any:
        if name in FORM:
            return getattr(self._array, name)
        if name in CHANGES:
            change = getattr(self._array, name)
            return lambda *arguments, **settings: _kept(change(*arguments, **settings), name)
        raise AttributeError(f"a WholeArray has no {name!r}: numpy.asarray of it is an array of NumPy, which has all of them")

    def __getitem__(self, index: Any) -> Any:
        return _kept(self._array[index], "an index")

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return repr(self._array)

    def __str__(self) -> str:
        return str(self._array)


def _kept(result: Any, what: str) -> Any:
    """Return a result of NumPy; whole numbers as ours."""
    if isinstance(result, np.integer):
        return Whole(int(result))
    if isinstance(result, np.ndarray) and result.dtype.kind in "iu":
        return WholeArray(result)
    if isinstance(result, np.ndarray | np.generic) and result.dtype.kind != "b":
        raise SharingError(
            f"{what} of an array of whole numbers would be {result.dtype} and lose digits: only operations that give whole numbers are"
            " possible; with unsigned arrays add the modulus to what is negative"
        )
    return result
