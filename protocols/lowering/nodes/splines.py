"""Splines of degree one: a real function as pieces of straight lines, none further from it than a tolerance.

Pieces are laid from left to right, each as long as the residual from its chord spans at most twice the tolerance; the line lies in the
middle of that span. A smooth f needs about int sqrt|f''| / (4 sqrt(tolerance)) pieces. Outside of [low, high] the first and the last line
go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float64]
Function = Callable[[Real], Real]
SAMPLES = 257
"""Points of a piece at which its error is measured; between them a function that bends by h is off by another h / SAMPLES^2."""
STEPS = 40
MOST_KNOTS = 256


@dataclass(frozen=True)
class Spline:
    """slopes[k] x + offsets[k] for x between knots[k - 1] and knots[k]."""

    knots: tuple[float, ...]
    slopes: tuple[float, ...]
    offsets: tuple[float, ...]

    def __call__(self, x: Real) -> Real:
        """Return the value at each x."""
        piece = np.searchsorted(self.knots, x, side="right")
        value: Real = np.asarray(self.slopes)[piece] * x + np.asarray(self.offsets)[piece]
        return value

    def after(self, line: tuple[float, float], at: float) -> Spline:
        """With a last piece (slope, offset) from `at` on."""
        return Spline((*self.knots, at), (*self.slopes, line[0]), (*self.offsets, line[1]))

    def before(self, line: tuple[float, float], at: float) -> Spline:
        """With a first piece (slope, offset) up to `at`."""
        return Spline((at, *self.knots), (line[0], *self.slopes), (line[1], *self.offsets))

    def level(self, low: float, high: float) -> Spline:
        """With its values at `low` and `high` outside of them."""
        first, last = self.slopes[0] * low + self.offsets[0], self.slopes[-1] * high + self.offsets[-1]
        return self.before((0.0, first), low).after((0.0, last), high)


def line(f: Function, low: float, high: float) -> tuple[float, float, float]:
    """(slope, offset, error) of the line along the chord of f over [low, high], in the middle of the residual."""
    x = np.linspace(low, high, SAMPLES)
    y = f(x)
    slope = float((y[-1] - y[0]) / (high - low))
    residual = y - slope * x
    return slope, float(residual.max() + residual.min()) / 2, float(residual.max() - residual.min()) / 2


def fit(f: Function, low: float, high: float, *, tolerance: float | Function, breaks: Sequence[float] = ()) -> Spline:
    """Fit a spline to f over [low, high], low < high.

    Args:
        f: continuous but for the `breaks`.
        low: where the first piece starts.
        high: where the last piece ends.
        tolerance: the largest error, above 0; a function of the ends of a piece, that rises or falls, where a relative error is wanted.
        breaks: where a new piece must begin.

    Raises:
        ValueError: more than `MOST_KNOTS` knots would be needed.
    """
    allowed = tolerance if callable(tolerance) else lambda _: np.asarray(tolerance)
    ends = [low, *sorted(b for b in breaks if low < b < high), high]
    pieces: list[tuple[float, float, float]] = []
    for start, stop in itertools.pairwise(ends):
        at = start
        while at < stop:
            end = _longest(f, at, stop, allowed)
            slope, offset, _ = line(f, at, end)
            pieces.append((at, slope, offset))
            at = end
            if len(pieces) > MOST_KNOTS + 1:
                raise ValueError(f"more than {MOST_KNOTS} knots are needed between {low:g} and {high:g} for its tolerance")
    starts, slopes, offsets = zip(*pieces, strict=True)
    return Spline(starts[1:], slopes, offsets)


def _longest(f: Function, start: float, stop: float, tolerance: Function) -> float:
    """Return the largest end, by bisection, for which the line stays within the tolerance."""

    def within(end: float) -> bool:
        return bool(line(f, start, end)[2] <= min(tolerance(np.asarray(start)), tolerance(np.asarray(end))))

    if within(stop):
        return stop
    good, bad = 0.0, stop - start
    for _ in range(STEPS):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if within(start + middle) else (good, middle)
    return start + good
