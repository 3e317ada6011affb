"""Adapters of low rank in a model (Hu et al., 2021, arXiv:2106.09685) that Keras' configuration does not say, or not all of.

It has no place for those in layers within layers, such as the query of a `MultiHeadAttention`, and a layer that is built from it forgets
their alpha. So a blueprint says them beside: of each layer, in the order in which they are found, whether it is trained, and of its
adapter the rank and alpha. Whoever builds it takes these for layers that can have one, and refuses anything else.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from federated.errors import ModelRefused
from privacy.keras_models import internals

if TYPE_CHECKING:
    import keras

MOST_SAID = 1 << 16
"""Layers of a model with adapters."""


def said(model: keras.Model) -> str:
    """Say the adapters of a model, as JSON: `[[trained, ...], [[layer, rank, alpha], ...]]`; nothing if it has none."""
    layers = internals.layers_within(model, itself=False)
    found = [[i, one.lora_rank, one.lora_alpha] for i, one in enumerate(layers) if _has_one(one)]
    return json.dumps([[bool(one.trainable) for one in layers], found], separators=(",", ":")) if found else ""


def adapt(model: keras.Model, text: str) -> None:
    """Give a model the adapters that are said of it, and freeze the rest as it is said.

    Args:
        model: built, and not compiled.
        text: see `said`.

    Raises:
        ModelRefused: it says something else; or of layers that the model does not have, or that can have none.
    """
    if not text:
        return
    layers = internals.layers_within(model, itself=False)
    trained, adapters = _checked(text, len(layers))
    for layer, trains in zip(layers, trained, strict=True):
        if layer.trainable != trains:
            layer.trainable = trains  # for those within it, too; they are looked at afterwards
    for i, rank, alpha in adapters:
        layer = layers[i]
        if not callable(getattr(layer, "enable_lora", None)) or not layer.built:
            raise _refused()
        if not _has_one(layer):
            layer.enable_lora(rank, lora_alpha=alpha)
        elif layer.lora_rank != rank:
            raise _refused()
        layer.lora_alpha = alpha


def _has_one(layer: Any) -> bool:
    return bool(getattr(layer, "lora_enabled", False)) and hasattr(layer, "lora_rank") and hasattr(layer, "lora_alpha")


def _checked(text: str, count: int) -> tuple[list[bool], list[tuple[int, int, float]]]:
    try:
        plan = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused() from None
    if count > MOST_SAID or not isinstance(plan, list) or len(plan) != 2 or not all(isinstance(part, list) for part in plan):
        raise _refused()
    trained, adapters = plan
    places = [one[0] for one in adapters if isinstance(one, list) and len(one) == 3]
    known = len(places) == len(adapters) and all(type(place) is int and 0 <= place < count for place in places)
    if not known or len(set(places)) < len(places) or len(trained) != count or not all(type(one) is bool for one in trained):
        raise _refused()
    for _, rank, alpha in adapters:
        if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not 0 < alpha < math.inf:
            raise _refused()
    return trained, [(place, rank, alpha) for place, rank, alpha in adapters]


def _refused() -> ModelRefused:
    return ModelRefused(
        "the blueprint says adapters that are none, or of layers that cannot have one: a rank of at least 1 and an alpha above 0"
    )
