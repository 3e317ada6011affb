"""Nodes that draw at random: dropout and its relatives. What is drawn is public, and depends on nothing but the run and the step."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.errors import ModelError
from protocols.mpc.circuit import Circuit
from protocols.mpc.numbers.ring import Ring
from protocols.mpc.operations.drawn import LIKELY, Drawn
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import LARGEST, Layer, Positions, scaled

NOISE = 12
"""Fractional bits of noise."""


def tables(circuit: Circuit, key: bytes) -> dict[str, Ring]:
    """Return what a circuit needs that is drawn, by name: all who have the public key of a step draw the same."""
    return {op.name: op.table(key) for op in circuit.ops if isinstance(op, Drawn)}


class DroppedLayer(Layer, frozen=True):
    """Each number is 0 with a probability of `rate`, or 1 / (1 - rate) times itself (Srivastava et al., 2014). Rounds: 0.

    Attributes:
        name: of what is drawn.
        rate: from 0 up to 1, a multiple of 2^-16 is taken.
        repeated: axes along which one draw is for all, 0 the first after the batch.
    """

    name: str
    rate: float
    repeated: tuple[int, ...] = ()

    @property
    def grows(self) -> bool:
        """What is kept is larger."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write a product with zeros and ones, and a factor; nothing in a prediction."""
        if draft.predicts:
            return xs[0]
        dropped = round(self.rate * 2**LIKELY)
        if not 0 <= dropped < 1 << LIKELY or 1 - self.rate < 1 / LARGEST:
            raise ModelError(f"a rate of {self.rate:g} is not possible: from 0 up to 1 is")
        shape = draft.value(xs[0]).shape
        table = tuple(1 if axis - 1 in self.repeated else n for axis, n in enumerate(shape))
        kept = draft.put(Drawn(xs[0], self.name, table, dropped), draft.bits(xs[0]))
        return scaled(draft, kept, 1 / (1 - self.rate))


class NoisyLayer(Layer, frozen=True):
    """x + noise, or x (1 + noise), with a discrete Gaussian noise of standard deviation `deviation`. Rounds: 0.

    Attributes:
        name: of what is drawn.
        deviation: from 2^-12 on; of noise that is multiplied a multiple of that.
        multiplied: whether noise is multiplied.
    """

    name: str
    deviation: float
    multiplied: bool = False

    @property
    def grows(self) -> bool:
        """By the noise."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write a product with 1 + noise, or a sum; nothing in a prediction."""
        if draft.predicts:
            return xs[0]
        x = xs[0] if draft.bits(xs[0]) <= 2 * FRACTION else draft.rounded(xs[0])
        bits, shape = draft.bits(x), draft.value(x).shape
        if not 2.0**-NOISE <= self.deviation < LARGEST:
            raise ModelError(f"noise of standard deviation {self.deviation:g} is not possible: from 2^-{NOISE} up to {LARGEST:g} is")
        if self.multiplied:
            return draft.put(Drawn(x, self.name, shape, 0, round(self.deviation * 2**NOISE), NOISE), bits + NOISE)
        return draft.put(Drawn(x, self.name, shape, 0, round(self.deviation * 2**bits), 0, True), bits)
