"""Functions on shares that training needs, as operations of a circuit: exp, reciprocal, softmax, sigmoid, logarithms.

All numbers have `FRACTION` fractional bits, and in between `PRECISE`.
"""

from __future__ import annotations

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

PRECISE = FRACTION + 8
"""Fractional bits of 1 + x / 256, which needs no rounding."""

RATES = (3571 / 2048, 43 / 32, 37 / 32, 21 / 32, 9 / 8, 1, 1)
"""a of each step of `exp`. They have few bits: the more, the sooner a y^2 wraps around the ring, and what is beyond -512 is found by how
large it becomes."""

START = 12
"""Fractional bits of the first guess and of the rates of a reciprocal, and of what a spline looks at."""

FACTOR = 16
"""Fractional bits of the product of the rates of a reciprocal."""

SPLINE = 2 * FRACTION
"""Fractional bits of what a spline gives."""


def risen(build: Builder, y: int, rate: float) -> int:
    """1 + a (y^2 - 1) for an affine y with `PRECISE` fractional bits and a `rate` a with `START` at most; affine. Rounds: 1."""
    q, one = rate.as_integer_ratio()
    bits = 2 * PRECISE + one.bit_length() - 1
    square = build(Multiply(y, y))
    grown = square if q == one else build(Combine((square,), (q,), (one - q) << (2 * PRECISE)))
    return build(Truncate(grown, bits - PRECISE, 63 - bits + PRECISE))


def exp(build: Builder, x: int) -> int:
    """e^x for a share with `FRACTION` fractional bits, -512 < x <= 0; affine with `PRECISE`.

    y <- 1 + a (y^2 - 1) for each a of `RATES`, from y = 1 + x / 256. With a = 1 eight times it were (1 + x / 256)^256, off by 0.0013.
    These seven, found by search, are as near to e^x for -470 <= x: within 2.9e-5, and 3e-7 below -14, where many may be summed. Rounding
    adds 2^-16 at most. The result is even in x + 256: near -512 it is e^(-512 - x), and it grows beyond.

    Rounds: 8.
    """
    y = build(Open(build(Combine((x,), (1,), 1 << PRECISE))))
    for rate in RATES:
        y = risen(build, y, rate)
    return y


def quotients(build: Builder, xs: int, total: int, greatest: int, *, early: bool) -> int:
    """x / t for affine `xs` (rows, n) from 0 to 1 and a share `total` (rows, 1), 1 <= t <= `greatest` < 2^(START + 1), both `PRECISE`.

    Goldschmidt, 1964: with y0 = 2 / (greatest + 1) and e = 1 - y0 t, |e| <= d < 1, 1 / t = y0 (1 + e) (1 + e^2) (1 + e^4) ... . Here e
    becomes 1 + a (e^2 - 1) instead of e^2, which also is 1 where t is 0, so that 1 / t = y0 a_1 (1 + e_0) ... a_n (1 + e_{n-1}) but for
    a relative e_n; with a = 2 / (2 - d^2) it is within d^2 / (2 - d^2) (polynomials of Chebyshev). n is such that |e_n| is below 2^-20:
    with 2^-14 the gradients of a logistic regression never fell below its `tol`.

    Args:
        build: where operations go.
        xs: what is divided.
        total: what it is divided by.
        greatest: what that is at most.
        early: whether all of `xs` are multiplied by each factor, which saves a round and sends n - 1 times 8 bytes more for each.

    Rounds: 1 + n, 1 more if not `early`; n = 5 for `greatest` = 10.

    Returns:
        The position of quotients, affine with `FRACTION` fractional bits.
    """
    y0 = 2 * (1 << START) // (greatest + 1)  # not more: |e| < 1
    rates, most = _rates(max(abs(1 - t * y0 / (1 << START)) for t in (1, greatest)))
    one, c = 1 << (PRECISE + START), round(most * 2**FACTOR)
    e = build(Truncate(build(Combine((total,), (-y0,), one)), START, 63 - START))
    p = build(Truncate(build(Combine((total,), (-y0 * c,), 2 * one * c)), START + FACTOR, 63 - START - FACTOR))
    if early:
        p = build(Multiply(xs, p))
    for rate in rates:
        p = p if build.value(p).kind == "affine" else build(Truncate(p, PRECISE, 63 - PRECISE))
        e = risen(build, e, rate)
        p = build(Combine((build(Multiply(p, e)), p), (1, 1 << PRECISE)))  # p (1 + e)
    if not early:
        p = build(Multiply(xs, build(Truncate(p, PRECISE, 63 - PRECISE))))
    drop = 2 * PRECISE + START - FRACTION
    return build(Truncate(build(Combine((p,), (y0,))), drop, 63 - drop))


def _rates(edge: float) -> tuple[list[float], float]:
    """Return a_1 to a_{n-1}, and the product of all n, where |e_0| is at most `edge`."""
    rates: list[float] = []
    product = 1.0
    while True:
        exact = 2 / (2 - edge**2)
        if edge**2 / (2 - edge**2) < 2.0**-20:
            return rates, product * exact
        rates.append(round(exact * 2**START) / 2**START)
        product *= rates[-1]
        edge = max(abs(1 - rates[-1]), abs(1 - rates[-1] * (1 - edge**2)))


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

    The largest logit is subtracted (one-hot bits times logits), then exp, then quotients by the sum. The absolute error of a probability is
    below 2^-12.

    Rounds: 19 for 10 classes.
    """
    largest = build(OneHotArgmax(x, WINDOW))
    top = build(Sum(build(Multiply(largest, x)), 1))
    powers = exp(build, build(Combine((x, top), (1, -1))))
    total = build(Sum(powers, 1))
    return SoftmaxValues(quotients(build, powers, total, classes, early=True), largest, top, total)


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
