"""Constraints: where a weight is put after each update if it has left a set, as in Keras.

Norms are below 2^`NORM`, which is watched where they are taken.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Sum
from protocols.mpc.operations.wires import Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import MEAN, SQUARE, TOP, reduced
from protocols.training.networks.optimizers.clipping import inverse, limited
from protocols.training.networks.window import WEIGHTS

NORM = WEIGHTS
"""Norms are below 2^NORM, as those of weights are."""

DOWN = WEIGHTS - (TOP - SQUARE) // 2
"""Roots are taken of squares below 2^`TOP`, so norms are halved so often."""


class Constraint(msgspec.Struct, frozen=True):
    """Where a weight lies, by its name.

    Attributes:
        name: of the weight.
        kind: "non-negative": w [w >= 0]; "unit norm": w / |w|; "largest norm": w to / max(|w|, to).
        axes: over which norms are taken.
        to: of the largest norm.
    """

    name: str
    kind: Literal["non-negative", "unit norm", "largest norm"]
    axes: tuple[int, ...] = ()
    to: float = 1.0

    def __post_init__(self) -> None:
        if not 2.0**-8 <= self.to <= 2.0**NORM:
            raise ModelError(f"the norm of {self.name!r} is at most {self.to:g}: in fixed point that must lie between 2^-8 and 2^{NORM}")

    def __call__(self, build: Builder, weight: int) -> int:
        """Constrain a weight: a share with `FRACTION` fractional bits. Rounds: 3, 29 with a norm."""
        wire = build(Open(weight))
        if self.kind == "non-negative":
            return build(Multiply(build(Sign(wire, WEIGHTS + FRACTION + 2)), wire))
        squares = build(Multiply(wire, wire))
        for axis in self.axes:
            squares = build(Sum(squares, axis))
        squares = reduced(build, squares, 2 * FRACTION - SQUARE + 2 * DOWN)
        of = self.to * 2.0**-DOWN
        factor = inverse(build, squares, of) if self.kind == "unit norm" else limited(build, squares, of)
        return reduced(build, build(Multiply(wire, factor)), MEAN)
