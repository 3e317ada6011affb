"""The activations of Keras that are curves, with their derivatives, as pieces of straight lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from protocols.errors import UnsupportedLayer
from protocols.lowering.nodes.curves import CURVES, TOLERANCE, Curve
from protocols.lowering.nodes.splines import Function, Real, Spline, fit
from protocols.training.networks.functions import START
from protocols.training.networks.layers import LARGEST
from protocols.training.networks.nonlinear import CurveLayer, Pieces

TINY = 2.0**-12
"""Half of the distance over which a derivative is measured."""
OF_OUTPUT = ((CURVES["tanh"], (1, 0, -1)), (CURVES["sigmoid"], (0, 1, -1)))
"""Derivatives that are polynomials of the function: constant, factor of y, factor of y^2."""


def curved(inputs: tuple[int, ...], curve: Curve, name: str) -> CurveLayer:
    """Return the node of an activation.

    Raises:
        UnsupportedLayer: the activation needs too many pieces within the range of activations. It names the layer.
    """
    if curve.relative:
        raise UnsupportedLayer(f"{name} has an activation that grows beyond any bound: it is not trained on shares")
    try:
        known = next((slope for one, slope in OF_OUTPUT if one is curve), None)
        return CurveLayer(inputs, _pieces(curve.spline(-LARGEST, LARGEST)), known or _pieces(_derivative(curve)))
    except ValueError:
        raise UnsupportedLayer(f"{name} has an activation that is too steep, or bends too often, to be trained on shares") from None


def _pieces(spline: Spline) -> Pieces:
    """Return the pieces whose ends fixed point tells apart."""
    ends = (*spline.knots, math.inf)
    kept = [
        piece
        for piece, end in enumerate(ends[1:], 1)
        if round(ends[piece - 1] * 2**START) < (end if end == math.inf else round(end * 2**START))
    ]
    knots = tuple(spline.knots[piece - 1] for piece in kept)
    return Pieces(knots, *((line[0], *(line[piece] for piece in kept)) for line in (spline.slopes, spline.offsets)))


def _derivative(curve: Curve) -> Spline:
    """Fit a spline to the derivative, which may jump at the breaks of a curve."""
    ends = (-LARGEST, *sorted(curve.breaks), LARGEST)
    parts = []
    for at, (low, high) in enumerate(itertools.pairwise(ends)):
        slope = _measured(curve.function, low, high)
        left, right = (None if line is None else (0.0, line[0]) for line in (curve.left, curve.right))
        if len(ends) == 2:
            parts.append(Curve(slope, left, right).spline(low, high))
        elif at == 0:
            parts.append(Curve(slope, left, None).spline(low, high))
        elif at == len(ends) - 2:
            parts.append(Curve(slope, None, right).spline(low, high))
        else:
            parts.append(fit(slope, low, high, tolerance=TOLERANCE))
    return _joined(parts, ends[1:-1])


def _measured(function: Function, low: float, high: float) -> Function:
    """Measure the slope of a function between two breaks, inside."""

    def slope(x: Real) -> Real:
        inside = np.clip(x, low + 2 * TINY, high - 2 * TINY)
        return (function(inside + TINY) - function(inside - TINY)) / (2 * TINY)

    return slope


def _joined(parts: Sequence[Spline], breaks: Sequence[float]) -> Spline:
    whole = parts[0]
    for part, at in zip(parts[1:], breaks, strict=True):
        whole = Spline((*whole.knots, at, *part.knots), (*whole.slopes, *part.slopes), (*whole.offsets, *part.offsets))
    return whole
