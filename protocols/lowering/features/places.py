"""Where the elements of the input go while they are only moved: taken, permuted, reshaped, joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.lowering import network as net
from protocols.lowering.network import Node

Table = npt.NDArray[Any]
MOVES = (net.Taken, net.Permuted, net.Shaped, net.Joined)
"""Nodes whose elements are elements of their inputs."""


def moved(node: Node, tables: Sequence[Table]) -> Table:
    """What a node of `MOVES` makes of tables in the shapes of its inputs."""
    match node:
        case net.Taken(axis=axis, indices=indices):
            return tables[0].take(indices, axis)
        case net.Permuted(axes=axes):
            return tables[0].transpose(axes)
        case net.Joined(axis=axis):
            return np.concatenate(tables, axis)
        case _:
            return tables[0].reshape(node.shape)


def followed(nodes: Sequence[Node]) -> list[npt.NDArray[np.int64] | None]:
    """For each value the number of the element of the input that each of its elements is; None for values that are computed."""
    found: list[npt.NDArray[np.int64] | None] = [np.arange(math.prod(nodes[0].shape)).reshape(nodes[0].shape)]
    for node in nodes[1:]:
        places = [place for place in (found[x] for x in node.inputs) if place is not None]
        found.append(moved(node, places) if isinstance(node, MOVES) and len(places) == len(node.inputs) else None)
    return found


def whole_numbers(nodes: Sequence[Node]) -> npt.NDArray[np.bool_]:
    """For each element of the input whether it is looked up in a table, so that only whole numbers make sense."""
    found = np.zeros(math.prod(nodes[0].shape), bool)
    places = followed(nodes)
    for node in nodes:
        place = places[node.inputs[0]] if isinstance(node, net.OneHot) else None
        if place is not None:
            found[place.reshape(-1)] = True
    return found.reshape(nodes[0].shape)
