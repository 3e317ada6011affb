"""One rule for each Keras layer: what it is as nodes of a network.

A rule gets the builder, the layer, and the positions of its inputs; it returns the position of its output. Rules are found by the name of
the layer's class, so that importing this file imports no Keras.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from protocols.curves.activations import curve_of
from protocols.errors import ModelError
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.nodes.numbers import number
from protocols.lowering.nodes.refusals import ACTIVATIONS, refuse
from protocols.lowering.rules.arithmetic import alike
from protocols.mpc.engine.values import Pair, Shape

Rule = Callable[..., Any]
"""(builder, layer, inputs) -> output, or a list of outputs, with masks by name where the layer takes them."""
RULES: dict[str, Rule] = {}


def lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for layers of these classes."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def weights(layer: Any, *names: str) -> list[Real | None]:
    """Return the named weights of a layer as float64, None where it has none.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    found = []
    for name in names:
        variable = getattr(layer, name, None)
        value = None if variable is None else number(variable)
        if value is not None and not np.isfinite(value).all():
            raise ModelError(f"layer {layer.name!r}: {name} has {int((~np.isfinite(value)).sum())} NaN or infinite values; train it again")
        found.append(value)
    return found


def activated(b: NetworkBuilder, layer: Any, x: int) -> int:
    """Apply the activation of a layer, if it has one."""
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    if activation is None:
        return x
    source = getattr(activation, "__module__", None) or ""
    what = activation if hasattr(activation, "__name__") else type(activation)
    if not source.startswith(("keras.", "tensorflow.")) or getattr(sys.modules.get(source), name, None) is not what:  # or wraps one
        return b.follow(layer, activation, x)
    if name == "linear":
        return x
    settings = {"relu": {}, "relu6": {"maximum": 6.0}, "leaky_relu": {"slope": 0.2}}.get(name)
    if settings is not None:
        return b.add(net.Rectify, layer, [x], b.shape(x), **settings)
    if name in ("softmax", "log_softmax"):
        return b.add(net.Softmax, layer, [x], b.shape(x), log=name == "log_softmax")
    curve = curve_of(activation, name)
    if curve is not None:
        return b.add(net.Curved, layer, [x], b.shape(x), curve=curve)
    if name in RULES:  # an activation layer passed as activation
        position: int = RULES[name](b, activation, [x])
        return position
    raise refuse(layer, f"its activation {name!r} has no private form", ACTIVATIONS)


def channels_last(layer: Any) -> None:
    """Refuse the other data format."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise refuse(layer, "data_format is 'channels_first'", "data_format='channels_last'")


def image(b: NetworkBuilder, layer: Any, x: int) -> Shape:
    """Return the shape of an input that must be (height, width, channels)."""
    channels_last(layer)
    if len(b.shape(x)) != 3:
        raise refuse(layer, f"its input has shape {b.shape(x)}", "an input of (height, width, channels)")
    return b.shape(x)


def _convolution(b: NetworkBuilder, layer: Any, x: int, kernel: Real, bias: Real | None, groups: int, *, pointwise: bool = False) -> int:
    shape, size = image(b, layer, x), (kernel.shape[0], kernel.shape[1])
    strides, dilation = ((1, 1), (1, 1)) if pointwise else (tuple(layer.strides), tuple(layer.dilation_rate))
    padding = net.NO_PADDING if pointwise or layer.padding == "valid" else net.same_padding(shape, size, strides, dilation)
    grid = net.windows(shape, size, strides, padding, dilation)
    return b.add(
        net.Convolution,
        layer,
        [x],
        (*grid, kernel.shape[3]),
        kernel=kernel,
        bias=bias,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def _present(weight: Real | None) -> Real:
    assert weight is not None
    return weight


@lowers("Conv2D")
def conv2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Conv2D with strides, padding, dilation and groups."""
    kernel, bias = weights(layer, "kernel", "bias")
    return activated(b, layer, _convolution(b, layer, inputs[0], _present(kernel), bias, layer.groups))


def _depthwise(kernel: Real) -> Real:
    """(kh, kw, channels, multiplier) as a grouped kernel (kh, kw, 1, channels * multiplier)."""
    return kernel.reshape(*kernel.shape[:2], 1, -1)


@lowers("DepthwiseConv2D")
def depthwise_conv2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """One group for each channel."""
    kernel, bias = weights(layer, "kernel", "bias")
    return activated(b, layer, _convolution(b, layer, inputs[0], _depthwise(_present(kernel)), bias, b.shape(inputs[0])[-1]))


@lowers("SeparableConv2D")
def separable_conv2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Depthwise, then 1 x 1."""
    depthwise, pointwise, bias = weights(layer, "depthwise_kernel", "pointwise_kernel", "bias")
    x = _convolution(b, layer, inputs[0], _depthwise(_present(depthwise)), None, b.shape(inputs[0])[-1])
    return activated(b, layer, _convolution(b, layer, x, _present(pointwise), bias, 1, pointwise=True))


@lowers("Dense")
def dense(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Over the last axis."""
    kernel, bias = weights(layer, "kernel", "bias")
    shape = (*b.shape(inputs[0])[:-1], _present(kernel).shape[1])
    return activated(b, layer, b.add(net.Product, layer, inputs, shape, kernel=kernel, bias=bias))


