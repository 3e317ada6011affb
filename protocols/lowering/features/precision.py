"""How large a step of the fixed point of the input may be, by what the model computes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from protocols.errors import ModelError
from protocols.lowering.features.places import Seen
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node
from protocols.mpc.inputs.ranges import Ranges

RELATIVE_BITS = 12
"""Bits of the least value of which a reciprocal, a root or a logarithm is taken."""
MOST_BITS = 40
"""Bits between a step and the end of a range, at most."""


def needed(nodes: Sequence[Node], seen: Sequence[Seen | None], input_range: tuple[float, float] | Ranges, *, whole: bool) -> float:
    """Return the largest step that is fine enough: in real numbers, or in units where each feature has its own.

    - Where the input is one of integers each of them is a multiple of it.
    - Where a reciprocal, a root or a logarithm of an element is taken, possibly scaled and shifted, it is 2^-`RELATIVE_BITS` of the least.

    Args:
        nodes: the network.
        seen: what each value is of the input, see `followed`.
        input_range: of all elements, or of each feature.
        whole: whether the model reads integers.

    Raises:
        ModelError: the range is so wide that integers in it have no step of at most 1.
    """
    unit, low, high, origin = _tables(input_range, nodes[0].shape)
    most = np.inf
    if whole:
        most = 1.0 / float(unit.max())
        reach = float(np.maximum(np.abs(low - origin), np.abs(high - origin)).max())
        if reach > 2.0**MOST_BITS:
            raise ModelError(
                f"input_range reaches {reach:.6g}, and the model reads integers: those beyond 2^{MOST_BITS} are not exact in fixed point. "
                "Give a smaller input_range, or subtract a constant before the model"
            )
    finest = 2.0 ** (math.ceil(math.log2(float((np.maximum(np.abs(low - origin), np.abs(high - origin)) / unit).max()))) - MOST_BITS)
    for node in nodes:
        read = seen[node.inputs[0]] if isinstance(node, net.Inverse | net.Logarithm) else None
        if read is None or read.bent:
            continue
        element = read.element.reshape(-1)
        scale, offset = read.scale.reshape(-1), read.offset.reshape(-1)
        least = np.minimum(scale * low[element], scale * high[element]) + offset
        if (least > 0).all():
            most = min(most, max(finest, 2.0**-RELATIVE_BITS * float((least / np.abs(scale) / unit[element]).min())))
    return most


def _tables(input_range: tuple[float, float] | Ranges, shape: tuple[int, ...]) -> tuple[net.Real, net.Real, net.Real, net.Real]:
    """Return unit, least, largest value and origin of each element, flattened."""
    if isinstance(input_range, Ranges):
        tables = (input_range.unit, input_range.low, input_range.high, input_range.origin)
        unit, low, high, origin = (np.broadcast_to(input_range.table(table), shape).reshape(-1) for table in tables)
        return unit, low, high, origin
    unit, low, high, origin = (np.full(math.prod(shape), value) for value in (1.0, *input_range, 0.0))
    return unit, low, high, origin
