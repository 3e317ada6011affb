"""Conv1D and Conv2D: a Dense layer at every output position, on the patch of the input that the position sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from privacy.rules.dense import before_activation, flat, lora
from privacy.rules.gradients import Arranged, ExampleGradients, Tensor, at_positions
from privacy.rules.registry import Layer, LayerCall, book_keeping

_AT_ONCE: Final = 64
"""Values of a patch that are gathered at once: more rows of the window only where they fit."""
_IDENTITY_UP_TO: Final = 128
"""From here on `extract_patches` is faster than a convolution with the identity."""


def unusual(layer: Layer) -> str | None:
    """Why a convolution needs the general path."""
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    if layer.data_format != "channels_last":
        return "its channels come first"
    return lora(layer)


@book_keeping(keras.layers.Conv1D, keras.layers.Conv2D, name="book-keeping on patches", unless=unusual)
def convolution(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, LayerCall]:
    """z_t = patch_t W + b: as Dense at T positions, with the kernel (height, width, channels, filters) seen as a matrix.

    A few rows of the window at a time: ||g_i||^2 is the sum over the rows, and only their part of the patches is ever held.
    """
    outputs, z = before_activation(layer, run, watch, x)
    kernel = layer.kernel.shape

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        parts: list[ExampleGradients] = []
        before = dz[0]
        for window in rows(geometry(layer, x)):
            with tf.control_dependencies([before]):  # one after the other, and none in the forward pass
                seen = patches(window._replace(x=tf.identity(window.x)))
            parts.append(at_positions(flat(seen), flat(dz[0]), bias=layer.use_bias and not parts))
            before = parts[-1].squared_norms()
        return Arranged(parts, arrange)

    def arrange(g: list[Tensor]) -> list[Tensor]:
        if not layer.use_bias:
            return [tf.reshape(tf.concat(g, 1), [-1, *kernel])]
        return [tf.reshape(tf.concat([g[0], *g[2:]], 1), [-1, *kernel]), g[1]]

    return outputs, LayerCall([z], gradients)


class Geometry(NamedTuple):
    """A convolution as one of two dimensions without padding; each pair is for height and width."""

    x: Tensor
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]


def geometry(layer: Layer, x: Tensor) -> Geometry:
    """Return what the layer does, with its padding already around x (B, height, width, channels)."""
    window, strides, dilations = layer.kernel_size, layer.strides, layer.dilation_rate
    if len(window) == 1:
        x, window, strides, dilations = x[:, :, None], (*window, 1), (*strides, 1), (*dilations, 1)
    if layer.padding != "valid":
        sides = [_padding(layer.padding, *four) for four in zip(x.shape[1:3], window, strides, dilations, strict=True)]
        x = tf.pad(x, [(0, 0), *sides, (0, 0)])
    return Geometry(x, window, strides, dilations)


def _padding(kind: str, size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    reach = (window - 1) * dilation + 1
    if kind == "causal":
        return (reach - 1, 0) if window > 1 else (0, 0)
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def rows(given: Geometry) -> Iterator[Geometry]:
    """Yield the same convolution with a few rows of its window at a time, from the top."""
    x, (height, width), strides, dilations = given
    few = max(1, min(height, _AT_ONCE // (width * x.shape[-1])))
    reach = (height - 1) * dilations[0]
    for top in range(0, height, few):
        count = min(few, height - top)
        part = x[:, top * dilations[0] : x.shape[1] - reach + (top + count - 1) * dilations[0]]
        yield Geometry(part, (count, width), strides, dilations)


def patches(given: Geometry) -> Tensor:
    """Return what each output position sees: (B, height, width, size of the window * channels).

    By a convolution with the identity, whose work grows with the square of the values, or value by value.
    """
    x, window, strides, dilations = given
    values = int(np.prod(window)) * x.shape[-1]
    if values > _IDENTITY_UP_TO:
        return tf.image.extract_patches(x, (1, *window, 1), (1, *strides, 1), (1, *dilations, 1), "VALID")
    identity = tf.constant(np.eye(values, dtype=np.float32).reshape(*window, x.shape[-1], values))
    return tf.nn.conv2d(x, identity, strides, "VALID", dilations=dilations)
