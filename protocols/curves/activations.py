"""The activations of Keras that are curves: what they are, towards which straight lines they run, and their derivatives.

A curve is approximated by a spline (`splines.py`) between `-reach` and `reach`; beyond, it is its asymptote to within `TOLERANCE` / 4.
Names and definitions are those of `keras.activations`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocols.curves.splines import Function, Real, Spline, fit

TOLERANCE = 2.0**-11
"""The largest error of the spline of an activation; the fixed point adds less than 2^-13."""
TINY = 2.0**-12
"""Half of the distance over which a derivative is measured."""
SEARCHES = 24
"""How often the search for an asymptote goes twice as far; the last time to 2^29."""
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Curve:
    """A real function with straight asymptotes, (slope, offset) each; None where there is none, or far away.

    With `relative` the tolerance is that of values up to 1, and relative to larger ones. `steep` is the largest slope, unless relative.
    `of_value` are c_0, c_1, c_2 where the derivative is c_0 + c_1 y + c_2 y^2 of the value y itself.
    """

    function: Function = field(repr=False)
    left: tuple[float, float] | None
    right: tuple[float, float] | None
    breaks: tuple[float, ...] = ()
    relative: bool = False
    steep: float = 1.0
    of_value: tuple[int, int, int] | None = None

    def spline(self, low: float, high: float, *, tolerance: float = TOLERANCE) -> Spline:
        """Fit a spline within the tolerance over [low, high], low < high.

        Outside of it, too, if both ends lie beyond the reach of the curve. Where all of the range lies beyond the reach on one side, it is
        one line, the asymptote.
        """
        reach = (self._reach(-1, self.left, tolerance / 4), self._reach(1, self.right, tolerance / 4))
        if self.left and high <= -reach[0]:
            return Spline((), *((part,) for part in self.left))
        if self.right and low >= reach[1]:
            return Spline((), *((part,) for part in self.right))
        start, stop = max(low, -reach[0]), min(high, reach[1])
        allowed = (lambda end: tolerance * np.maximum(1.0, self.function(end))) if self.relative else tolerance
        spline = fit(self.function, start, stop, tolerance=allowed, breaks=self.breaks)
        if self.left and start == -reach[0]:
            spline = spline.before(self.left, start)
        return spline.after(self.right, stop) if self.right and stop == reach[1] else spline

    def slope(self, low: float, high: float) -> Spline:
        """Return a spline of the derivative within `TOLERANCE` over [low, high]; it may jump at the breaks.

        Raises:
            ValueError: it needs too many pieces.
        """
        ends = (low, *sorted(self.breaks), high)
        level = [None if line is None else (0.0, line[0]) for line in (self.left, self.right)]
        knots: list[float] = []
        slopes: list[float] = []
        offsets: list[float] = []
        for start, stop in itertools.pairwise(ends):
            outer = level[0] if start == low else None, level[1] if stop == high else None
            part = Curve(_measured(self.function, start, stop), *outer).spline(start, stop)
            knots += [start, *part.knots]
            slopes += part.slopes
            offsets += part.offsets
        return Spline(tuple(knots[1:]), tuple(slopes), tuple(offsets))

    def _reach(self, side: int, asymptote: tuple[float, float] | None, tolerance: float) -> float:
        """From where on the curve is its asymptote within the tolerance: searched on multiples of 1/8, coarser ones far from 0.

        A stretched curve (CELU(alpha=20), a wide threshold) comes near its asymptote far from 0: the search goes on, each time twice as
        far, until nothing in the outer half was off. Infinite if that is never so.
        """
        if asymptote is None:
            return math.inf
        for doubling in range(SEARCHES):
            step = 0.125 * 2.0**doubling
            x = np.arange(0, 512) * step
            far = np.abs(self.function(side * x) - asymptote[0] * side * x - asymptote[1]) > tolerance
            if not far[256:].any():
                return float(x[far].max(initial=0.0)) + step
        return math.inf


def _measured(function: Function, low: float, high: float) -> Function:
    """Return the slope of a function between two breaks, measured inside."""

    def slope(x: Real) -> Real:
        inside = np.clip(x, low + 2 * TINY, high - 2 * TINY)
        return (function(inside + TINY) - function(inside - TINY)) / (2 * TINY)

    return slope


def _sigmoid(x: Real) -> Real:
    y: Real = 0.5 + 0.5 * np.tanh(x / 2)
    return y


def _erf(x: Real) -> Real:
    return np.vectorize(math.erf, otypes=[np.float64])(x)  # type: ignore[no-any-return, unused-ignore]


def _softplus(x: Real) -> Real:
    y: Real = np.logaddexp(0.0, x)
    return y


def _gelu(x: Real) -> Real:
    return x * (1 + _erf(x / math.sqrt(2))) / 2


def _gelu_tanh(x: Real) -> Real:
    y: Real = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return y


def _elu(alpha: float, scale: float = 1.0, stretch: float = 1.0) -> Curve:
    def function(x: Real) -> Real:
        return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / stretch))

    return Curve(function, (0.0, -scale * alpha), (scale, 0.0), (0.0,), steep=max(scale, abs(scale * alpha / stretch)))


def _clipped(x: Real) -> Real:
    return np.clip(x / 6 + 0.5, 0.0, 1.0)


def _soft_shrink(threshold: float) -> Curve:
    def function(x: Real) -> Real:
        y: Real = np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)
        return y

    return Curve(function, (1, threshold), (1, -threshold), (-threshold, threshold))


def _squareplus(b: float) -> Curve:
    return Curve(lambda x: (x + np.sqrt(x * x + b)) / 2, None, None)


CURVES: dict[str, Curve] = {
    "exponential": Curve(np.exp, (0, 0), None, relative=True),
    "erf": Curve(_erf, (0, -1), (0, 1)),
    "softsign": Curve(lambda x: x / (1 + np.abs(x)), None, None, (0.0,)),
    "squareplus": _squareplus(4.0),
    "tanh_shrink": Curve(lambda x: x - np.tanh(x), (1, 1), (1, -1)),
    "soft_shrink": _soft_shrink(0.5),
    "sparse_plus": Curve(lambda x: np.where(x >= 1, x, np.maximum(x + 1, 0) ** 2 / 4), (0, 0), (1, 0), (-1.0, 1.0)),
    "sparse_sigmoid": Curve(lambda x: np.clip((x + 1) / 2, 0.0, 1.0), (0, 0), (0, 1), (-1.0, 1.0)),
    "sigmoid": Curve(_sigmoid, (0, 0), (0, 1), of_value=(0, 1, -1)),
    "tanh": Curve(np.tanh, (0, -1), (0, 1), of_value=(1, 0, -1)),
    "gelu": Curve(_gelu, (0, 0), (1, 0)),
    "silu": Curve(lambda x: x * _sigmoid(x), (0, 0), (1, 0)),
    "softplus": Curve(_softplus, (0, 0), (1, 0)),
    "mish": Curve(lambda x: x * np.tanh(_softplus(x)), (0, 0), (1, 0)),
    "elu": _elu(1.0),
    "selu": _elu(SELU_ALPHA, SELU_SCALE),
    "celu": _elu(1.0),
    "hard_sigmoid": Curve(_clipped, (0, 0), (0, 1), (-3.0, 3.0)),
    "hard_silu": Curve(lambda x: x * _clipped(x), (0, 0), (1, 0), (-3.0, 3.0)),
    "hard_tanh": Curve(lambda x: np.clip(x, -1.0, 1.0), (0, -1), (0, 1), (-1.0, 1.0)),
    "log_sigmoid": Curve(lambda x: -_softplus(-x), (1, 0), (0, 0)),
}
CURVES["swish"], CURVES["hard_swish"] = CURVES["silu"], CURVES["hard_silu"]


def curve_of(activation: Any, name: str) -> Curve | None:
    """Return the curve of an activation: a function of `keras.activations`, or an activation layer with its settings."""
    if name == "ELU":
        return _elu(float(activation.alpha))
    if name == "CELU":
        return _elu(float(activation.alpha), stretch=float(activation.alpha))
    if name == "soft_shrink":
        return _soft_shrink(float(getattr(activation, "threshold", 0.5)))
    if name == "squareplus":
        return _squareplus(float(getattr(activation, "b", 4.0)))
    if name == "gelu_tanh":
        return Curve(_gelu_tanh, (0, 0), (1, 0))
    return CURVES.get(name)
