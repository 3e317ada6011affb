"""Rules of layers that compare, multiply or divide private values; see `layers.py` for what a rule is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from protocols.curves.activations import curve_of
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import Operand, alike, along, plus, times
from protocols.lowering.rules.layers import channels_last, image, lowers, pool_windows, weights
from protocols.lowering.rules.truths import is_truth, masked


@lowers("MaxPooling2D")
def max_pooling2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Largest of windows."""
    image(b, layer, inputs[0])  # refuses what is none
    return pool_windows(b, layer, inputs[0], net.MaxPool, tuple(layer.pool_size), tuple(layer.strides))


@lowers("MaxPooling1D")
def max_pooling1d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Largest of windows over time."""
    return pool_steps(b, layer, inputs, net.MaxPool)


def pool_steps(b: NetworkBuilder, layer: Any, inputs: Sequence[int], kind: type[Node]) -> int:
    """Pool steps over the windows of a layer: an image one pixel high."""
    flat = b.add(net.Shaped, layer, inputs, (1, *sequence(b, layer, inputs[0])))
    found = pool_windows(b, layer, flat, kind, (1, *layer.pool_size), (1, *layer.strides))
    return b.add(net.Shaped, layer, [found], b.shape(found)[1:])


@lowers("GlobalMaxPooling2D", "GlobalMaxPooling1D")
def global_max_pooling(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write the largest of each channel."""
    channels_last(layer)
    *space, channels = b.shape(inputs[0])
    places = int(np.prod(space))
    flat = b.add(net.Shaped, layer, inputs, (1, places, channels))
    pooled = b.add(net.MaxPool, layer, [flat], (1, 1, channels), size=(1, places), strides=(1, places))
    return b.add(net.Shaped, layer, [pooled], (*(1 for _ in space), channels) if layer.keepdims else (channels,))


@lowers("Softmax")
def softmax(b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Operand | None = None) -> int:
    """Over one axis; what the mask, of 0 and 1, hides gets nothing."""
    (x,), shape = inputs, b.shape(inputs[0])
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) and len(layer.axis) == 1 else layer.axis
    if not isinstance(axis, int) or axis == 0:
        raise refuse(layer, f"its axis is {layer.axis}", "a softmax over one axis of an example")
    axis = axis - 1 if axis > 0 else axis + len(shape)
    if mask is None:
        return along(b, layer, x, axis, lambda y: b.add(net.Softmax, layer, [y], b.shape(y)))
    if axis != len(shape) - 1:
        raise refuse(layer, "it has a mask, and an axis that is not the last", "axis=-1")
    hidden = isinstance(mask, np.ndarray) and not (np.broadcast_to(mask, (1, *shape)) > 0.5).any(-1).all()  # a whole row: it gives 0
    mask = (mask > 0.5).astype(np.float64) if isinstance(mask, np.ndarray) else _above_half(b, layer, mask)
    scores = masked(b, layer, x, [(mask, None)])
    found = b.add(net.Softmax, layer, [scores], shape)
    return found if isinstance(mask, np.ndarray) and not hidden else times(b, layer, found, mask)


def _above_half(b: NetworkBuilder, layer: Any, mask: int) -> int:
    """[mask > 0.5] = 1 - [0.5 - mask >= 0], or the mask itself if it is a truth."""
    if is_truth(b, mask):
        return mask
    rest = plus(b, layer, np.array(0.5), mask, -1)
    return plus(b, layer, np.array(1.0), b.add(net.Truth, layer, [rest], b.shape(mask)), -1)


