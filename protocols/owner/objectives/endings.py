"""The activations at the ends of outputs that belong to their losses, and not to the network that is trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from protocols.curves.activations import CURVES
from protocols.errors import UnsupportedLayer
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.training import Penalised


class Compared(NamedTuple):
    """How an output is compared.

    Attributes:
        squares: whether as it is.
        endings: activations at its end that belong to the loss; others but a softmax are activations as elsewhere.
    """

    squares: bool
    endings: Collection[str] = ("softmax", "sigmoid")


def compared(nodes: Sequence[Node], heads: Sequence[Compared]) -> tuple[str | None, ...]:
    """Return the activation at the end of each output if it belongs to the loss.

    Args:
        nodes: the last one is the output; of several outputs it joins a row for each.
        heads: how they are compared.

    Raises:
        UnsupportedLayer: an output has more axes than its loss compares, or a penalty on what belongs to the loss.
    """
    found: list[str | None] = []
    for head, node in zip(heads, _last(nodes, several=len(heads) > 1), strict=True):
        inner = node
        while isinstance(inner, Penalised):
            inner = nodes[inner.inputs[0]]
        if inner is not node and _ending(inner) in (*head.endings, "softmax"):
            raise UnsupportedLayer(
                f"layer {node.layer!r} ({node.kind}) has an activity_regularizer on a {_ending(inner)} that belongs to the loss on shares:"
                " put it on what comes before, or leave it out"
            )
        ending = _ending(node)
        found.append(ending if ending in (*head.endings, "softmax") else None)
        if len(node.shape) > 1 and not head.squares:
            raise UnsupportedLayer(
                f"layer {node.layer!r} ({node.kind}) gives outputs of shape {node.shape}: a cross-entropy needs one axis of classes"
            )
    return tuple(found)


def without(nodes: Sequence[Node], endings: Sequence[str | None]) -> list[Node]:
    """Return nodes whose outputs do not read these activations; they may still be there."""
    if len(endings) == 1:
        return list(nodes[:-1] if endings[0] else nodes)
    left = list(nodes)
    for row, ending in zip(nodes[-1].inputs, endings, strict=True):
        if ending:
            left[row] = replace(nodes[row], inputs=nodes[nodes[row].inputs[0]].inputs)
    return left


def _last(nodes: Sequence[Node], *, several: bool) -> list[Node]:
    return [nodes[nodes[row].inputs[0]] for row in nodes[-1].inputs] if several else [nodes[-1]]


def _ending(node: Node) -> str | None:
    if isinstance(node, net.Softmax):
        return None if node.log else "softmax"
    names = (name for name in ("sigmoid", "softplus", "exponential") if isinstance(node, net.Curved) and node.curve is CURVES[name])
    return next(names, None)
