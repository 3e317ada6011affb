"""Which values stand for whole numbers. Knows no shares and no R: it looks at types and values only."""

from __future__ import annotations

import operator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError

EXACT: Final = 1 << 53
"""From here on a double may stand for other whole numbers than the one that was meant."""


def integer(value: Any) -> int:
    """Return the integer that a value stands for: an integer of any kind, or a whole float of magnitude below 2^53.

    Raises:
        SharingError: something else, such as 1.5, 2.0^53, NaN, True, or text. The message does not show it.
    """
    if isinstance(value, bool | np.bool_):
        raise SharingError("a bool was given: an integer is needed (R's NA arrives as a bool, too)")
    if isinstance(value, float | np.floating):
        number: Any = value
        if not (abs(number) < EXACT and number == int(number)):
            raise SharingError(
                "a float was given: an integer is needed, or a whole number of magnitude below 2^53;"
                " protocols.mpc.numbers.fixed_point.encode turns real numbers into integers"
            )
        return int(number)
    try:
        return operator.index(value)
    except TypeError:
        raise SharingError(
            f"a {type(value).__name__} was given: an integer or an array of integers is needed;"
            " protocols.mpc.numbers.fixed_point.encode turns real numbers into integers"
        ) from None


def integers(array: npt.NDArray[Any]) -> npt.NDArray[np.integer[Any]]:
    """Return an array of integers as it is, and one of whole floats of magnitude below 2^53 as int64.

    Raises:
        SharingError: another dtype, or a value that is not whole or too large. The message does not show it.
    """
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = int(np.count_nonzero(~((np.abs(array) < EXACT) & (array == np.trunc(array)))))
        if not wrong:
            return array.astype(np.int64)
        why = f"; {wrong} of {array.size} values are no whole numbers of magnitude below 2^53"
    else:
        why = ""
    raise SharingError(
        f"an array of {array.dtype} was given: integers are needed{why}; "
        "protocols.mpc.numbers.fixed_point.encode turns real numbers into integers"
    )
