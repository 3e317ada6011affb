"""The factor min(1, C / norm) of each example, on shares, and never more than that.

p = norm^2 / C^2 is summed of its terms in units of 2^-24, each rounded up. 1 / sqrt(p) is convex, so its tangents lie below it: a
piecewise linear function of 1.2-fold steps is at most 0.4 % less, up to p = 2^28; from there on steps of 2^(1/2) are up to 16 % less. An
example from about 46,000 C on counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from protocols.errors import ModelError
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.draft import StepDraft
from protocols.training.private.norms import POWERS, STEP, TERM, Term, powers

UNIT = 24
"""Fractional bits of p."""
MOST = 60
"""p stays below 2^MOST, as an integer."""
SEEN = 12
"""Fractional bits of p that the function looks at."""
FACTOR = 60
"""Fractional bits of what it gives."""
RATIO, COARSE = 1.2, math.sqrt(2.0)
STRAIGHT = 2.0**28
"""Up to this p there are tangents."""
SURE = 2.0**20
"""By so much of 2^FACTOR a line is lowered, for float64."""
LARGEST_LOSS = 0.125
"""Of the clip norm, given to roundings at most."""


class Line(NamedTuple):
    """Pieces of a function: what `Piecewise` takes."""

    knots: tuple[int, ...]
    slopes: tuple[int, ...]
    offsets: tuple[int, ...]


def ends(terms: int) -> float:
    """Return p from which an example counts for nothing, for so many terms: half of what the smallest mantissa makes of a capped power."""
    return 2.0 ** (MOST - 2 * STEP - 1 - UNIT - _spread(terms))


def _spread(terms: int) -> int:
    return max(0, terms - 1).bit_length()


def factor(draft: StepDraft, terms: Sequence[Term], clip: float, digits: int, lost: float) -> int:
    """Return (1 - lost) min(1, C / norm) or less for each example, (rows, 1), affine with `digits` fractional bits. Rounds: 9.

    Rounding it to so many digits may add 2^-digits, but to 0: see `worst`.

    Raises:
        ModelError: C is so small that norms as small cannot be told apart.
    """
    cap = (1 << (MOST - TERM - _spread(len(terms)))) - 1
    parts: list[int] = []
    for one in terms:
        table = powers(one, clip, UNIT, cap)
        if table[POWERS] == cap:  # a capped power with the mantissa of a norm that is next to nothing
            raise ModelError(f"max_grad_norm is too small for fixed point: norms of {clip:.3g} cannot be told from 0 there")
        knots = tuple(k for k in range(1, len(table)) if table[k] != table[k - 1]) or (1,)
        offsets = (table[0], *(table[k] for k in knots))
        scale = draft.put(Open(draft.put(Piecewise(one.power, 0, 8, knots, (0,) * len(offsets), offsets), 0)), 0)
        parts += [draft.put(Multiply(one.mantissa, scale), 0), scale]
    p = draft.put(Combine(tuple(parts), (1,) * len(parts)), UNIT)
    line = inverse_root(ends(len(terms)), lost)
    drop = UNIT - SEEN
    y = draft.put(Piecewise(p, drop, 63 - drop, *line), FACTOR)
    return draft.put(Truncate(y, FACTOR - digits, 63 - FACTOR + digits), digits)


def worst(terms: int, digits: int) -> float:
    """Return what rounding a factor can add to an example's share of C: one digit times the longest gradient that counts."""
    return math.sqrt(ends(terms)) * 2.0**-digits


@lru_cache(maxsize=16)
def inverse_root(end: float, lost: float) -> Line:
    """(1 - lost) min(1, 1 / sqrt(p)) or less, 0 from `end` on, of t = p 2^SEEN rounded down or up; times 2^FACTOR.

    p may be just below (t + 1) 2^-SEEN, so what a line must stay below is g(t) = A / sqrt(t + 1).
    """
    one, whole = 1 << SEEN, (1.0 - lost) * 2.0**FACTOR
    height = whole * 2.0 ** (SEEN / 2)
    knots, slopes, offsets = [one - 1], [0], [int(whole - SURE)]
    while (start := knots[-1]) < end * one:
        straight = start < STRAIGHT * one
        stop = min(math.ceil(end * one), max(start + 1, int(start * (RATIO if straight else COARSE))))
        middle = math.sqrt((start + 1.0) * stop)
        slope = -int(height / 2 * middle**-1.5) if straight else 0
        touch = (height / 2 / -slope) ** (2 / 3) - 1 if slope else stop - 1.0  # where g is nearest to the line
        touch = min(max(touch, start), stop - 1.0)
        slopes.append(slope)
        offsets.append(int(height / math.sqrt(touch + 1) - slope * touch - SURE))
        knots.append(stop)
    return Line(tuple(knots), (*slopes, 0), (*offsets, 0))
