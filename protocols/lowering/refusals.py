"""Why a layer cannot be shared, and what to use instead."""

from __future__ import annotations

from typing import Any

from protocols.errors import UnsupportedLayer

NO_FORM = "it has no private form here"
WHY: dict[str, tuple[str, str]] = {
    "Softmax": (
        "it needs exponentials and a division",
        "leave it out: the largest logit is the same label, and clients can apply it themselves",
    ),
    "MaxPooling2D": ("it needs three comparisons for each output", "AveragePooling2D"),
    "GlobalMaxPooling2D": ("it needs a comparison for each input", "GlobalAveragePooling2D"),
    "Lambda": ("it holds arbitrary code", "the built-in layers that do the same"),
    "LayerNormalization": ("it needs a private square root and division for each example", "BatchNormalization"),
    "GroupNormalization": ("it needs a private square root and division for each example", "BatchNormalization"),
    "Embedding": ("its index would be private", "a Dense layer over one-hot inputs"),
    "Multiply": ("products of two private values are not lowered", "Add or Concatenate"),
    "LSTM": ("it needs sigmoid and tanh", "Dense or convolutional layers"),
    "GRU": ("it needs sigmoid and tanh", "Dense or convolutional layers"),
    "MultiHeadAttention": ("it needs softmax over private values", "Dense or convolutional layers"),
    "Conv2DTranspose": (NO_FORM, "Conv2D"),
    "Conv1D": (NO_FORM, "Conv2D over inputs of height 1"),
    "PReLU": ("its slopes are private weights", "LeakyReLU"),
}
ACTIVATIONS = "'relu', 'relu6', 'leaky_relu' or 'linear'"


def refuse(layer: Any, why: str, instead: str) -> UnsupportedLayer:
    """The error for a layer: its name, its class, why, and what to use instead."""
    return UnsupportedLayer(f"layer {layer.name!r} ({type(layer).__name__}) cannot be shared: {why}; use instead: {instead}")


def unknown(layer: Any, supported: list[str]) -> UnsupportedLayer:
    """The error for a class of layer that has no rule."""
    why, instead = WHY.get(type(layer).__name__, (NO_FORM, f"one of {', '.join(supported)}"))
    return refuse(layer, why, instead)
