"""Nodes that only a network that is trained has: in a prediction they are other nodes, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocols.lowering.nodes.network import Node


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchNormalised(Node):
    """(x - mean) / sqrt(variance + epsilon) of each channel over a batch; the weights `mean` and `variance` of Keras follow."""

    epsilon: float
    momentum: float
    mean: Any
    variance: Any


@dataclass(frozen=True, eq=False, kw_only=True)
class Dropped(Node):
    """x or 0, at random; one draw for all along the axes `repeated`, 0 the first after the batch.

    Those that have one `draw` draw the same.
    """

    rate: float
    repeated: tuple[int, ...] = ()
    draw: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Penalised(Node):
    """x, of which l1 |x| + l2 x^2 is added to the loss."""

    l1: float
    l2: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Noisy(Node):
    """x + noise, or x (1 + noise)."""

    deviation: float
    multiplied: bool = False
