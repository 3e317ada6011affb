"""Rules of layers that compare, multiply or divide private values; see `layers.py` for what a rule is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocols.lowering import network as net
from protocols.lowering.curves import curve_of
from protocols.lowering.layers import Builder, channels_last, image, lowers, weights
from protocols.lowering.refusals import refuse


@lowers("MaxPooling2D")
def max_pooling2d(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """Largest of windows."""
    shape, size, strides = image(b, layer, inputs[0]), tuple(layer.pool_size), tuple(layer.strides)
    padding = net.same_padding(shape, size, strides) if layer.padding == "same" else net.NO_PADDING
    grid = net.windows(shape, size, strides, padding)
    return b.add(net.MaxPool, layer, inputs, (*grid, shape[2]), size=size, strides=strides, padding=padding)


@lowers("MaxPooling1D")
def max_pooling1d(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """Largest of windows over time."""
    steps, channels = sequence(b, layer, inputs[0])
    size, strides = (1, *layer.pool_size), (1, *layer.strides)
    padding = net.same_padding((1, steps), size, strides) if layer.padding == "same" else net.NO_PADDING
    grid = net.windows((1, steps), size, strides, padding)
    flat = b.add(net.Shaped, layer, inputs, (1, steps, channels))
    pooled = b.add(net.MaxPool, layer, [flat], (*grid, channels), size=size, strides=strides, padding=padding)
    return b.add(net.Shaped, layer, [pooled], (grid[1], channels))


@lowers("GlobalMaxPooling2D", "GlobalMaxPooling1D")
def global_max_pooling(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """The largest of each channel."""
    channels_last(layer)
    *space, channels = b.shape(inputs[0])
    places = int(np.prod(space))
    flat = b.add(net.Shaped, layer, inputs, (1, places, channels))
    pooled = b.add(net.MaxPool, layer, [flat], (1, 1, channels), size=(1, places), strides=(1, places))
    return b.add(net.Shaped, layer, [pooled], (*(1 for _ in space), channels) if layer.keepdims else (channels,))


@lowers("Softmax")
def softmax(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """Over the last axis."""
    shape = b.shape(inputs[0])
    if layer.axis not in (-1, len(shape)):
        raise refuse(layer, f"its axis is {layer.axis}", "a softmax over the last axis; Permute brings another there")
    return b.add(net.Softmax, layer, inputs, shape)


@lowers("ELU")
def elu(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """With its alpha."""
    return b.add(net.Curved, layer, inputs, b.shape(inputs[0]), curve=curve_of(layer, "ELU"))


@lowers("Maximum", "Minimum")
def maximum(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """The largest, or smallest, of values of one shape."""
    return b.add(net.Largest, layer, inputs, one_shape(b, layer, inputs), smallest=type(layer).__name__ == "Minimum")


@lowers("Average")
def average(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """The mean of values of one shape."""
    shape = one_shape(b, layer, inputs)
    total = b.add(net.Sum, layer, inputs, shape, signs=(1,) * len(inputs))
    return b.add(net.Rescale, layer, [total], shape, scale=1 / len(inputs), offset=0.0)


@lowers("Multiply")
def multiply(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """The product of values with as many axes each, axes of length 1 repeated."""
    shapes = [b.shape(x) for x in inputs]
    if len({len(shape) for shape in shapes}) != 1:
        raise refuse(layer, f"its inputs have shapes {shapes}", "inputs with as many axes each")
    return b.add(net.Multiplied, layer, inputs, np.broadcast_shapes(*shapes))


@lowers("UpSampling2D")
def up_sampling2d(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """Rows and columns repeated."""
    h, w, channels = image(b, layer, inputs[0])
    if layer.interpolation != "nearest":
        raise refuse(layer, f"its interpolation is {layer.interpolation!r}", "interpolation='nearest', or Conv2DTranspose")
    rows, columns = (np.arange(n).repeat(size).tolist() for n, size in zip((h, w), layer.size, strict=True))
    taken = b.add(net.Taken, layer, inputs, (len(rows), w, channels), axis=0, indices=tuple(rows))
    return b.add(net.Taken, layer, [taken], (len(rows), len(columns), channels), axis=1, indices=tuple(columns))


@lowers("Permute")
def permute(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """The axes in another order."""
    axes = tuple(axis - 1 for axis in layer.dims)
    return b.add(net.Permuted, layer, inputs, [b.shape(inputs[0])[axis] for axis in axes], axes=axes)


@lowers("RepeatVector")
def repeat_vector(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """A vector, n times."""
    (units,) = b.shape(inputs[0])
    row = b.add(net.Shaped, layer, inputs, (1, units))
    return b.add(net.Taken, layer, [row], (layer.n, units), axis=0, indices=(0,) * layer.n)


@lowers("LayerNormalization")
def layer_normalization(b: Builder, layer: Any, inputs: Sequence[int]) -> int:
    """Over the last axis, with private scale and shift."""
    shape = b.shape(inputs[0])
    axes = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    if axes not in ((-1,), (len(shape),)) or getattr(layer, "rms_scaling", False):
        raise refuse(layer, f"its axis is {layer.axis}, or rms_scaling is set", "LayerNormalization over the last axis")
    gamma, beta = weights(layer, "gamma", "beta")
    x = b.add(net.Normalised, layer, inputs, shape, epsilon=float(layer.epsilon))
    if gamma is None and beta is None:
        return x
    scale = np.ones(shape[-1]) if gamma is None else gamma
    return b.add(net.Affine, layer, [x], shape, scale=scale, shift=np.zeros(shape[-1]) if beta is None else beta)


def sequence(b: Builder, layer: Any, x: int) -> tuple[int, int]:
    """The shape of an input that must be (steps, channels)."""
    channels_last(layer)
    if len(b.shape(x)) != 2:
        raise refuse(layer, f"its input has shape {b.shape(x)}", "an input of (steps, channels)")
    steps, channels = b.shape(x)
    return steps, channels


def one_shape(b: Builder, layer: Any, inputs: Sequence[int]) -> tuple[int, ...]:
    """The shape that all inputs have."""
    shapes = {b.shape(x) for x in inputs}
    if len(shapes) != 1:
        raise refuse(layer, f"its inputs have different shapes {sorted(shapes)}", "inputs of one shape")
    return shapes.pop()
