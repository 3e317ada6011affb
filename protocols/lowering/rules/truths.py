"""Truths: values that are known to be 0 or 1, and those that others become by a comparison with 0; and what they hide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import Operand, broadcast, plus, times

Ends = tuple[float, float]
"""The least and the largest of whole numbers."""


def is_truth(b: NetworkBuilder, x: int) -> bool:
    """Whether a value is 0 or 1 for sure: what a comparison gave, moved, inverted, or multiplied with others; never an input."""
    ends = _whole(b.nodes, x)
    return ends is not None and 0 <= ends[0] <= ends[1] <= 1


def truth_of(b: NetworkBuilder, layer: Any, x: Any) -> Any:
    """[x != 0]: the value itself if it is a truth, otherwise a comparison. Rounds: 3, for what is no truth."""
    if not isinstance(x, int):
        return (x != 0).astype(np.float64)
    if is_truth(b, x):
        return x
    equal = b.add(net.Truth, layer, [x], b.shape(x), equal=True)
    return plus(b, layer, np.array(1.0), equal, -1)


def masked(b: NetworkBuilder, layer: Any, scores: int, masks: Sequence[tuple[Operand | None, int | None]]) -> int:
    """Scores (..., steps, places) with what any of the masks hides made so low that a softmax gives it nothing.

    A private mask that is no truth hides where it is 0. Each mask comes with the axis that has to be inserted to broadcast it: -1 for one
    of the steps, -2 of the places, None for both.
    """
    keep, private = np.ones((1, 1)), []
    for mask, axis in masks:
        if isinstance(mask, np.ndarray):
            rank = len(b.shape(scores)) if axis is None else 1
            if mask.ndim > rank + 1 or (mask.ndim > min(rank, 2) and len(mask) != 1):
                raise refuse(layer, f"a mask has shape {mask.shape}", "a mask for all examples, or one that depends on the input")
            bits = mask.reshape(mask.shape[mask.ndim > min(rank, 2) :])
            keep = keep * ((bits if axis is None else np.expand_dims(bits, axis)) != 0)
        elif mask is not None:
            shape = list(b.shape(mask))
            if axis is not None:
                shape.insert(len(shape) + 1 + axis, 1)
            full = [1] * (len(b.shape(scores)) - len(shape)) + shape
            private.append(b.add(net.Shaped, layer, [truth_of(b, layer, mask)], full))
    if keep.all() and not private:
        return scores
    both = [reduce(lambda x, y: times(b, layer, x, y), private)] if private else []
    both = [broadcast(b, layer, mask, b.shape(scores)) for mask in both]
    return b.add(net.Masked, layer, [scores, *both], b.shape(scores), keep=keep)


def _whole(nodes: list[Node], last: int) -> Ends | None:
    """Return the ends of a value that is whole numbers for sure, None for others."""
    found: dict[int, Ends | None] = {}
    waiting = [last]
    while waiting:  # graphs can be deep
        position = waiting[-1]
        node = nodes[position]
        missing = [x for x in node.inputs if x not in found] if isinstance(node, _FOLLOWED) else []
        if missing:
            waiting += missing
            continue
        waiting.pop()
        found[position] = _ends(node, [found.get(x) for x in node.inputs])
    return found[last]


_FOLLOWED = (
    *(net.Taken, net.Permuted, net.Shaped, net.Joined, net.Padded, net.MaxPool, net.Largest, net.Within),
    *(net.Rescale, net.SignedSum, net.Multiplied),
)


def _ends(node: Node, inputs: list[Ends | None]) -> Ends | None:
    known = [ends for ends in inputs if ends is not None]
    if isinstance(node, net.Truth | net.OneHot | net.TopK):
        return 0.0, 1.0
    if not isinstance(node, _FOLLOWED) or len(known) < len(inputs):
        return None
    match node:
        case net.Rescale(scale=scale, offset=offset):
            ends = sorted(scale * end + offset for end in known[0])
            return (ends[0], ends[1]) if scale == round(scale) and offset == round(offset) else None
        case net.SignedSum(signs=signs):
            turned = [(low, high) if sign > 0 else (-high, -low) for sign, (low, high) in zip(signs, known, strict=True)]
            return sum(low for low, _ in turned), sum(high for _, high in turned)
        case net.Multiplied():
            low, high = known[0]
            for other in known[1:]:
                products = [one * two for one in (low, high) for two in other]
                low, high = min(products), max(products)
            return low, high
        case net.Padded():
            return min(0.0, known[0][0]), max(0.0, known[0][1])
        case _:
            return min(low for low, _ in known), max(high for _, high in known)
