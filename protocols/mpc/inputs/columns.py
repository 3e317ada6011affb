"""Columns of numbers to train on, before they are shared: which of them fixed point cannot hold, or holds too coarsely.

A column whose spread is a few steps of fixed point is another column when it is stored: what is fitted to it is wrong, and nobody can see
that afterwards. What counts is how much of the spread rounding takes away, so that numbers that are multiples of the step (zeros and ones,
rare small values among zeros) are fine however small they are. Knows nothing of shares, and only the owner of the numbers runs it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, PrecisionWarning

FINE = 1 / (256 * math.sqrt(12))
"""What rounding may take of the spread of a column: as of one that spreads over 256 steps."""

LOST = 0.1
"""Of a column that loses more than this part of its spread nothing useful is left: it spreads over fewer than 3 steps."""

CONSTANT = 1e-6
"""A column that moves by less than this part of its values, or of those of all columns a millionth of that, moves by rounding only."""

_NAMED = 8

Numbers = npt.NDArray[np.float64]


def check_columns(name: str, numbers: Numbers, *, step: float, limit: float) -> None:
    """Refuse numbers that fixed point cannot hold, or of which nothing would be left; warn of columns of which it keeps too little.

    Args:
        name: what the error calls them.
        numbers: (examples, columns).
        step: the last digit of what is stored.
        limit: what all of them are below, in absolute value.

    Raises:
        InputError: values are NaN or too large; or every column that is not constant loses more than `LOST` of its spread.

    Warns:
        PrecisionWarning: a column loses more than `FINE` of its spread.
    """
    low, high = numbers.min(0), numbers.max(0)
    _check_size(name, np.maximum(-low, high), limit)
    span, count = high - low, len(numbers)
    # Rounding takes step / 2 at most, and a column spreads over span / sqrt(2 count) at least: most need no second look.
    suspects = np.nonzero((span < step / 2 * math.sqrt(2 * count) / FINE) & ((span > 0) | (low != 0)))[0]
    if not suspects.size:
        return
    some, span = numbers[:, suspects], span[suspects]
    lost = np.sqrt(np.mean((np.rint(some / step) * step - some) ** 2, 0))
    size, everywhere = np.maximum(-low, high)[suspects], max(-low.min(), high.max())
    constant = (span <= CONSTANT * size) & (size >= step) | (span <= CONSTANT**2 * everywhere)
    spread = np.where(span > CONSTANT * size, some.std(0), size)  # a constant that is too small is lost as well
    coarse = (lost > FINE * spread) & ~constant
    if not coarse.any():
        return
    varying = int((~constant).sum()) + numbers.shape[1] - len(suspects) - int(((low == high) & (low == 0)).sum())
    if int((lost > LOST * spread)[coarse].sum()) == varying:
        raise InputError(
            f"{_told(name, suspects[coarse], spread[coarse], numbers.shape[1])}, and numbers are stored in steps of {step:.1e}: nothing of"
            f" them would be left; multiply them before, best so that they spread over about 1 (by 2^{_power(spread[coarse].max())}), and"
            " divide what is learnt from them by the same"
        )
    warnings.warn(
        f"{_told(name, suspects[coarse], spread[coarse], numbers.shape[1])}, less than 256 of the steps of {step:.1e} in which numbers are"
        " stored: what is learnt from them is that of other numbers; multiply them before, best so that they spread over about 1",
        PrecisionWarning,
        stacklevel=3,
    )


def _check_size(name: str, size: Numbers, limit: float) -> None:
    beyond = np.nonzero(~(size < limit))[0]
    if not beyond.size:
        return
    largest, verb = size[beyond], "reaches" if len(size) == 1 else "reach"
    reach = f"{verb} {largest[np.isfinite(largest)].max():.3g}" if np.isfinite(largest).any() else "with NaN or infinite values only"
    raise InputError(
        f"{name!r} has values beyond +-{limit:g}, or NaN: {_columns(beyond, len(size))} {reach}; scale them first, best to about 1, and"
        " scale what is predicted back"
    )


def _told(name: str, columns: Sequence[int] | npt.NDArray[np.intp], spread: Numbers, count: int) -> str:
    low, high = f"{spread.min():.1e}", f"{spread.max():.1e}"
    return f"{name!r}: {_columns(columns, count)} spread{'s' * (count == 1)} over {low if low == high else f'{low} to {high}'} only"


def _columns(columns: Sequence[int] | npt.NDArray[np.intp], count: int) -> str:
    if count == 1:
        return "its column"
    named = ", ".join(map(str, list(columns)[:_NAMED]))
    more = f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else ""
    return f"column{'s' * (len(columns) > 1)} {named}{more} of {count}"


def _power(spread: float) -> int:
    return max(1, -math.floor(math.log2(spread))) if spread > 0 else 1
