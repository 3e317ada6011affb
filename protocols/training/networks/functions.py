"""Functions on shares that training needs, as operations of a circuit: exp, reciprocal, softmax, sigmoid, logarithms.

All numbers have `FRACTION` fractional bits, and in between `PRECISE`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from protocols.curves.activations import CURVES, TOLERANCE
from protocols.curves.splines import Spline, fit
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.argmax import OneHotArgmax
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open

FRACTION = 16
"""f: weights, activations and gradients are multiples of 2^-f."""

WINDOW = 26
"""Activations lie within +-2^(WINDOW - 1 - FRACTION) = +-512."""

SQUARINGS = 8
"""k: e^x is (1 + u + u^2 / 2)^(2^k), u = x / 2^k."""

PRECISE = FRACTION + SQUARINGS
START = 12
"""Fractional bits of the first guess of a reciprocal, and of what a spline looks at."""

SPLINE = 2 * FRACTION
"""Fractional bits of what a spline gives."""


def exp(build: Builder, x: int) -> int:
    """e^x for a share with `FRACTION` fractional bits, -512 < x <= 0: (1 + u + u^2 / 2)^(2^k), u = x / 2^k; affine with `PRECISE`.

    u has its last digit where x has its own, so nothing is rounded at first. Each factor leaves out u^3 / 6, which is a relative
    |x|^3 / (6 4^k) of the result: 4e-6 at most. Rounding adds 2^(k - PRECISE) at most. Down to -512 a factor is at most 1; near there it
    is near 1 again, and the result is e^(-512 - x).

    Rounds: 2 + k.
    """
    u = build(Open(x))
    one = 2 * PRECISE + 1
    factor = build(Combine((u, build(Multiply(u, u))), (1 << (PRECISE + 1), 1), 1 << one))
    power = build(Truncate(factor, one - PRECISE, 63 - one + PRECISE))
    for _ in range(SQUARINGS):
        power = build(Truncate(build(Multiply(power, power)), PRECISE, 63 - PRECISE))
    return power


def reciprocal(build: Builder, x: int, greatest: int) -> tuple[int, int]:
    """y0 and p with 1 / x = y0 p for a share with `PRECISE` fractional bits, 1 <= x <= `greatest` < 2^(START + 1).

    Goldschmidt, 1964: with y0 = 2 / (greatest + 1) and e = 1 - y0 x, |e| < 1, 1 / x = y0 (1 + e) (1 + e^2) (1 + e^4) ...; the number
    n of factors is such that the relative error |e|^(2^n) is below 2^-14.

    Rounds: 1 + n; 7 for `greatest` = 10.

    Returns:
        y0 times 2^START, an integer, and the position of p, affine with `PRECISE` fractional bits.
    """
    y0 = 2 * (1 << START) // (greatest + 1)  # not more: |e| < 1
    largest = max(abs(1 - x * y0 / (1 << START)) for x in (1, greatest))
    factors = max(1, math.ceil(math.log2(14 * math.log(2) / -math.log(largest))))
    one = 1 << (PRECISE + START)
    e = build(Truncate(build(Combine((x,), (-y0,), one)), START, 63 - START))
    p = build(Truncate(build(Combine((x,), (-y0,), 2 * one)), START, 63 - START))
    for _ in range(factors - 1):
        e = build(Truncate(build(Multiply(e, e)), PRECISE, 63 - PRECISE))
        grown = build(Combine((build(Multiply(p, e)), p), (1, 1 << PRECISE)))  # p (1 + e)
        p = build(Truncate(grown, PRECISE, 63 - PRECISE))
    return y0, p


class SoftmaxValues(NamedTuple):
    """What `softmax` gives, as positions.

    Attributes:
        probabilities: affine with `FRACTION` fractional bits.
        largest: one-hot bits of the largest logit.
        top: the largest logit, (rows, 1), a share.
        total: the sum of e^(logit - top), (rows, 1), a share with `PRECISE` fractional bits.
    """

    probabilities: int
    largest: int
    top: int
    total: int


def softmax(build: Builder, x: int, classes: int) -> SoftmaxValues:
    """Write the softmax of affine logits (rows, classes) with `FRACTION` fractional bits, no two of a row further apart than 512.

    The largest logit is subtracted (one-hot bits times logits), then exp, then one reciprocal a row. The absolute error of a probability
    is below 2^-12.

    Rounds: 23 for 10 classes.
    """
    largest = build(OneHotArgmax(x, WINDOW))
    top = build(Sum(build(Multiply(largest, x)), 1))
    powers = exp(build, build(Combine((x, top), (1, -1))))
    total = build(Sum(powers, 1))
    y0, p = reciprocal(build, total, classes)
    drop = PRECISE + PRECISE + START - FRACTION
    probabilities = build(Truncate(build(Combine((build(Multiply(powers, p)),), (y0,))), drop, 63 - drop))
    return SoftmaxValues(probabilities, largest, top, total)


def spline(x: int, pieces: Spline, bits: int = FRACTION, window: int = WINDOW) -> Piecewise:
    """Make a piecewise linear function of a share with `bits` fractional bits, |x| < 2^(window - 1 - FRACTION); `SPLINE` fractional bits.

    Rounds: 3. Beside the error of the pieces, rounding x and the integers adds less than 2^-12 for slopes up to 1.
    """
    end = 1 << (window - 1 - FRACTION + START)
    return Piecewise(x, bits - START, window - FRACTION + START + 1, *pieces.integers(2.0**-START, SPLINE - START, ends=(-end, end)))


def sigmoid(build: Builder, x: int) -> int:
    """1 / (1 + e^-x) within 2^-10 for a share with `FRACTION` fractional bits, |x| < 512; a share with `SPLINE`. Rounds: 3."""
    return build(spline(x, CURVES["sigmoid"].spline(-512, 512)))


def softplus(build: Builder, x: int) -> int:
    """log(1 + e^x) within 2^-10 for a share with `FRACTION` fractional bits, |x| < 512; a share with `SPLINE`. Rounds: 3."""
    return build(spline(x, CURVES["softplus"].spline(-512, 512)))


def logarithm(build: Builder, x: int, greatest: int) -> int:
    """log x within 2^-10 for a share with `PRECISE` fractional bits, 1 <= x <= `greatest`; a share with `SPLINE`. Rounds: 3."""
    return build(spline(x, fit(np.log, 1.0, float(greatest), tolerance=TOLERANCE), PRECISE))
