"""The numbers of a model's weights while it is read: their own, or others in their place, by which they are found again in the nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float64]
EXAMPLES = 11
"""What is tried on the numbers of several examples is tried on so many."""
_IN_PLACE: ContextVar[Mapping[int, Real]] = ContextVar("numbers in place of weights")


def number(value: Any) -> Real:
    """Return a weight or a constant as float64, or what stands in its place."""
    return _IN_PLACE.get({}).get(id(value), np.asarray(value, np.float64))


def replaced(value: Any) -> bool:
    """Whether something stands in the place of a weight."""
    return id(value) in _IN_PLACE.get({})


@contextmanager
def in_place(numbers: Mapping[int, Real]) -> Iterator[None]:
    """Read other numbers in the place of weights, by their ids, as long as this lasts."""
    token = _IN_PLACE.set(numbers)
    try:
        yield
    finally:
        _IN_PLACE.reset(token)


STEP = 2.0**-41
"""Numbers in the place of weights are an odd number of these from 1 and 2: no float32 is."""


class Portion(NamedTuple):
    """Numbers of one weight, in places that have an order, times a public factor.

    Attributes:
        variable: which weight.
        factor: what all of them are multiplied by.
        whole: whether they are all numbers of the weight in their order.
        start: the one that comes first, in row-major order.
        view: axes of the places; together as many as the numbers.
        steps: along each of them.
    """

    variable: int
    factor: float
    whole: bool
    start: int
    view: tuple[int, ...]
    steps: tuple[int, ...]


class Marks:
    """Numbers in the place of all weights, no two alike, in two readings: 1 + m STEP and 2 - m STEP, m = 2 k + 1, for the k-th.

    A number that is c times one of them is c (1 + m STEP) in one reading and c (2 - m STEP) in the other: both c and m follow.

    Args:
        shapes: of the weights.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self._shapes = list(shapes)
        self._starts = [0, *itertools.accumulate(math.prod(shape) for shape in shapes)]

    def readings(self) -> Iterator[list[Real]]:
        """Give the numbers of each weight, twice."""
        for first, step in ((1.0, STEP), (2.0, -STEP)):
            spans = zip(self._starts, self._starts[1:], self._shapes, strict=False)
            yield [(first + step * (2 * np.arange(start, stop) + 1)).reshape(shape) for start, stop, shape in spans]

    def part(self, first: Real, second: Real) -> Portion | None:
        """Return whose numbers an array has, from what it is in both readings; None if they are no part of one weight."""
        factors = (first + second) / 3
        with np.errstate(all="ignore"):
            numbers = (np.array([(first / factors - 1) / STEP, (2 - second / factors) / STEP]) - 1) / 2
        if not np.isfinite(numbers).all() or not np.allclose(factors, factors.flat[0], rtol=1e-9, atol=0.0):
            return None
        found = np.rint(numbers[0]).astype(np.int64)
        if (np.abs(numbers - found) > 0.25).any() or found.min() < 0 or found.max() >= self._starts[-1]:
            return None
        variable = int(np.searchsorted(self._starts, found.min(), side="right")) - 1
        if found.max() >= self._starts[variable + 1]:
            return None
        places = found - self._starts[variable]
        size, factor = self._starts[variable + 1] - self._starts[variable], float(factors.flat[0])
        whole = places.size == size and bool((places.reshape(-1) == np.arange(size)).all())
        for view in _views(places):
            steps = _steps(view)
            if steps is not None:
                return Portion(variable, 1.0 if abs(factor - 1) < 1e-9 else factor, whole, int(view.flat[0]), view.shape, steps)
        return None


def _views(places: Any) -> Iterator[Any]:
    """Places as they are, and in rows of as many as there are different ones."""
    yield places
    period = len(np.unique(places))
    if places.ndim == 1 and places.size % period == 0:
        yield places.reshape(-1, period)
        yield places.reshape(period, -1)


def _steps(places: Any) -> tuple[int, ...] | None:
    """By how much places grow along each axis; None if that is not the same everywhere."""
    steps = tuple(int(np.take(places, 1, axis).flat[0] - places.flat[0]) if n > 1 else 0 for axis, n in enumerate(places.shape))
    grown = sum(
        (step * np.arange(n).reshape([-1 if at == axis else 1 for at in range(places.ndim)]))
        for axis, (step, n) in enumerate(zip(steps, places.shape, strict=True))
    )
    return steps if bool((places == places.flat[0] + grown).all()) else None
