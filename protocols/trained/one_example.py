"""The forward part of a trained network on one example, and what has to be known of its values for it to be right."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from protocols.mpc.circuit import Circuit
from protocols.mpc.operations.moves import Concatenate, Permute, Reshape, Take
from protocols.mpc.operations.truncation import Truncate
from protocols.training.networks.attention import SCORES
from protocols.training.networks.layers import LARGEST
from protocols.training.step import Plan, forward

MOVES = (Concatenate, Permute, Reshape, Take)
"""Operations that give the numbers that they read, in other places."""
NONE = 0.5
"""A count is 0."""


class OneExample(NamedTuple):
    """The forward part of a network on one example.

    Attributes:
        circuit: gives the logits, and counts that are 0 if all is well. What is a softmax stands in it as what that is of.
        bits: how many fractional bits each value has.
        limits: which values have to be within +-how much, as integers, for what reads them to be right.
        least: which values have to be at least how much.
        large: which values are watched in a training, and within +-how much.
        proved: which values that depend on the input are within +-how much then, whatever their operations could give.
        softmaxes: which values are the softmax of their operand, row by row.
    """

    circuit: Circuit
    bits: tuple[int, ...]
    limits: Mapping[int, float]
    least: Mapping[int, float]
    large: Mapping[int, float]
    proved: Mapping[int, float]
    softmaxes: Collection[int]


def one_example(plan: Plan) -> OneExample:
    """Return the forward part of the network of a plan; several inputs are one row."""
    draft, _, signals, outputs = forward(msgspec.structs.replace(plan, parts=()), 1, predicts=True)
    strange = {f"strange {number}": at for number, at in enumerate(draft.strange)}
    scores = {f"score {number}": one.at for number, one in enumerate(draft.spread)}
    circuit, order = draft.pruned({"outputs": outputs} | strange | scores, draft.softmaxes)
    place = {at: number for number, at in enumerate(order)}
    within, least, proved = (
        {place[at]: bound for at, bound in bounds.items() if at in place} for bounds in (draft.within, draft.least, draft.proved)
    )
    limits: defaultdict[int, float] = defaultdict(lambda: math.inf, within)
    for one in draft.spread:
        limits[place[one.at]] = min(limits[place[one.at]], 2.0 ** (SCORES + one.bits))
    limits.update((place[at], NONE) for at in draft.strange)
    for at in sorted(limits, reverse=True):
        op = circuit.ops[at]
        if isinstance(op, Truncate):  # what is rounded is looked at once, before
            limits[op.x] = min(limits[op.x], (limits[at] - 2) * 2.0**op.drop)
    large = {place[one.at]: LARGEST * 2.0**one.bits for one in signals if one.at in place}
    for at, op in enumerate(circuit.ops):  # what is moved is as large
        if isinstance(op, MOVES) and all(x in large for x in op.operands):
            large.setdefault(at, max(large[x] for x in op.operands))
    softmaxes = {place[at] for at in draft.softmaxes if at in place}
    return OneExample(circuit, tuple(map(draft.bits, order)), dict(limits), least, large, proved, softmaxes)
