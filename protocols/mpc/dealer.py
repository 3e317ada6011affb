"""The crypto provider's mathematics: correlated randomness for a program, from keys and the masks of the weights.

The dealer knows every mask and no masked value: nothing here depends on an input, a weight or an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocols.mpc.engine import loops, sides
from protocols.mpc.engine.segments import Segment
from protocols.mpc.engine.sides import Arrays
from protocols.mpc.inference import layout, order
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Expansion
from protocols.mpc.program import Program, infer


@dataclass(frozen=True)
class Dealing:
    """What the provider makes for one chunk.

    Attributes:
        dealt: party 1's half of everything that is dealt, flat.
        input_mask: lambda of what the client sends, (examples, *input_shape): a slice of it goes with each ticket, to that client only.
    """

    dealt: Ring = field(repr=False)
    input_mask: Ring = field(repr=False)


class SegmentDealer:
    """Deals one chunk of a program, one segment after the other.

    Args:
        program: what will be evaluated.
        weight_masks: lambda_W of every weight, both halves added.
        keys: the servers' keys of this chunk; never used for another.
        examples: how many the chunk serves.
        parts: the segments; the whole program if None.
    """

    def __init__(
        self, program: Program, weight_masks: Arrays, keys: tuple[bytes, bytes], examples: int, parts: Sequence[Segment] | None = None
    ) -> None:
        self._program, self._examples = program, examples
        self._parts = iter([Segment(range(len(program.ops)), layout(program))] if parts is None else parts)
        self._side = sides.Dealer(infer(program), examples, (Expansion(keys[0]), Expansion(keys[1])), weight_masks)

    def __next__(self) -> Ring:
        """Return party 1's half of everything that is dealt for the next segment, flat. Slow."""
        return loops.deal(self._program.ops, order(self._program), self._side, next(self._parts))

    @property
    def input_mask(self) -> Ring:
        """lambda of what the client sends, (examples, *input_shape); known as soon as the first segment has been dealt."""
        assert self._side.sent is not None
        return self._side.sent


def deal(program: Program, weight_masks: Arrays, keys: tuple[bytes, bytes], examples: int) -> Dealing:
    """Correlated randomness for `examples` evaluations of a program.

    Args:
        program: what will be evaluated.
        weight_masks: lambda_W of every weight, both halves added.
        keys: the servers' keys of this chunk; never used for another.
        examples: how many.
    """
    chunk = SegmentDealer(program, weight_masks, keys, examples)
    return Dealing(next(chunk), chunk.input_mask)
