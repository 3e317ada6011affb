"""A loss of the user's own: nodes as those of a network that read targets and outputs; its gradient follows from operations."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from protocols.errors import ModelError
from protocols.mpc.operations.moves import Concatenate, Take
from protocols.mpc.operations.sums import Combine
from protocols.training.networks.distances import ENDS, Distance
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.network import AnyLayer


class OwnLoss(msgspec.Struct, frozen=True, tag=True):
    """The mean of what nodes give: they read (targets, outputs) of an example side by side. All that grows is watched.

    Attributes:
        name: of the user's function.
        nodes: in an order in which they can be computed, without weights.
        each: how many numbers the last one gives of an example.
    """

    name: str
    nodes: tuple[AnyLayer, ...]
    each: int

    truths: ClassVar[bool] = False

    def most(self, *, truths: bool) -> float:
        """Return what a number adds to the loss, at most: it is watched."""
        return 2.0 ** (ENDS + 1)

    def scale(self, outputs: int) -> float:
        """Return the factor of what `write` gives in the gradient of the loss."""
        return 1 / self.each

    def numbers(self, outputs: int) -> int:
        """Of how many numbers of an example the loss is a mean."""
        return self.each

    def write(self, build: StepDraft, z: int, y: int, outputs: int) -> Distance:
        """Write it for affine outputs and targets that are a wire.

        Raises:
            ModelError: a node cannot be written, or the outputs do not move the loss.
        """
        build.say(y, FRACTION)
        made, large = [build.put(Concatenate((y, z), 1))], []
        for place, node in enumerate(self.nodes):
            try:
                made.append(node.write(build, {}, [made[at] for at in node.inputs]))
            except (KeyError, IndexError, ValueError, ArithmeticError) as error:
                raise ModelError(f"node {place} of the loss {self.name!r} ({type(node).__name__}) cannot be written: {error}") from None
            if node.grows:
                large.append(Signal(made[-1], build.bits(made[-1])))
        loss = build.rounded(made[-1])
        one = build.put(Combine((build.put(Take(y, 1, (0,) * self.each)),), (0,), 1 << FRACTION))
        found = build.gradients({made[-1]: one}, [z])
        if z not in found:
            raise ModelError(f"the outputs of the model do not move the loss {self.name!r}")
        values = build.put(Combine((loss,), (1 << FRACTION,)), 2 * FRACTION)
        return Distance(build.wire(found[z]), values, (*large, Signal(loss, FRACTION)))
