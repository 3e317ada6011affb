"""The network while it is read: a list to which rules append."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from protocols.lowering.nodes.network import Node
from protocols.mpc.engine.values import Shape

Follow = Callable[[Any, Callable[[Any], Any], int], int]
"""(layer, function of the user's, value) -> what the function makes of it."""


class NetworkBuilder:
    """The network so far; `follow` is of whom reads it."""

    follow: Follow

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, node_class: type[Node], layer: Any, inputs: Sequence[int], shape: Sequence[int], **settings: Any) -> int:
        """Append a node; return its position."""
        dimensions = tuple(int(n) for n in shape)
        self.nodes.append(node_class(layer=layer.name, kind=type(layer).__name__, inputs=tuple(inputs), shape=dimensions, **settings))
        return len(self.nodes) - 1

    def shape(self, position: int) -> Shape:
        """Return the shape of a value."""
        return self.nodes[position].shape