@lowers("ELU")
def elu(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """With its alpha."""
    return b.add(net.Curved, layer, inputs, b.shape(inputs[0]), curve=curve_of(layer, "ELU"))


@lowers("Maximum", "Minimum")
def maximum(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write the largest, or smallest, of values, axes of length 1 repeated."""
    values, shape = alike(b, layer, inputs)
    return b.add(net.Largest, layer, values, shape, smallest=type(layer).__name__ == "Minimum")


@lowers("Average")
def average(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write the mean of values, axes of length 1 repeated."""
    values, shape = alike(b, layer, inputs)
    total = b.add(net.SignedSum, layer, values, shape, signs=(1,) * len(inputs))
    return b.add(net.Rescale, layer, [total], shape, scale=1 / len(inputs), offset=0.0)


@lowers("Multiply")
def multiply(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Multiply values with as many axes each, axes of length 1 repeated."""
    return reduce(lambda x, y: times(b, layer, x, y), inputs)


@lowers("UpSampling2D")
def up_sampling2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Rows and columns repeated, or interpolated."""
    h, w, channels = image(b, layer, inputs[0])
    if layer.interpolation != "nearest":
        return _resized(b, layer, inputs[0], (h * layer.size[0], w * layer.size[1]))
    rows, columns = (np.arange(n).repeat(size).tolist() for n, size in zip((h, w), layer.size, strict=True))
    taken = b.add(net.Taken, layer, inputs, (len(rows), w, channels), axis=0, indices=tuple(rows))
    return b.add(net.Taken, layer, [taken], (len(rows), len(columns), channels), axis=1, indices=tuple(columns))


@lowers("Resizing")
def resizing(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Another height and width."""
    image(b, layer, inputs[0])  # refuses what is none
    if layer.crop_to_aspect_ratio or getattr(layer, "pad_to_aspect_ratio", False):
        raise refuse(layer, "it crops or pads", "Resizing without, beside Cropping2D or ZeroPadding2D")
    return _resized(b, layer, inputs[0], (layer.height, layer.width))


def _resized(b: NetworkBuilder, layer: Any, x: int, size: tuple[int, int]) -> int:
    """Interpolation is linear: a matrix for the rows and one for the columns, which Keras makes of the unit vectors."""
    from keras import ops  # noqa: PLC0415  a layer of it is at hand

    for axis, length in enumerate(size):
        unit = np.eye(b.shape(x)[axis], dtype=np.float32)[None, :, None]
        matrix = np.asarray(ops.image.resize(unit, (length, 1), interpolation=layer.interpolation, data_format="channels_last"), np.float64)
        kernel = matrix[0, :, 0].T

        def product(y: int, kernel: Real = kernel) -> int:
            return b.add(net.Product, layer, [y], (*b.shape(y)[:-1], kernel.shape[1]), kernel=kernel, bias=None)

        x = along(b, layer, x, axis, product)
    return x


@lowers("Permute")
def permute(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Put axes in another order."""
    axes = tuple(axis - 1 for axis in layer.dims)
    return b.add(net.Permuted, layer, inputs, [b.shape(inputs[0])[axis] for axis in axes], axes=axes)


@lowers("RepeatVector")
def repeat_vector(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Repeat a vector n times."""
    (units,) = b.shape(inputs[0])
    row = b.add(net.Shaped, layer, inputs, (1, units))
    return b.add(net.Taken, layer, [row], (layer.n, units), axis=0, indices=(0,) * layer.n)


@lowers("LayerNormalization")
def layer_normalization(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Over the last axes, with private scale and shift."""
    shape = b.shape(inputs[0])
    given = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    axes = sorted(axis - 1 if axis > 0 else axis + len(shape) for axis in given)
    if axes != list(range(len(shape) - len(axes), len(shape))) or getattr(layer, "rms_scaling", False):
        raise refuse(layer, f"its axis is {layer.axis}, or rms_scaling is set", "the last axes, or RMSNormalization")
    rows = (*shape[: -len(axes)], int(np.prod(shape[-len(axes) :])))
    flat = b.add(net.Shaped, layer, inputs, rows)
    x = b.add(net.Normalised, layer, [flat], rows, epsilon=float(layer.epsilon))
    return b.add(net.Shaped, layer, [learned(b, layer, x)], shape)


def learned(b: NetworkBuilder, layer: Any, x: int) -> int:
    """gamma x + beta over the last axis, where the layer has them."""
    gamma, beta = weights(layer, "gamma", "beta")
    if gamma is None and beta is None:
        return x
    width = b.shape(x)[-1]
    scale = np.ones(width) if gamma is None else gamma.reshape(-1)
    return b.add(net.ChannelAffine, layer, [x], b.shape(x), scale=scale, shift=np.zeros(width) if beta is None else beta.reshape(-1))


@lowers("GroupNormalization")
def group_normalization(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Over all places of the channels of each group (Wu and He, 2018, arXiv:1803.08494)."""
    shape = b.shape(inputs[0])
    places, groups, each = int(np.prod(shape[:-1])), layer.groups, shape[-1] // layer.groups
    if layer.axis not in (-1, len(shape)):
        raise refuse(layer, f"its axis is {layer.axis}", "axis=-1")
    apart = b.add(net.Shaped, layer, inputs, (places, groups, each))
    first = b.add(net.Permuted, layer, [apart], (groups, places, each), axes=(1, 0, 2))
    rows = b.add(net.Shaped, layer, [first], (groups, places * each))
    x = b.add(net.Normalised, layer, [rows], (groups, places * each), epsilon=float(layer.epsilon))
    x = b.add(net.Shaped, layer, [x], (groups, places, each))
    x = b.add(net.Permuted, layer, [x], (places, groups, each), axes=(1, 0, 2))
    return learned(b, layer, b.add(net.Shaped, layer, [x], shape))


@lowers("UnitNormalization")
def unit_normalization(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """x / |x| over one axis: root mean square normalisation without an epsilon, divided by the root of the length.

    Where |x| may be 0 by proof it needs samples, and holds where |x| is above 2^-13 of their largest; rows below come out shorter.
    """
    (x,), shape = inputs, b.shape(inputs[0])
    given = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    if len(given) != 1 or given[0] == 0:
        raise refuse(layer, f"its axis is {layer.axis}", "one axis of an example")
    axis = given[0] - 1 if given[0] > 0 else given[0] + len(shape)

    def rule(y: int) -> int:
        normal = b.add(net.Normalised, layer, [y], b.shape(y), epsilon=0.0, centred=False)
        return b.add(net.Rescale, layer, [normal], b.shape(y), scale=1 / math.sqrt(b.shape(y)[-1]), offset=0.0)

    return along(b, layer, x, axis, rule)


@lowers("PReLU")
def prelu(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """max(x, 0) + alpha min(x, 0) with private slopes."""
    (x,) = inputs
    (alpha,) = weights(layer, "alpha")
    assert alpha is not None
    above = b.add(net.Rectify, layer, [x], b.shape(x))
    below = plus(b, layer, x, above, -1)
    return plus(b, layer, above, times(b, layer, below, np.broadcast_to(alpha, b.shape(x))))


def sequence(b: NetworkBuilder, layer: Any, x: int) -> tuple[int, int]:
    """Return the shape of an input that must be (steps, channels)."""
    channels_last(layer)
    if len(b.shape(x)) != 2:
        raise refuse(layer, f"its input has shape {b.shape(x)}", "an input of (steps, channels)")
    steps, channels = b.shape(x)
    return steps, channels
