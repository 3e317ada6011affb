"""The crypto provider's mathematics: correlated randomness for a program, from keys and the masks of the weights.

The dealer knows every mask and no masked value: nothing here depends on an input, a weight or an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocols.mpc.engine import loops
from protocols.mpc.engine.sides import Dealer
from protocols.mpc.inference import layout, order
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import dealt_words, own_words
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


def deal(program: Program, weight_masks: Sequence[Ring], keys: tuple[bytes, bytes], examples: int) -> Dealing:
    """Correlated randomness for `examples` evaluations of a program.

    Args:
        program: what will be evaluated.
        weight_masks: lambda_W of every weight, both halves added.
        keys: the servers' keys of this chunk; never used for another.
        examples: how many.
    """
    plan = layout(program)
    dealt = dealt_words(keys[0], plan, examples)
    halves = [plan.views(own_words(key, plan, examples), dealt, examples) for key in keys]
    dealer = Dealer(infer(program), examples, (halves[0], halves[1]), weight_masks)
    loops.deal(program.ops, order(program), dealer)
    sent = dealer.field(0, "sent" if isinstance(program.ops[0], ClampedInput) else "lambda")
    return Dealing(dealt, sent.reshape(examples, *program.input_shape))
