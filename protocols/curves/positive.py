"""1 / x and 1 / sqrt(x) for positive x, to a relative error: about seven knots for each factor of two.

Made of operations that are rounded in the same way everywhere: all parties find the same pieces.
"""

from __future__ import annotations

import numpy as np

from protocols.curves.splines import Function, Real

RELATIVE = 2.0**-11
"""The largest error, relative to the value."""


def inverse(x: Real) -> Real:
    """1 / x."""
    y: Real = 1 / x
    return y


def inverse_root(x: Real) -> Real:
    """1 / sqrt(x)."""
    y: Real = 1 / np.sqrt(x)
    return y


def relative(function: Function, error: float = RELATIVE) -> Function:
    """Return the tolerance of a function above 0 at the ends of a piece: a part of its value."""
    return lambda end: error * function(end)
