"""Where a network uses its weights: the operations between what depends on weights alone and what depends on examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from protocols.errors import ModelError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.operations.bilinear import Convolve, MatMul
from protocols.mpc.operations.local import Local
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Open
from protocols.mpc.parties.exchange import Ring
from protocols.training.networks.draft import StepDraft

USED = (MatMul, Convolve, Combine, Multiply)
"""Operations of weights and examples of which each example's gradient is known."""


class WeightUse(NamedTuple):
    """An operation `at` that reads `weight`, as `operand`, on that side; `sign` is that of the gradient of a sum."""

    at: int
    side: int
    operand: int
    weight: str
    sign: int = 1


def uses(draft: StepDraft, weights: Mapping[str, int]) -> list[WeightUse]:
    """Return all uses of weights that are trained, in order.

    Args:
        draft: a network, forward.
        weights: the positions of those that are trained, by name.

    Raises:
        ModelError: a weight is used in a way in which an example's gradient by it is not known. It is named.
    """
    of = {at: name for name, at in weights.items()}
    found: list[WeightUse] = []
    for at, op in enumerate(draft.operations):
        known = [x for x in op.operands if x in of]
        if not known or at in of:
            continue
        if len(op.operands) == 1 and isinstance(op, Local | Open):
            of[at] = of[known[0]]
            continue
        for side, x in enumerate(op.operands):
            if x in of and not op.flat:
                found.append(_use(draft, op, WeightUse(at, side, x, of[x])))
    _check_places(draft, found, weights)
    return found


def _use(draft: StepDraft, op: Operation, use: WeightUse) -> WeightUse:
    if not isinstance(op, USED) or _turned(draft, op, use):
        raise ModelError(f"weight {use.weight!r} is used by {type(op).__name__}, where no example's gradient by it is known: freeze it")
    if isinstance(op, Combine):
        factor = op.factors[use.side] * 2.0 ** (draft.bits(use.operand) - draft.bits(use.at))
        if abs(factor) != 1:
            raise ModelError(f"weight {use.weight!r} is added {factor:g} times, where no example's gradient by it is known: freeze it")
        return use._replace(sign=int(factor))
    if draft.bits(use.at) != sum(draft.bits(x) for x in op.operands):
        raise ModelError(f"weight {use.weight!r} is used by a {type(op).__name__} that scales it: freeze it")
    return use


def _turned(draft: StepDraft, op: Operation, use: WeightUse) -> bool:
    """Whether a product has its weight on the left, or turned, or in several matrices."""
    if isinstance(op, MatMul):
        return use.side != 1 or op.transpose_x or op.transpose_y or len(draft.value(use.operand).shape) != 2
    return isinstance(op, Convolve) and use.side != 1


def places(draft: StepDraft, operand: int, start: int) -> Ring:
    """Return where the elements of an operand stand in its weight at `start`: 1 for the first one, 0 where there is none."""
    if operand == start:
        shape = draft.value(start).shape
        return np.arange(1, draft.value(start).size + 1, dtype=np.uint64).reshape(shape)
    op = draft.operations[operand]
    below = places(draft, op.operands[0], start)
    return op.apply([below], draft.value(operand), constant=False) if isinstance(op, Local) else below


def _check_places(draft: StepDraft, found: Collection[WeightUse], weights: Mapping[str, int]) -> None:
    """Refuse weights of which an element is used under two names, so that norms by operands would not be those by weights.

    Raises:
        ModelError: it names the weight.
    """
    for name, start in weights.items():
        operands = {use.operand for use in found if use.weight == name}
        read = [places(draft, operand, start).reshape(-1) for operand in operands]
        elements = np.concatenate([one[one > 0] for one in read]) if read else np.zeros(0, np.uint64)
        if len(np.unique(elements)) < len(elements) or elements.max(initial=0) > draft.value(start).size:
            raise ModelError(f"weight {name!r} is used in parts that overlap, or scaled: no example's gradient by it is known; freeze it")
