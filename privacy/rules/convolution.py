"""Conv1D and Conv2D: a Dense layer at every output position, on the patch of the input that the position sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from privacy.rules.dense import before_activation, flat, lora
from privacy.rules.gradients import Arranged, ExampleGradients, Tensor, at_positions
from privacy.rules.registry import Call, Layer, book_keeping

_IDENTITY_UP_TO: Final = 128  # values that a position sees


def unusual(layer: Layer) -> str | None:
    """Why a convolution needs the general path."""
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    if layer.data_format != "channels_last":
        return "its channels come first"
    return lora(layer)


@book_keeping(keras.layers.Conv1D, keras.layers.Conv2D, name="book-keeping on patches", unless=unusual)
def convolution(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, Call]:
    """z_t = patch_t W + b: as Dense at T positions, with the kernel (height, width, channels, filters) seen as a matrix."""
    outputs, z = before_activation(layer, run, watch, x)
    kernel = layer.kernel.shape

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        with tf.control_dependencies(dz):  # else the patches of all layers would be held from the forward pass on
            seen = patches(layer, x)
        found = at_positions(flat(seen), flat(dz[0]), bias=layer.use_bias)
        return Arranged([found], lambda g: [tf.reshape(g[0], [-1, *kernel]), *g[1:]])

    return outputs, Call([z], gradients)


def patches(layer: Layer, x: Tensor) -> Tensor:
    """What each output position sees: (B, height, width, size of the window * channels).

    By a convolution with the identity kernel, whose multiplications grow with the square of the values that a position sees, or by
    `extract_patches`, which moves each value slowly: 2.1 against 6.3 ms at 64 values, 7.8 against 3.2 ms at 256 (two cores).
    """
    x, window, strides, dilations, padding = padded(layer, x)
    values = int(np.prod(window)) * x.shape[-1]
    if values > _IDENTITY_UP_TO:
        return tf.image.extract_patches(x, (1, *window, 1), (1, *strides, 1), (1, *dilations, 1), padding)
    identity = tf.constant(np.eye(values, dtype=np.float32).reshape(*window, x.shape[-1], values))
    return tf.nn.conv2d(x, identity, strides, padding, dilations=dilations)


def padded(layer: Layer, x: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
    """The input, window, strides, dilations and padding of a convolution, as one of two dimensions."""
    window, strides, dilations, padding = layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding
    if padding == "causal":
        x, padding = tf.pad(x, [[0, 0], [dilations[0] * (window[0] - 1), 0], [0, 0]]), "valid"
    if len(window) == 1:  # the second dimension has one position; its stride is the first's, since depthwise kernels want them equal
        x, window, strides, dilations = x[:, :, None], (*window, 1), strides * 2, (*dilations, 1)
    return x, window, strides, dilations, padding.upper()
