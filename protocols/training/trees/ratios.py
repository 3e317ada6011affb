"""Quotients on shares, to 2^-28 of themselves: G / d for sums G and d with `BITS` fractional bits, 0 <= d <= 1.

d is multiplied by a power of two v after which it is from 1/2 to 1 (one comparison for each power). Then 1 / (d v) is y0 = c - 2 d v with
c = 4 sqrt(3) - 4, whose error e = 1 - d v y0 is at most 0.072, times (1 + e) (1 + e^2) (1 + e^4) (Goldschmidt, 1964): what is left is e^8.

Where d is below `least`, d v may be anything from 0 to 1/2: y0 and all factors are then still at most 24, and nothing wraps around, but
the quotient is wrong: who asks for it takes G = 0 there.
"""

from __future__ import annotations

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.trees.units import BITS, VALUE

GUESS = 28
"""Fractional bits of reciprocals."""

CENTRE = 4 * 3**0.5 - 4
MARGIN = 8
"""Bits below the smallest power of two that are looked at: what lies within 2^-MARGIN of a power may be taken for either side."""


def powers(least: int) -> int:
    """Return how many powers of two lie between `least` and 1."""
    return max(1, BITS + 1 - least.bit_length())


def normaliser(build: Builder, d: int, least: int) -> int:
    """v for which `d` v is from 1/2 to 1 wherever d is from `least` to 1; a wire. v <= 2^powers(least). Rounds: 4."""
    count = powers(least)
    drop = max(0, BITS - count - MARGIN)
    knots = tuple(1 << (BITS - j - drop) for j in range(count, 0, -1))
    steps = tuple(1 << j for j in range(count, -1, -1))
    return build(Open(build(Piecewise(d, drop, BITS - drop + 3, knots, (0,) * len(steps), steps))))


def reciprocal(build: Builder, normal: int) -> int:
    """1 / x for a wire from 1/2 to 1 with `BITS` fractional bits; affine with `GUESS` of them. Rounds: 4."""
    y = build(Combine((normal,), (-2,), round(CENTRE * 2**BITS)))
    product = build(Multiply(normal, y))
    drop = 2 * BITS - GUESS
    e = build(Truncate(build(Combine((product,), (-1,), 1 << (2 * BITS))), drop, 63 - drop))
    y = _grown(build, y, e, BITS)
    for _ in range(2):
        e = build(Truncate(build(Multiply(e, e)), GUESS, 63 - GUESS))
        y = _grown(build, y, e, GUESS)
    return y


def _grown(build: Builder, y: int, e: int, drop: int) -> int:
    """Y (1 + e), with `GUESS` fractional bits where y has `drop`."""
    return build(Truncate(build(Combine((build(Multiply(y, e)), y), (1, 1 << GUESS))), drop, 63 - drop))


def quotient(build: Builder, g: int, y: int, v: int, least: int, clip: int) -> int:
    """G / d, cut at +-2^clip, for wires `g` and `v` and y = 1 / (d v); affine or a share with `VALUE` fractional bits.

    `clip` 0 means that |G| <= d: then nothing is cut, and the share has `BITS` fractional bits. Rounds: 1, or 4.
    """
    near = build(Truncate(build(Multiply(g, y)), GUESS, 63 - GUESS))  # G / d v, at most 2
    ratio = build(Multiply(near, v))
    if clip == 0:
        return ratio
    drop, edge = BITS - VALUE, 1 << (clip + VALUE)
    window = max(powers(least) + BITS + 1 - drop + 3, clip + VALUE + 2)  # where `least` is near 1, few ratios are cut
    return build(Piecewise(ratio, drop, window, (-edge, edge), (0, 1, 0), (-edge, 0, edge)))


def valued(build: Builder, ratio: int, clip: int) -> int:
    """Round what `quotient` gives to an affine value with `VALUE` fractional bits. Rounds: 1."""
    if clip:
        return build(Open(ratio))
    drop = BITS - VALUE
    return build(Truncate(ratio, drop, 63 - drop))
