"""Clipping of gradients, and what norms it takes: each element, or all elements of a weight, or of all weights, by one factor.

Norms are below 2^`moments.GRADIENT`, as gradients are: squares are summed with 2 `MEAN` fractional bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.wires import Open
from protocols.training.networks.moments import GRADIENT, MEAN, QUOTIENT, SQUARE, divided, larger, reduced

LEAST, MOST = 2.0**-12, 2.0 ** (GRADIENT - 1)
"""What a gradient can be clipped to."""


class Clip(msgspec.Struct, frozen=True):
    """How gradients are clipped, as in Keras.

    Attributes:
        by: "value": each element lies within +-`to`; "norm": each weight's gradient g becomes g to / max(|g|, to); "global norm": those of
            all weights, as one vector, do.
        to: from `LEAST` to `MOST`.
    """

    by: Literal["value", "norm", "global norm"]
    to: float

    def __post_init__(self) -> None:
        if not LEAST <= self.to <= MOST:
            raise ModelError(f"gradients are clipped to {self.to:g}: in fixed point that must be between {LEAST:g} and {MOST:g}")

    @property
    def norms(self) -> bool:
        """Whether norms are taken."""
        return self.by != "value"


def clipped(build: Builder, clip: Clip, row: int, sizes: Sequence[int]) -> int:
    """Clip an affine row of all gradients; `sizes` are those of the weights. Rounds: 4 by value, 30 by norm."""
    if not clip.norms:
        edge = round(clip.to * 2**MEAN)
        inside = build(Piecewise(row, 0, GRADIENT + MEAN + 3, (-edge, edge), (0, 1, 0), (-edge, 0, edge)))
        return build(Open(inside))
    groups = sizes if clip.by == "norm" else [sum(sizes)]
    squares = build(Multiply(row, row))
    starts = [sum(groups[:count]) for count in range(len(groups))]
    sums = build(Row(tuple(build(Sum(build(Piece(squares, start, (size,))))) for start, size in zip(starts, groups, strict=True))))
    factors = limited(build, reduced(build, sums, 2 * MEAN - SQUARE), clip.to)
    parts = []
    for place, (start, size) in enumerate(zip(starts, groups, strict=True)):
        parts.append(build(Multiply(build(Piece(row, start, (size,))), build(Piece(factors, place, (1,))))))
    return reduced(build, build(Row(tuple(parts))), MEAN)


def limited(build: Builder, squares: int, to: float) -> int:
    """to / max(sqrt(V), to) of shares V with `SQUARE` fractional bits; affine with `MEAN`. Rounds: 27."""
    none = build(Combine((squares,), (0,), round(to**2 * 2.0**SQUARE)))
    return inverse(build, larger(build, squares, none), to)


def inverse(build: Builder, squares: int, of: float) -> int:
    """of / sqrt(V) of shares V with `SQUARE` fractional bits; affine with `MEAN`. Rounds: 24."""
    numerator = build(Combine((squares,), (0,), round(of * 2.0**MEAN)))
    return reduced(build, divided(build, numerator, squares, refined=True), QUOTIENT - MEAN)
