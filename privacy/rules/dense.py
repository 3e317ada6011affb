"""Dense: z = x W + b on the last axis, an activation after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from privacy.rules.gradients import ExampleGradients, Outer, Tensor, at_positions
from privacy.rules.registry import Layer, LayerCall, book_keeping


def before_activation(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor) -> tuple[Any, Tensor]:
    """Run a layer of the form activation(z(x)); return its outputs and z, watched."""
    seen: list[Tensor] = []
    activation = layer.activation

    def watched(z: Tensor) -> Tensor:
        watch(z)
        seen.append(z)
        return z if activation is None else activation(z)

    layer.__dict__["activation"] = watched  # past Keras' own bookkeeping of attributes, which is for layers and variables
    try:
        outputs = run(x)
    finally:
        layer.__dict__["activation"] = activation
    return outputs, seen[0]


def lora(layer: Layer) -> str | None:
    """Layers whose kernel is not one variable."""
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "its kernel is quantised or has a LoRA"
    return None


@book_keeping(keras.layers.Dense, name="book-keeping", unless=lora)
def dense(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, LayerCall]:
    """Multiply x_i and dz_i outer, or sum these products over positions."""
    outputs, z = before_activation(layer, run, watch, x)

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        return positions(tf.cast(x, dz[0].dtype), dz[0], bias=layer.use_bias)

    return outputs, LayerCall([z], gradients)


def positions(x: Tensor, dz: Tensor, *, bias: bool) -> ExampleGradients:
    """Any number of axes between the examples and the last one is one axis of positions."""
    if len(x.shape) == 2:
        return Outer(x, dz, bias=bias)
    return at_positions(flat(x), flat(dz), bias=bias)


def flat(x: Tensor) -> Tensor:
    """(B, ..., K) to (B, T, K)."""
    between = x.shape[1:-1]
    count = math.prod(between) if between.is_fully_defined() else tf.reduce_prod(tf.shape(x)[1:-1])
    return tf.reshape(x, tf.stack([tf.shape(x)[0], count, x.shape[-1]]))
