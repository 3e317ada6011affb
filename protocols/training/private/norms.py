"""Norms on shares that are never too small: squares of numbers that cannot be large, and sums of them as floating point.

**Folded.** Outside of its window a value of a step is any ring element, and squares of ring elements wrap around. x 2^36 modulo 2^64,
truncated by 36 bits, is x itself where |x| < 2^26, and for any ring element x, and whatever its rounding does, below 3 2^26 in absolute
value: with Z' = Z + 2^62 modulo 2^64 a truncation by d = 36 gives Z' / 2^d or Z' / 2^d - 2^(64 - d), less 2^(62 - d).

**Floating.** s < 2^61 is M 2^(32 - 2 k) or less, with M from 2^27 to 2^29 and k from 0 to 24: u = 2^(2 k) is a step function of s, and s u
stays below 2^61. So a product of two norms is as precise for small ones as for large ones. All roundings are upwards.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from protocols.mpc.operations.moves import Concatenate, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION

FOLD = 36
"""Bits by which a value is moved up and back."""
FOLDED = 3.0 * 2**26
"""What is folded stays below this, as an integer, for any ring element."""
STORED = 2.0**25
"""Stored numbers lie within +-512."""

ROOM = 0.9 * 2.0**61
"""Sums of squares stay below this."""
STEP = 2
"""Bits from one power of a norm to the next."""
POWERS = 24
"""k goes from 0 to this."""
MANTISSA = 29
TERM = 14
"""Bits of the mantissa of a term, at most; it has `TERM` - 2 `STEP` at least, unless a norm is so small that k is `POWERS`."""


class Norm(NamedTuple):
    """At least as large as a sum of squares: (rows, 1), s <= (M + 1) 2^(61 - MANTISSA - STEP k) / 2^bits."""

    mantissa: int
    power: int
    bits: int


class Term(NamedTuple):
    """At least as large as a part of a squared norm: (T + 1) 2^(bits - STEP k)."""

    mantissa: int
    power: int
    bits: int


def folded(draft: StepDraft, x: int) -> int:
    """Return a value with `FRACTION` fractional bits, affine, itself within +-2^10, and bounded whatever it is. Rounds: 1."""
    more = draft.bits(x) - FRACTION
    if not 0 <= more <= FOLD:
        x, more = draft.rounded(x, None), 0
    up = 1 << (FOLD - more)
    x = x if up == 1 else draft.put(Combine((x,), (up,)), FRACTION + FOLD)
    return draft.put(Truncate(x, FOLD, 63 - FOLD), FRACTION)


def squares(draft: StepDraft, x: int, bound: float) -> Norm:
    """Return the sum of squares of each row of an affine value (rows, n) below `bound`. Rounds: 5, or 6 for many elements."""
    rows, width = draft.value(x).shape
    most = int(ROOM / bound**2)
    product = draft.put(Multiply(x, x), 2 * FRACTION)
    if width <= most:
        return floating(draft, draft.put(Sum(product, 1), 2 * FRACTION), 2 * FRACTION)
    count = -(-width // most)
    slices = [tuple(range(start, min(start + most, width))) for start in range(0, width, most)]
    parts = tuple(draft.put(Sum(draft.put(Take(product, 1, one), 2 * FRACTION), 1), 2 * FRACTION) for one in slices)
    drop = count.bit_length() + 1
    rounded = draft.put(Truncate(draft.put(Concatenate(parts, 1), 2 * FRACTION), drop, 63 - drop), 2 * FRACTION - drop)
    total = draft.put(Combine((draft.put(Sum(rounded, 1), 2 * FRACTION - drop),), (1,), count), 2 * FRACTION - drop)
    return floating(draft, draft.put(Reshape(total, (rows, 1)), 2 * FRACTION - drop), 2 * FRACTION - drop)


def floating(draft: StepDraft, s: int, bits: int) -> Norm:
    """Return a share below `ROOM` as floating point. Rounds: 5."""
    knots, flat = tuple(1 << (61 - STEP * k) for k in range(POWERS, 0, -1)), (0,) * (POWERS + 1)
    up, power = (  # of all bits of s: two functions of what was rounded apart would not always agree
        draft.put(Piecewise(s, 0, 63, knots, flat, tuple(steps)), 0)
        for steps in ([1 << (STEP * k) for k in range(POWERS, -1, -1)], range(POWERS, -1, -1))
    )
    moved = draft.put(Multiply(draft.put(Open(s), draft.bits(s)), draft.put(Open(up), 0)), draft.bits(s))
    return Norm(draft.put(Truncate(moved, 61 - MANTISSA, 2 + MANTISSA), 0), power, bits)


def term(draft: StepDraft, norm: Norm, other: Norm | None = None) -> Term:
    """Return a norm, or the product of two. Rounds: 1."""
    if other is None:
        whole = draft.put(Combine((norm.mantissa,), (1,), 1), 0)
        drop, mantissas, power, bits = MANTISSA - TERM, 1, norm.power, norm.bits
    else:
        product = draft.put(Multiply(norm.mantissa, other.mantissa), 0)
        whole = draft.put(Combine((product, norm.mantissa, other.mantissa), (1, 1, 1), 1), 0)
        drop, mantissas, bits = 2 * MANTISSA - TERM, 2, norm.bits + other.bits
        power = draft.put(Combine((norm.power, other.power), (1, 1)), 0)
    rounded = draft.put(Truncate(whole, drop, 63 - drop), 0)
    return Term(rounded, power, drop + mantissas * (61 - MANTISSA) - bits)


def powers(one: Term, clip: float, unit: int, most: int) -> tuple[int, ...]:
    """By k, what multiplies the mantissa of a term to give it in units of `clip`^2 / 2^`unit`: rounded up, and `most` at most."""
    edge = math.log2(most)
    exact = [one.bits - STEP * k + unit - 2 * math.log2(clip) for k in range(2 * POWERS + 1)]
    return tuple(most if exponent >= edge else max(1, math.ceil(2.0**exponent * (1 + 2.0**-40))) for exponent in exact)
