"""The crypto provider's mathematics: correlated randomness for a program, from keys and the masks of the weights.

The dealer knows every mask and no masked value: nothing here depends on an input, a weight or an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocols.mpc.inference import layout, wire_masks
from protocols.mpc.operations import argmax, bilinear, clamp, comparison, conjunction, linear, piecewise, selection
from protocols.mpc.operations.instructions import Argmax, ClampedInput, Conv2D, Dense, Hadamard, MatMul, Piecewise, Select, Truncate
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Key, Layout, dealt_words, own_words
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
    chunk = _Chunk(plan, own_words(keys[0], plan, examples), own_words(keys[1], plan, examples), dealt, examples)
    sizes = [value.size for value in infer(program)]
    masks = dict(wire_masks(program, lambda position: chunk.sum(position, "lambda")))
    for position, op in enumerate(program.ops):
        if isinstance(op, Dense | Conv2D):
            linear.deal(op, masks[op.x], weight_masks[op.weight], chunk.dealt(position, "gamma"))
        elif isinstance(op, Hadamard | MatMul):
            bilinear.deal(op, masks[op.x], masks[op.y], chunk.dealt(position, "gamma"))
        elif isinstance(op, Truncate):
            selection.deal_truncate(op, chunk.sum(position, "r"), chunk.dealt(position, "words"))
        elif isinstance(op, Select):
            _deal_select(op, chunk, position)
        elif isinstance(op, Piecewise):
            _deal_piecewise(op, chunk, position)
        elif isinstance(op, Argmax):
            _deal_argmax(op, chunk, position, sizes[position])
        elif isinstance(op, ClampedInput):
            _deal_clamp(chunk, position)
    sent = chunk.sum(0, "sent") if isinstance(program.ops[0], ClampedInput) else masks[0]
    return Dealing(dealt, sent.reshape(masks[0].shape))


class _Chunk:
    """Both parties' halves of a chunk, as only the dealer sees them."""

    def __init__(self, plan: Layout, own_0: Ring, own_1: Ring, dealt: Ring, examples: int) -> None:
        self._halves: tuple[dict[Key, Ring], dict[Key, Ring]] = (
            plan.views(own_0, dealt, examples),
            plan.views(own_1, dealt, examples),
        )

    def sum(self, position: int, name: str) -> Ring:
        """A mask of ring elements: the sum of both halves."""
        return self._halves[0][position, name] + self._halves[1][position, name]

    def xor(self, position: int, name: str) -> Ring:
        """A mask of bits: the XOR of both halves."""
        return self._halves[0][position, name] ^ self._halves[1][position, name]

    def dealt(self, position: int, name: str) -> Ring:
        """A dealt field: party 0's half, to be turned into party 1's in place."""
        return self._halves[0][position, name]


def _deal_select(op: Select, chunk: _Chunk, position: int) -> None:
    r = chunk.sum(position, "r")
    selection.deal_select(op, r, chunk.xor(position, "rho"), chunk.dealt(position, "words"))
    _deal_comparison(op, r, chunk, position)


def _deal_clamp(chunk: _Chunk, position: int) -> None:
    sent = chunk.sum(position, "sent")
    clamp.deal_words(sent, chunk.xor(position, "rho"), chunk.dealt(position, "words"))
    clamp.deal_bits(sent, chunk.dealt(position, "bits"))
    for k in range(clamp.EDGES):
        clamp.deal_node(chunk.xor(position, f"mu{k}"), chunk.dealt(position, f"node{k}"))


def _deal_piecewise(op: Piecewise, chunk: _Chunk, position: int) -> None:
    r = chunk.sum(position, "r")
    piecewise.deal(op, r, chunk.xor(position, "rho"), chunk.dealt(position, "mask"), chunk.dealt(position, "choice"))
    _deal_comparison(op, piecewise.repeated(r, len(op.knots)), chunk, position)


def _deal_comparison(op: Select | Piecewise | Argmax, r: Ring, chunk: _Chunk, position: int) -> None:
    bits, node = chunk.dealt(position, "bits"), chunk.dealt(position, "node")
    comparison.deal(r, chunk.xor(position, "mu"), bits, node, drop=op.drop, window=op.window)


def _deal_argmax(op: Argmax, chunk: _Chunk, position: int, classes: int) -> None:
    _deal_comparison(op, chunk.sum(position, "r"), chunk, position)
    for level, (groups, fan_in) in enumerate(argmax.levels(classes)):
        products = chunk.dealt(position, f"and_products{level}")
        conjunction.deal(chunk.xor(position, f"and_mu{level}"), products, groups=groups, fan_in=fan_in)