@lowers("BatchNormalization")
def batch_normalization(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta with the moving statistics."""
    shape = b.shape(inputs[0])
    if layer.axis not in (-1, len(shape)):
        raise refuse(layer, f"it normalises axis {layer.axis}", "axis=-1")
    gamma, beta, mean, variance = weights(layer, "gamma", "beta", "moving_mean", "moving_variance")
    if (_present(variance) + layer.epsilon <= 0).any():
        raise refuse(layer, "a moving variance and epsilon are 0 or less together", "statistics of data: call or train the model again")
    scale = (1.0 if gamma is None else gamma) / np.sqrt(_present(variance) + layer.epsilon)
    shift = (0.0 if beta is None else beta) - _present(mean) * scale
    return b.add(net.ChannelAffine, layer, inputs, shape, scale=scale, shift=shift)


@lowers("Normalization")
def normalization(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """(x - mean) / max(sqrt(variance), epsilon) over the last axis, or with one mean and variance for all."""
    from keras import config  # noqa: PLC0415  a layer of it is at hand

    shape = b.shape(inputs[0])
    if layer.invert or tuple(layer.axis) not in ((), (-1,), (len(shape),)):
        raise refuse(layer, f"axis={layer.axis}, invert={layer.invert}", "axis=-1 or None, and invert=False")
    mean, variance = (np.broadcast_to(_present(w).reshape(-1), shape[-1:]) for w in weights(layer, "mean", "variance"))
    scale = 1 / np.maximum(np.sqrt(variance), config.epsilon())
    return b.add(net.ChannelAffine, layer, inputs, shape, scale=scale, shift=-mean * scale)


@lowers("AveragePooling2D")
def average_pooling2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Means over windows."""
    image(b, layer, inputs[0])  # refuses what is none
    return pool_windows(b, layer, inputs[0], net.AveragePool, tuple(layer.pool_size), tuple(layer.strides))


def pool_windows(b: NetworkBuilder, layer: Any, x: int, kind: type[Node], size: Pair, strides: Pair) -> int:
    """Pool an image over the windows of a layer."""
    shape = b.shape(x)
    padding = net.same_padding(shape, size, strides) if layer.padding == "same" else net.NO_PADDING
    grid = net.windows(shape, size, strides, padding)
    return b.add(kind, layer, [x], (*grid, shape[2]), size=size, strides=strides, padding=padding)


@lowers("GlobalAveragePooling2D")
def global_average_pooling2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write the mean of each channel."""
    h, w, channels = image(b, layer, inputs[0])
    pooled = b.add(net.AveragePool, layer, inputs, (1, 1, channels), size=(h, w), strides=(h, w))
    return pooled if layer.keepdims else b.add(net.Shaped, layer, [pooled], (channels,))


@lowers("ReLU")
def relu(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """With threshold, slope below it, and maximum."""
    maximum = None if layer.max_value is None else float(layer.max_value)
    if maximum is not None and layer.threshold > maximum:
        raise refuse(layer, f"its threshold {layer.threshold} is above max_value {layer.max_value}", "a threshold up to max_value")
    settings = {"slope": float(layer.negative_slope), "threshold": float(layer.threshold), "maximum": maximum}
    return b.add(net.Rectify, layer, inputs, b.shape(inputs[0]), **settings)


@lowers("LeakyReLU")
def leaky_relu(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write a rectifier with a slope below zero."""
    return b.add(net.Rectify, layer, inputs, b.shape(inputs[0]), slope=float(layer.negative_slope))


@lowers("Activation")
def activation(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Apply an activation by name."""
    return activated(b, layer, inputs[0])


@lowers("Flatten")
def flatten(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """One axis."""
    channels_last(layer)
    return b.add(net.Shaped, layer, inputs, (int(np.prod(b.shape(inputs[0]))),))


@lowers("Reshape")
def reshape(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Reshape to the layer's target shape, -1 resolved."""
    return b.add(net.Shaped, layer, inputs, np.empty(b.shape(inputs[0]), np.int8).reshape(layer.target_shape).shape)


@lowers("ZeroPadding2D")
def zero_padding2d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Zeros around height and width."""
    h, w, channels = image(b, layer, inputs[0])
    (top, bottom), (left, right) = padding = tuple(tuple(pair) for pair in layer.padding)
    return b.add(net.Padded, layer, inputs, (h + top + bottom, w + left + right, channels), padding=padding)


@lowers("Add", "Subtract")
def add(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Add or subtract values, axes of length 1 repeated."""
    values, shape = alike(b, layer, inputs)
    last = -1 if type(layer).__name__ == "Subtract" else 1
    return b.add(net.SignedSum, layer, values, shape, signs=(*[1] * (len(inputs) - 1), last))


@lowers("Concatenate")
def concatenate(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Along any axis but the batch."""
    first = list(b.shape(inputs[0]))
    axis = layer.axis - 1 if layer.axis > 0 else len(first) + layer.axis
    if not 0 <= axis < len(first):
        raise refuse(layer, f"axis {layer.axis} is not an axis of an example", f"an axis from 1 to {len(first)}")
    first[axis] = sum(b.shape(x)[axis] for x in inputs)
    return b.add(net.Joined, layer, inputs, first, axis=axis)


@lowers("Rescaling")
def rescaling(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """scale x + offset with public numbers."""
    if np.ndim(layer.scale) or np.ndim(layer.offset) or not float(layer.scale) > 0:
        raise refuse(layer, "scale must be one positive number, and offset one number", "Rescaling(scale, offset) with plain numbers")
    return b.add(net.Rescale, layer, inputs, b.shape(inputs[0]), scale=float(layer.scale), offset=float(layer.offset))


@lowers(
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
    "InputLayer",
)
def nothing(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Layers that do nothing at inference."""
    return inputs[0]
