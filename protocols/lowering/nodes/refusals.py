"""Why a layer cannot be shared, and what to use instead."""

from __future__ import annotations

from typing import Any

from protocols.errors import UnsupportedLayer

NO_FORM = "it has no private form here"
WHY: dict[str, tuple[str, str]] = {
    "Masking": ("which steps it hides depends on private values", "Embedding(mask_zero=True), or sequences of one length"),
    "RNN": ("its cells are not known", "SimpleRNN, LSTM or GRU"),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), (NO_FORM, "TimeDistributed convolutions and an LSTM")),
    **dict.fromkeys(("Conv3D", "Conv3DTranspose", "AveragePooling3D", "MaxPooling3D"), ("it has three axes of space", "its form in 2D")),
    **dict.fromkeys(("CenterCrop",), ("it prepares images", "images that the client has cropped")),
    **dict.fromkeys(
        ("AveragePool", "MaxPool", "Conv", "DepthwiseConv", "SeparableConv", "ConvTranspose"), (NO_FORM, "the layer that does the same")
    ),
}
ACTIVATIONS = "'relu', 'sigmoid', 'tanh', 'gelu', 'silu', 'softplus', 'elu', 'softmax', 'linear' or a relative of these"


def refuse(layer: Any, why: str, instead: str) -> UnsupportedLayer:
    """Return the error for a layer: its name, its class, why, and what to use instead."""
    return UnsupportedLayer(f"layer {layer.name!r} ({type(layer).__name__}) cannot be shared: {why}; use instead: {instead}")


def unknown(layer: Any, supported: list[str]) -> UnsupportedLayer:
    """Return the error for a class of layer that has no rule."""
    why, instead = WHY.get(type(layer).__name__, (NO_FORM, f"one of {', '.join(supported)}"))
    return refuse(layer, why, instead)


def unknown_operation(operation: Any) -> UnsupportedLayer:
    """Return the error for an operation of `keras.ops` that has no rule."""
    why, instead = WHY.get(type(operation).__name__, (NO_FORM, "sums, products, comparisons, activations, reductions and reshapes"))
    return refuse(operation, why, instead)
