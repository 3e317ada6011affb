"""A whole number that other languages keep as an object."""

from __future__ import annotations

import numpy as np

from protocols.errors import SharingError
from protocols.opaque.accepted import EXACT, integer


class Whole:
    """A whole number, exact however large: it counts, compares and prints like an int, and is none.

    Arithmetic with integers, and with whole floats of magnitude below 2^53, gives a `Whole` again. Division does not exist: its result
    would be no whole number.

    Args:
        value: an integer or a whole float.

    Raises:
        SharingError: another number is given, here or in arithmetic.

    Example:
        >>> Whole(2**63) + 1
        9223372036854775809
    """

    __slots__ = ("_value",)

    def __init__(self, value: Whole | int | float) -> None:
        self._value = integer(value)

    def __index__(self) -> int:
        return self._value

    def __int__(self) -> int:
        return self._value

    def __float__(self) -> float:
        if not abs(self._value) <= EXACT:
            raise SharingError("a whole number beyond 2^53 is no double without loss: use int(), or its digits as text")
        return float(self._value)

    def __bool__(self) -> bool:
        return self._value != 0

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return str(self._value)

    def __format__(self, spec: str) -> str:
        return format(self._value, spec)

    def __add__(self, other: object) -> Whole:
        return Whole(self._value + integer(other)) if _number(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Whole:
        return Whole(self._value - integer(other)) if _number(other) else NotImplemented

    def __rsub__(self, other: object) -> Whole:
        return Whole(integer(other) - self._value) if _number(other) else NotImplemented

    def __mul__(self, other: object) -> Whole:
        return Whole(self._value * integer(other)) if _number(other) else NotImplemented

    __rmul__ = __mul__

    def __mod__(self, other: object) -> Whole:
        return Whole(self._value % integer(other)) if _number(other) else NotImplemented

    def __neg__(self) -> Whole:
        return Whole(-self._value)

    def __eq__(self, other: object) -> bool:
        return self._value == _plain(other) if _number(other) else NotImplemented

    def __lt__(self, other: int | float | Whole) -> bool:
        return self._value < _plain(other)

    def __le__(self, other: int | float | Whole) -> bool:
        return self._value <= _plain(other)

    def __gt__(self, other: int | float | Whole) -> bool:
        return self._value > _plain(other)

    def __ge__(self, other: int | float | Whole) -> bool:
        return self._value >= _plain(other)


def _number(other: object) -> bool:
    return isinstance(other, Whole | int | float | np.integer | np.floating)


def _plain(other: object) -> int | float:
    """Return what Python compares with integers exactly."""
    return other._value if isinstance(other, Whole) else other  # type: ignore[return-value]  # or Python's own TypeError
