"""Where the elements of the input go while they are only moved, scaled and shifted: value = scale * x[element] + offset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node, Real

Table = npt.NDArray[Any]
MOVES = (net.Taken, net.Permuted, net.Shaped, net.Joined)
"""Nodes whose elements are elements of their inputs."""
NORMALISING = ("Normalization", "BatchNormalization")
"""Layers whose scale is that of their input even where it is 1."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A value each of whose elements is one of the input, scaled and shifted; tables in the shape of the value.

    Attributes:
        element: which element of the input it is, in row-major order.
        scale: 0 never.
        offset: what is added then.
        weighed: whether it was scaled channel by channel, as by a normalisation.
        bent: whether a rectifier or a clip came in between: for those elements that it leaves alone.
    """

    element: npt.NDArray[np.int64]
    scale: Real
    offset: Real
    weighed: bool = False
    bent: bool = False

    def scaled(self, scale: float | Real, offset: float | Real) -> Seen:
        """Scale and shift once more."""
        return replace(self, scale=self.scale * scale, offset=self.offset * scale + offset)


def moved(node: Node, tables: Sequence[Table]) -> Table:
    """Apply a node of `MOVES` to tables in the shapes of its inputs."""
    match node:
        case net.Taken(axis=axis, indices=indices):
            return tables[0].take(indices, axis)
        case net.Permuted(axes=axes):
            return tables[0].transpose(axes)
        case net.Joined(axis=axis):
            return np.concatenate(tables, axis)
        case _:
            return tables[0].reshape(node.shape)


def followed(nodes: Sequence[Node]) -> list[Seen | None]:
    """Return what each value is of the input; None for values that are computed in another way."""
    shape = nodes[0].shape
    found: list[Seen | None] = [Seen(np.arange(math.prod(shape)).reshape(shape), np.ones(shape), np.zeros(shape))]
    for node in nodes[1:]:
        known = [seen for seen in (found[x] for x in node.inputs) if seen is not None]
        found.append(_next(node, known) if known and len(known) == len(node.inputs) else None)
    return found


def _next(node: Node, known: Sequence[Seen]) -> Seen | None:
    first = known[0]
    match node:
        case _ if isinstance(node, MOVES):
            element, scale, offset = (moved(node, [getattr(seen, name) for seen in known]) for name in ("element", "scale", "offset"))
            return Seen(element, scale, offset, any(seen.weighed for seen in known), any(seen.bent for seen in known))
        case net.Within():
            return first
        case net.Rescale() if node.scale:
            return first.scaled(node.scale, node.offset)
        case net.Shifted():
            return first.scaled(1.0, node.shift)
        case net.ChannelAffine() if node.scale.all():
            weighed = first.weighed or node.kind in NORMALISING or bool((node.scale != 1).any())
            return replace(first.scaled(node.scale, node.shift), weighed=weighed)
        case net.Rectify():
            return replace(first, bent=True)
        case _:
            return None


def vocabularies(nodes: Sequence[Node], seen: Sequence[Seen | None]) -> tuple[Real, Real]:
    """Return the least and the largest value of each element of the input that is looked up in a table; NaN for others."""
    shape = nodes[0].shape
    low, high = (np.full(math.prod(shape), end) for end in (-np.inf, np.inf))
    for node in nodes:
        index = seen[node.inputs[0]] if isinstance(node, net.OneHot) else None
        if index is not None and not index.bent:
            ends = [((end - index.offset) / index.scale).reshape(-1) for end in (0.0, max(node.shape[-1] - 1, 0.5))]
            np.maximum.at(low, index.element.reshape(-1), np.minimum(*ends))
            np.minimum.at(high, index.element.reshape(-1), np.maximum(*ends))
    low, high = (np.where(np.isfinite(end), end, np.nan).reshape(shape) for end in (low, high))
    return low, high
