"""DepthwiseConv1D and DepthwiseConv2D: each channel has kernels of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from privacy.rules.convolution import Geometry, geometry
from privacy.rules.dense import before_activation, flat
from privacy.rules.gradients import ExampleGradients, Materialised, Tensor
from privacy.rules.registry import Layer, LayerCall, book_keeping


def unusual(layer: Layer) -> str | None:
    """Why a depthwise convolution needs the general path."""
    if layer.data_format != "channels_last":
        return "its channels come first"
    if len(set(layer.strides)) > 1:
        return "its strides differ"
    return None


@book_keeping(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D, name="book-keeping on patches", unless=unusual)
def depthwise(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, LayerCall]:
    """g_i[k, c, m] = sum_t patch_it[k, c] dz_it[c, m] for window position k, channel c and multiplier m."""
    outputs, z = before_activation(layer, run, watch, x)
    channels, multiplier, window = x.shape[-1], layer.depth_multiplier, int(np.prod(layer.kernel_size))

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        with tf.control_dependencies(dz):  # as in convolution.py
            seen = patches(geometry(layer, x))
        seen = tf.reshape(seen, [tf.shape(x)[0], -1, channels, window])
        d = tf.reshape(dz[0], [tf.shape(x)[0], -1, channels, multiplier])
        kernel = tf.einsum("btck,btcm->bkcm", seen, d)
        found = [tf.reshape(kernel, [-1, *layer.kernel.shape])]
        return Materialised([*found, tf.reduce_sum(flat(dz[0]), 1)] if layer.use_bias else found)

    return outputs, LayerCall([z], gradients)


def patches(given: Geometry) -> Tensor:
    """Return what each output position sees of each channel: (B, height, width, channels * size of the window)."""
    x, window, strides, dilations = given
    values = int(np.prod(window))
    identity = np.eye(values, dtype=np.float32).reshape(*window, 1, values)
    kernel = tf.constant(np.repeat(identity, x.shape[-1], 2))
    return tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), "VALID", dilations=dilations)
