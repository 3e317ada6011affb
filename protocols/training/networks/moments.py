"""Mean and square of gradients on shares, and one divided by the root of the other: what Adam needs.

A second moment of gradients of 10^-6 vanishes in 16 fractional bits. Here a gradient g and its mean M have `MEAN` fractional bits, its
square V has `SQUARE`: sqrt(V) is told apart from 2^-19 on. With V = X 4^-k, 1 <= X < 4,

    M / sqrt(V) = (M 2^k) / sqrt(X),

so V is moved up by 26, 14, 6, 4 and 2 bits wherever it is small enough, and M by half as many: five comparisons of a few bits, instead of
one for each bit. 1 / sqrt(X) is a polynomial of degree two and one step of Newton (the idea of Keller and Sun, 2021, arXiv:2107.00501,
section 4, who take the top bit from a bit decomposition).

**Range**: |g| < 128, and so is sqrt(V); `window.py` finds what is beyond. **Error** of the quotient: relative 0.0015, and sqrt(V) below
2^-19 counts as about 2^-20, so that nothing is divided by zero.
"""

from __future__ import annotations

import math

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open

MEAN = 24
"""Fractional bits of a gradient and of its mean."""

SQUARE = 40
"""Fractional bits of the mean of squares."""

GRADIENT = 7
"""Gradients lie within +-2^GRADIENT: their squares have 2 `MEAN` fractional bits and must stay below 2^62."""

TOP = SQUARE + 2 * GRADIENT
"""sqrt(V) < 2^GRADIENT: V is an integer below 2^TOP."""

MOVES = (26, 14, 6, 4, 2)
"""Together TOP - 2: what is at least 2^2 ends between 2^(TOP - 2) and 2^TOP."""

SLACK = 6
"""Bits below a threshold that a comparison looks at: it is met to within one part in 2^SLACK."""

UNIT = 20
"""Fractional bits of X and 1 / sqrt(X)."""

ROOT = (1.3359768, -0.4109165, 0.0512437)
"""Coefficients of 1 / sqrt(X), for X from 1 to 4 within 2.5 % of it."""

QUOTIENT = 2 * UNIT
"""Fractional bits of M / sqrt(V)."""


def fraction(x: float, bits: int = 8) -> tuple[int, int]:
    """x > 0 as q 2^-s, q below 2^bits."""
    shift = bits - 1 - math.floor(math.log2(x))
    return round(x * 2.0**shift), shift


def scaled(build: Builder, x: int, q: int, drop: int) -> int:
    """q 2^-drop times a share. Rounds: 1. Where `drop` is small both are made larger."""
    more = max(0, 8 - drop)
    return build(Truncate(build(Combine((x,), (q << more,))), drop + more, 63 - drop - more))


def reduced(build: Builder, x: int, drop: int) -> int:
    """Round a share to `drop` fractional bits less, at least 1. Rounds: 1."""
    return build(Truncate(x, drop, 63 - drop))


def moved(build: Builder, old: int, new: int, rate: float) -> int:
    """old + rate (new - old), 0 < rate <= 1. Rounds: 1."""
    q, shift = fraction(rate)
    return build(Combine((old, scaled(build, build(Combine((new, old), (1, -1))), q, shift)), (1, 1)))


def squared(build: Builder, gradient: int) -> int:
    """Square an affine gradient, as V has it. Rounds: 1."""
    return scaled(build, build(Multiply(gradient, gradient)), 1, 2 * MEAN - SQUARE)


def larger(build: Builder, x: int, y: int) -> int:
    """Write the larger of two shares between 0 and 2^TOP. Rounds: 3."""
    difference = build(Truncate(build(Combine((x, y), (2, -2))), 1, TOP + 2))
    return build(Combine((y, build(Multiply(build(Sign(difference)), difference))), (1, 1)))


def divided(build: Builder, mean: int, square: int, *, refined: bool = False) -> int:
    """M / sqrt(V) for shares of M and V; a share with `QUOTIENT` fractional bits. Rounds: 3 a move and 5: 20, 23 if it is refined."""
    for move in MOVES:
        wire = build(Open(square))
        beyond = build(Combine((wire,), (1,), -(1 << (TOP - move))))
        over = build(Sign(beyond, move + SLACK + 2, drop=TOP - move - SLACK))
        square = _unless(build, over, wire, move)
        mean = _unless(build, over, build(Open(mean)), move // 2)
    x = build(Truncate(square, TOP - 2 - UNIT, 63 - (TOP - 2 - UNIT)))
    # sum(MOVES) / 2 = 26 bits have been added to M by the way, and sqrt(V) was 2^(TOP / 2 - 1) where X was 1.
    drop = MEAN + TOP // 2 - 1 - SQUARE // 2 - UNIT
    numerator = build(Truncate(mean, drop, 63 - drop))
    return build(Multiply(numerator, inverse_root(build, x, steps=1 + refined)))


def _unless(build: Builder, bit: int, wire: int, bits: int) -> int:
    """Write a wire where `bit` is 1, 2^bits times as much where it is 0: 2^bits x - (2^bits - 1) D x. Rounds: 0."""
    return build(Combine((wire, build(Multiply(bit, wire))), (1 << bits, 1 - (1 << bits))))


def inverse_root(build: Builder, x: int, *, steps: int = 1) -> int:
    """1 / sqrt(X) for an affine 1 <= X <= 4 with `UNIT` fractional bits, relative error 0.001; below 1 it stays below 2.1. Rounds: 4.

    y = c_0 + c_1 X + c_2 X^2, then y <- y (3 - X y^2) / 2: each of the `steps` more takes 3 rounds; after two of them the error is 10^-5.
    """
    last = 18  # fractional bits of c_2
    factors = (round(ROOT[2] * 2**last), round(ROOT[1] * 2 ** (last + UNIT)))
    total = build(Combine((build(Multiply(x, x)), x), factors, round(ROOT[0] * 2 ** (last + 2 * UNIT))))
    y = build(Truncate(total, last + UNIT, 63 - last - UNIT))
    for _ in range(steps):
        square = scaled(build, build(Multiply(y, y)), 1, UNIT)
        h = scaled(build, build(Multiply(square, x)), 1, UNIT)
        grown = build(Combine((y, build(Multiply(y, h))), (3 << UNIT, -1)))
        y = build(Truncate(grown, UNIT + 1, 62 - UNIT))
    return y
