"""What every plan of steps says of itself unless its kind says otherwise. Plans differ in what they compute, see their `circuit`."""

from __future__ import annotations

from abc import abstractmethod

import msgspec

from protocols.mpc.circuit import Circuit
from protocols.mpc.engine.values import Shape
from protocols.training.networks.micro_batches import MicroBatch


class StepPlan(msgspec.Struct, frozen=True, tag=True):
    """A plan whose steps are all alike: each epoch goes over the examples once, and what is kept stays at the servers.

    It has no fields: kinds of plans travel with their own, tagged by their name.
    """

    @property
    def weighted(self) -> bool:
        """Whether examples have weights of their own, a wire `w`."""
        return False

    @property
    def states(self) -> dict[str, Shape]:
        """The shape of what is kept beside the weights, by name; it begins at zero. `outside` is a bit, see `window.py`."""
        return {"outside": (1,)}

    @property
    def told(self) -> tuple[str, ...]:
        """States that the owner may be told at the end of an epoch."""
        return ()

    @property
    def changing(self) -> bool:
        """Whether public factors are others from step to step."""
        return False

    @property
    def mixes(self) -> str:
        """What of it needs all examples of a batch at once, so that there are no micro-batches; empty if nothing does."""
        return type(self).__name__

    def repeats(self, epoch: int) -> int:
        """Return how often an epoch goes over the examples."""
        return 1

    @abstractmethod
    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit of a step on so many examples; `number` counts steps from 0 and changes nothing but public factors."""

    def part(self, micro: MicroBatch, number: int = 0) -> Circuit:
        """Return the circuit of a micro-batch. One that does not end its step is the same in all of them."""
        return self.circuit(micro.rows, number)
