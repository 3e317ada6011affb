"""A range for each feature of an input, and the integers that stand for the numbers in it.

A feature f with the range [low, high] has a unit u, the least power of two that holds the range, and an origin o, which is 0 unless the
range is far from 0. A client sends for x the integer nearest to (x - o) / (u s), with the public scale s of the program; so each feature
has as many steps as any other. Whole numbers up to 1 / s units are exact: o is then a whole number and u s a power of two.

This file knows neither programs nor models.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import ModelError, ProgramError
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.numbers.ring import Ring

Shape = tuple[int, ...]
Real = npt.NDArray[np.float64]

InputRange = tuple[npt.ArrayLike, npt.ArrayLike] | Literal["calibration"]
"""What a user may give: (low, high), numbers or arrays that are broadcast to an example; or the range of the calibration samples."""

LARGEST_EDGE = 1 << 62
CALIBRATION = "calibration"
"""What a user says for ranges that are those of the calibration samples."""
FAR = 4
"""A range that is so many times as far from 0 as it is wide has an origin of its own."""


class Ranges(msgspec.Struct, frozen=True):
    """The closed range of each feature; tables of `shape`, which is broadcast over an example as numpy does.

    Attributes:
        shape: of the tables.
        low: the least value of each feature.
        high: the largest; equal to the least where a feature is constant.
        unit: a power of two for each feature, at least its largest distance from the origin.
        origin: the real number that the integer 0 stands for.
    """

    shape: Shape
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: tuple[float, ...]
    origin: tuple[float, ...]

    def table(self, values: tuple[float, ...]) -> Real:
        """One of the tables as an array of `shape`."""
        return np.array(values, np.float64).reshape(self.shape)

    @property
    def outermost(self) -> tuple[float, float]:
        """The range that holds all."""
        return min(self.low), max(self.high)

    def in_one_unit(self) -> Ranges:
        """Return the same with the largest unit for all: for integers, of which each has the same step."""
        return msgspec.structs.replace(self, unit=(max(self.unit),) * len(self.unit))

    def encoded(self, x: Real, scale: float) -> Ring:
        """Encode examples (n, *input_shape) that lie inside as integers."""
        inside = np.clip(x, self.table(self.low), self.table(self.high))
        return encode((inside - self.table(self.origin)) / self.table(self.unit), scale)

    def edges(self, scale: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the least and the largest integer of each feature."""
        low, high = (encode((self.table(end) - self.table(self.origin)) / self.table(self.unit), scale) for end in (self.low, self.high))
        return tuple(low.view(np.int64).reshape(-1).tolist()), tuple(high.view(np.int64).reshape(-1).tolist())

    def check(self, input_shape: Shape, scale: float) -> None:
        """Refuse tables that are no ranges: for whoever is told them.

        Raises:
            ProgramError: a table does not fit the input, or has values that make no sense.
        """
        size, tables = math.prod(self.shape), (self.low, self.high, self.unit, self.origin)
        if len(self.shape) > len(input_shape) or not fits(self.shape, input_shape) or any(len(table) != size for table in tables):
            raise ProgramError(f"ranges of shape {self.shape} do not fit an input of shape {input_shape}")
        low, high, unit, origin = (self.table(table) for table in tables)
        if not all(np.isfinite(table).all() for table in (low, high, unit, origin)) or not (low <= high).all():
            raise ProgramError("each range needs two finite numbers, the smaller first")
        if not (unit > 0).all() or (np.frexp(unit)[0] != 0.5).any():
            raise ProgramError("the unit of a range is a power of two")
        with np.errstate(over="ignore"):
            reach = np.maximum(np.abs(low - origin), np.abs(high - origin)) / unit
        if not (scale > 0 and (reach <= LARGEST_EDGE * scale).all()):
            raise ProgramError("a range is too large for its unit")


def fits(shape: Shape, input_shape: Shape) -> bool:
    """Whether a table of `shape` is broadcast over an example to just its shape."""
    try:
        return np.broadcast_shapes(shape, input_shape) == input_shape
    except ValueError:
        return False


