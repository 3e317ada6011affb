"""Splines of degree one: a real function as pieces of straight lines, none further from it than a tolerance; and their integers.

Pieces are laid from left to right, each as long as the residual from its chord spans at most twice the tolerance; the line lies in the
middle of that span. A smooth f needs about int sqrt|f''| / (4 sqrt(tolerance)) pieces. Outside of [low, high] the first and the last line
go on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float64]
Function = Callable[[Real], Real]
SAMPLES = 257
"""Points of a piece at which its error is measured; between them a function that bends by h is off by another h / SAMPLES^2."""
_POINTS = np.arange(0.0, SAMPLES)
STEPS = 40
MOST_KNOTS = 256


class Spline(msgspec.Struct, frozen=True):
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
        """Return it with a last piece (slope, offset) from `at` on."""
        return Spline((*self.knots, at), (*self.slopes, line[0]), (*self.offsets, line[1]))

    def before(self, line: tuple[float, float], at: float) -> Spline:
        """Return it with a first piece (slope, offset) up to `at`."""
        return Spline((at, *self.knots), (line[0], *self.slopes), (line[1], *self.offsets))

    def level(self, low: float, high: float) -> Spline:
        """Return it with its values at `low` and `high` outside of them."""
        first, last = self.slopes[0] * low + self.offsets[0], self.slopes[-1] * high + self.offsets[-1]
        return self.before((0.0, first), low).after((0.0, last), high)

    def integers(self, unit: float, bits: int, *, ends: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return knots in units, slopes and offsets in units of 2^-`bits`: slopes are rounded, and each line is right in its middle.

        Args:
            unit: of x.
            bits: fractional bits of the slopes.
            ends: the least and the largest x, in units: where the first piece begins, and the last one ends.
        """
        edges = [math.ceil(knot / unit) for knot in self.knots] or [sum(ends) // 2]
        slopes, offsets = (each if self.knots else each * 2 for each in (self.slopes, self.offsets))
        edges = [min(ends[0], edges[0]), *edges, max(ends[1], edges[-1])]
        lines: list[tuple[int, int, int]] = []
        for k, (slope, offset) in enumerate(zip(slopes, offsets, strict=True)):
            start, stop = edges[k], edges[k + 1]
            whole, middle = round(slope * 2**bits), (start + stop) // 2
            constant = round((slope * middle + offset / unit) * 2**bits) - whole * middle
            if len(lines) > 1 and lines[-1][0] == start:
                lines.pop()  # a piece of no length
            lines.append((start, whole, constant))
        starts, wholes, constants = zip(*lines, strict=True)
        return starts[1:], wholes, constants


def line(f: Function, low: float, high: float) -> tuple[float, float, float]:
    """Return (slope, offset, error) of the line along the chord of f over [low, high], in the middle of the residual."""
    x = _POINTS * ((high - low) / (SAMPLES - 1)) + low  # as np.linspace has it, without its checks
    x[-1] = high
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
    first = tolerance(np.asarray(start))

    def within(end: float) -> bool:
        return bool(line(f, start, end)[2] <= min(first, tolerance(np.asarray(end))))

    if within(stop):
        return stop
    good, bad = 0.0, stop - start
    for _ in range(STEPS):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if within(start + middle) else (good, middle)
    return start + good
