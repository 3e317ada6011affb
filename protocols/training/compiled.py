"""A compiled Keras model becomes a plan: which networks, losses and optimizers can be trained on shares. Only the owner needs Keras."""

from __future__ import annotations

from typing import Any

from protocols.errors import ModelError, UnsupportedLayer
from protocols.training.compiled_loss import compiled_loss
from protocols.training.compiled_optimizer import compiled_optimizer
from protocols.training.step import DenseLayer, Plan

ENDINGS = ("softmax", "sigmoid")
"""Activations that belong to the loss."""


def plan(model: Any) -> Plan:
    """What `model.fit` would do, in public numbers.

    Raises:
        UnsupportedLayer: a layer that cannot be trained on shares.
        ModelError: a loss or an optimizer that cannot, or a model that is not compiled.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    if not isinstance(model, keras.Sequential) or not model.built:
        raise ModelError(f"model {model.name!r} cannot be trained on shares: a built keras.Sequential of dense layers is needed")
    if getattr(model, "optimizer", None) is None or model.loss is None:
        raise ModelError(f"model {model.name!r} is not compiled: compile(optimizer=keras.optimizers.SGD(0.1), loss=...) says how to train")
    layers, ending = _layers(model, keras)
    return Plan(layers, compiled_loss(model, keras, ending=ending), compiled_optimizer(model, keras))


def _layers(model: Any, keras: Any) -> tuple[tuple[DenseLayer, ...], str | None]:
    dense: list[DenseLayer] = []
    ending: str | None = None
    for layer in model.layers:
        name = f"layer {layer.name!r} ({type(layer).__name__})"
        if ending:
            raise UnsupportedLayer(f"{name} comes after a {ending}: the {ending} must be the last layer to be trained on shares")
        if not layer.trainable:
            raise UnsupportedLayer(f"{name} is frozen: on shares all layers are trained")
        match type(layer):
            case keras.layers.InputLayer:
                pass
            case keras.layers.Flatten if not dense:
                pass
            case keras.layers.Dense:
                activation = _activation(layer, name)
                ending = activation if activation in ENDINGS else None
                dense.append(_dense(layer, name, relu=activation == "relu"))
            case keras.layers.ReLU | keras.layers.Activation | keras.layers.Softmax if dense and not dense[-1].relu:
                activation = _activation(layer, name)
                ending = activation if activation in ENDINGS else None
                last = dense[-1]
                dense[-1] = DenseLayer(last.inputs, last.units, last.bias, activation == "relu")
            case _:
                raise UnsupportedLayer(
                    f"{name} cannot be trained on shares; Flatten at the beginning, Dense, ReLU, and a softmax or sigmoid at the end can be"
                )
    if not dense or dense[-1].relu:
        raise UnsupportedLayer(f"model {model.name!r} must end in a Dense layer without ReLU to be trained on shares")
    return tuple(dense), ending


def _activation(layer: Any, name: str) -> str:
    kind = type(layer).__name__
    if kind == "ReLU":
        if layer.max_value is not None or layer.negative_slope or layer.threshold:
            raise UnsupportedLayer(f"{name} has a slope, threshold or maximum: on shares the plain ReLU can be trained")
        return "relu"
    if kind == "Softmax":
        return "softmax"
    function = layer.activation.__name__
    if function not in ("linear", "relu", *ENDINGS):
        raise UnsupportedLayer(f"{name} has the activation {function}: on shares relu, linear, and softmax or sigmoid at the end can be")
    return str(function)


def _dense(layer: Any, name: str, *, relu: bool) -> DenseLayer:
    settings = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
    for setting in settings:
        if getattr(layer, setting, None) is not None:
            raise UnsupportedLayer(f"{name} has a {setting}: it has no form on shares, leave it out")
    if layer.kernel.ndim != 2 or getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise UnsupportedLayer(f"{name} is quantized or adapted: a plain Dense layer is needed")
    inputs, units = layer.kernel.shape
    return DenseLayer(int(inputs), int(units), layer.use_bias, relu)