def chosen(
    input_range: Any, input_shape: Shape, samples: Real | None, *, known: tuple[Real, Real] | None = None
) -> tuple[float, float] | Ranges:
    """Return the input range that a user gave, or that of the samples (n, *input_shape) if the user said "calibration"; see `given`.

    Args:
        input_range: what the user gave.
        input_shape: of an example.
        samples: or None.
        known: the ends that the model itself says, in place of the samples; NaN where it does not.

    Raises:
        ModelError: the range is none, or there are no samples, or they are not finite or lie outside.
    """
    if samples is not None and not np.isfinite(samples).all():
        raise ModelError("calibration samples are not finite: NaN or infinite")
    if isinstance(input_range, str):
        if input_range != CALIBRATION or samples is None:
            raise ModelError(f'input_range={input_range!r}; a pair (low, high), or "{CALIBRATION}" with sample inputs as calibration=')
        input_range = of_samples(samples, known)
    found = given(input_range, input_shape)
    if samples is not None:
        low, high = (found.table(found.low), found.table(found.high)) if isinstance(found, Ranges) else found
        ends = [(end, np.float64(np.float32(end)) if np.ndim(end) == 0 else np.asarray(end, np.float32)) for end in (low, high)]
        outside = ~((samples >= np.minimum(*ends[0])) & (samples <= np.maximum(*ends[1])))  # 0.1 of float32 is a little above 0.1
        if outside.any():
            where = "" if not isinstance(found, Ranges) else f", the first in feature {place(np.argwhere(outside)[0][1:])}"
            told = "" if isinstance(found, Ranges) else f"={found}"
            raise ModelError(f"{outside.sum()} values of calibration samples lie outside of input_range{told}{where}")
    return found


def given(input_range: Any, input_shape: Shape) -> tuple[float, float] | Ranges:
    """Read what a user gave as the input range: two numbers for all features, or a range for each.

    Args:
        input_range: (low, high), each a number or an array that can be broadcast to an example.
        input_shape: of an example.

    Raises:
        ModelError: anything else; a range that is not finite or has its ends in the wrong order. The range of all features must not be
            empty; that of one feature may be a single value.
    """
    try:
        low, high = (np.asarray(end, np.float64) for end in input_range)
    except (TypeError, ValueError):
        raise ModelError(
            f"input_range={input_range!r}; a pair (low, high) is needed, each a number or an array that fits an example of shape "
            f"{input_shape}"
        ) from None
    if not np.isfinite(low).all() or not np.isfinite(high).all():
        raise ModelError(f"input_range={input_range}; two finite numbers, the smaller first, are needed, or arrays of them")
    try:
        low, high = np.broadcast_arrays(low, high)
    except ValueError:
        raise ModelError(f"input_range has ends of shape {low.shape} and {high.shape}, which do not fit each other") from None
    if low.ndim > len(input_shape) or not fits(low.shape, input_shape):
        raise ModelError(f"input_range has ends of shape {low.shape}; a number, or a shape that is broadcast to {input_shape}, is needed")
    if low.size and (low == low.flat[0]).all() and (high == high.flat[0]).all():
        if not low.flat[0] < high.flat[0]:
            raise ModelError(f"input_range={input_range}; two finite numbers, the smaller first, are needed")
        return float(low.flat[0]), float(high.flat[0])
    wrong = np.argwhere(low > high)
    if len(wrong):
        raise ModelError(f"input_range: the range of feature {place(wrong[0])} ends below its beginning")
    return _ranges(low, high)


def place(index: npt.ArrayLike) -> str:
    """How a feature is named: its index in an example."""
    numbers = [int(i) for i in np.asarray(index).reshape(-1)]
    return str(numbers[0]) if len(numbers) == 1 else str(tuple(numbers))


def _ranges(low: Real, high: Real) -> Ranges:
    with np.errstate(over="ignore"):
        width = high - low
    if not np.isfinite(width).all():
        raise ModelError("input_range: a range is too wide")
    far = (np.maximum(np.abs(low), np.abs(high)) > FAR * width) & ((low > 0) | (high < 0))
    origin = np.where(far, low, 0.0)
    extent = np.maximum(np.abs(low - origin), np.abs(high - origin))
    unit = np.exp2(np.ceil(np.log2(np.where(extent > 0, extent, 1.0))))
    if not np.isfinite(unit).all():
        raise ModelError("input_range: a range is too wide")
    tables = (low, high, unit, origin)
    return Ranges(low.shape, *(tuple(table.reshape(-1).tolist()) for table in tables))


def of_samples(samples: Real, known: tuple[Real, Real] | None = None) -> tuple[Real, Real]:
    """Derive a range for each feature of the last axis from samples (n, *shape), rounded outwards: it tells their order of magnitude only.

    The ends are multiples of a quarter of the power of two above the width of what was seen, or above its size if all samples are alike.
    Where the model says the ends itself they are those: of indices into a table, or of what it takes to be constant.
    """
    rows = samples.reshape(-1, samples.shape[-1])
    low, high = rows.min(axis=0), rows.max(axis=0)
    size = np.where(high > low, high - low, np.abs(low))
    grid = np.exp2(np.ceil(np.log2(np.where(size > 0, size, 1.0))) - 2)
    low, high = np.floor(low / grid) * grid, np.ceil(high / grid) * grid
    if known is None:
        return low, high
    least, largest = (table.reshape(-1, rows.shape[1]) for table in known)
    said = np.isfinite(least).all(axis=0)
    return np.where(said, least.max(axis=0), low), np.where(said, largest.min(axis=0), high)
