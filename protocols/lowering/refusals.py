"""Why a layer cannot be shared, and what to use instead."""

from __future__ import annotations

from typing import Any

from protocols.errors import UnsupportedLayer

NO_FORM = "it has no private form here"
WHY: dict[str, tuple[str, str]] = {
    "Lambda": ("it holds arbitrary code", "the built-in layers that do the same"),
    "GroupNormalization": ("it needs a private square root and division for each group", "LayerNormalization or BatchNormalization"),
    "PReLU": ("its slopes are private weights", "LeakyReLU"),
}
ACTIVATIONS = "'relu', 'sigmoid', 'tanh', 'gelu', 'silu', 'softplus', 'elu', 'softmax', 'linear' or a relative of these"


def refuse(layer: Any, why: str, instead: str) -> UnsupportedLayer:
    """The error for a layer: its name, its class, why, and what to use instead."""
    return UnsupportedLayer(f"layer {layer.name!r} ({type(layer).__name__}) cannot be shared: {why}; use instead: {instead}")


def unknown(layer: Any, supported: list[str]) -> UnsupportedLayer:
    """The error for a class of layer that has no rule."""
    why, instead = WHY.get(type(layer).__name__, (NO_FORM, f"one of {', '.join(supported)}"))
    return refuse(layer, why, instead)
