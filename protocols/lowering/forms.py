"""What a graph does beside its weights, by which two readings of a model are compared: without numbers, and without names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from protocols.curves.activations import Curve
from protocols.errors import UnsupportedLayer
from protocols.lowering.keras_graph import read_all
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.training import BatchNormalised, Dropped, Noisy, Penalised


def check_predicts(model: Any) -> None:
    """Refuse a model that computes otherwise when it predicts than when it trains, but for normalisations by a batch and what is drawn.

    Raises:
        UnsupportedLayer: a `call` does so.
    """
    trains, predicts = (_forms(read_all(model, training=training).nodes) for training in (True, False))
    if trains != predicts:
        raise UnsupportedLayer(
            f"a call() in model {model.name!r} computes otherwise when it predicts than when it trains: on shares its network is asked"
            " as it is trained; reveal() it, and ask what is revealed"
        )


def _forms(nodes: Sequence[Node]) -> list[Any]:
    """Return what a graph does beside its weights: of normalisations as of statistics, of what is drawn or penalised nothing."""
    forms: list[Any] = []
    before: Node | None = None
    for node in nodes:
        if isinstance(node, Dropped | Noisy | Penalised):
            continue
        normalises = isinstance(node, BatchNormalised | net.ChannelAffine)
        if not (normalises and isinstance(before, BatchNormalised) and before.layer == node.layer):
            rest = () if normalises else said(dataclasses.replace(node, inputs=()))
            forms.append((net.ChannelAffine if normalises else type(node), node.shape, rest))
        before = node
    return forms


def said(node: Node) -> tuple[Any, ...]:
    """Return what a node says beside its weights, and its name, which Keras counts up where a layer is followed into its call."""
    fields = (getattr(node, field.name) for field in dataclasses.fields(node) if field.name != "layer")
    return tuple(_curve(value) if isinstance(value, Curve) else value for value in fields if not isinstance(value, np.ndarray))


def _curve(curve: Curve) -> tuple[Any, ...]:
    """Return what a curve is: one that is made anew is the same."""
    return curve.left, curve.right, curve.breaks, curve.relative, curve.function(np.arange(-8.0, 8.0, 0.25)).tobytes()
