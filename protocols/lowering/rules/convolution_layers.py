"""Rules of convolutions and means that are written as others: over one axis, and transposed; see `layers.py` for what a rule is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Real
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import over, plus, times
from protocols.lowering.rules.layers import activated, image, lowers, weights
from protocols.lowering.rules.nonlinear_layers import pool_steps, sequence


@lowers("Conv1D")
def conv1d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Convolve an image one pixel high; causal convolutions have all zeros before."""
    kernel, bias = weights(layer, "kernel", "bias")
    assert kernel is not None
    return activated(b, layer, _along_steps(b, layer, inputs[0], kernel, bias, layer.groups))


def _along_steps(b: NetworkBuilder, layer: Any, x: int, kernel: Real, bias: Real | None, groups: int) -> int:
    """x (steps, channels) convolved with a kernel (size, channels / groups, filters)."""
    steps, channels = sequence(b, layer, x)
    size, strides, dilation = (1, len(kernel)), (1, *layer.strides), (1, *layer.dilation_rate)
    padding = net.NO_PADDING
    if layer.padding == "same":
        padding = net.same_padding((1, steps), size, strides, dilation)
    elif layer.padding == "causal":
        padding = ((0, 0), (dilation[1] * (size[1] - 1), 0))
    grid = net.windows((1, steps), size, strides, padding, dilation)
    flat = b.add(net.Shaped, layer, [x], (1, steps, channels))
    settings = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    z = b.add(net.Convolution, layer, [flat], (*grid, kernel.shape[2]), kernel=kernel[None], bias=bias, **settings)
    return b.add(net.Shaped, layer, [z], (grid[1], kernel.shape[2]))


def _depthwise(kernel: Real) -> Real:
    """(size, channels, multiplier) as a grouped kernel (size, 1, channels * multiplier)."""
    return kernel.reshape(len(kernel), 1, -1)


@lowers("DepthwiseConv1D")
def depthwise_conv1d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """One group for each channel."""
    kernel, bias = weights(layer, "kernel", "bias")
    assert kernel is not None
    return activated(b, layer, _along_steps(b, layer, inputs[0], _depthwise(kernel), bias, kernel.shape[1]))


@lowers("SeparableConv1D")
def separable_conv1d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Depthwise, then a matrix product in each step."""
    depthwise, pointwise, bias = weights(layer, "depthwise_kernel", "pointwise_kernel", "bias")
    assert depthwise is not None
    assert pointwise is not None
    x = _along_steps(b, layer, inputs[0], _depthwise(depthwise), None, depthwise.shape[1])
    shape = (b.shape(x)[0], pointwise.shape[2])
    return activated(b, layer, b.add(net.Product, layer, [x], shape, kernel=pointwise[0], bias=bias))


@lowers("AveragePooling1D")
def average_pooling1d(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Means over windows of steps."""
    return pool_steps(b, layer, inputs, net.AveragePool)


@lowers("Conv2DTranspose")
def conv2d_transpose(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Zeros between the pixels, then a convolution with the turned kernel."""
    kernel, bias = weights(layer, "kernel", "bias")
    assert kernel is not None
    image(b, layer, inputs[0])
    return activated(b, layer, _transposed(b, layer, inputs[0], kernel, bias, tuple(layer.strides)))


@lowers("Conv1DTranspose")
def conv1d_transpose(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write a transposed convolution of an image one pixel high."""
    kernel, bias = weights(layer, "kernel", "bias")
    assert kernel is not None
    flat = b.add(net.Shaped, layer, inputs, (1, *sequence(b, layer, inputs[0])))
    z = _transposed(b, layer, flat, kernel[None], bias, (1, *layer.strides))
    return activated(b, layer, b.add(net.Shaped, layer, [z], b.shape(z)[1:]))


def _transposed(b: NetworkBuilder, layer: Any, x: int, kernel: Real, bias: Real | None, strides: tuple[int, int]) -> int:
    h, w, channels = b.shape(x)
    if set(layer.dilation_rate) != {1} or getattr(layer, "output_padding", None) is not None:
        raise refuse(layer, "it has dilation_rate or output_padding", f"{type(layer).__name__} without them")
    spaced = _spaced(b, layer, x, (h, w, channels), strides)
    axes = [_zeros(n, k, s, same=layer.padding == "same") for n, k, s in zip((h, w), kernel.shape[:2], strides, strict=True)]
    grid, padding = zip(*axes, strict=True)
    turned: Real = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return b.add(net.Convolution, layer, [spaced], (*grid, kernel.shape[2]), kernel=turned, bias=bias, padding=padding)


def _zeros(n: int, k: int, stride: int, *, same: bool) -> tuple[int, tuple[int, int]]:
    """How long the result is, and the zeros around the spaced input for it."""
    length = n * stride + (0 if same else max(k - stride, 0))
    cut = max(0, (n - 1) * stride + k - length) // 2
    before = k - 1 - cut
    return length, (before, length - (n - 1) * stride - 1 - before + k - 1)


def _spaced(b: NetworkBuilder, layer: Any, x: int, shape: tuple[int, int, int], strides: tuple[int, int]) -> int:
    """`strides` - 1 zeros between rows and between columns."""
    h, w, channels = shape
    (down, right), (rows, columns) = strides, ((h - 1) * strides[0] + 1, (w - 1) * strides[1] + 1)
    if right > 1:
        x = b.add(net.Shaped, layer, [x], (h * w, 1, channels))
        x = b.add(net.Padded, layer, [x], (h * w, right, channels), padding=((0, 0), (0, right - 1)))
        x = b.add(net.Shaped, layer, [x], (h, w * right, channels))
        x = b.add(net.Taken, layer, [x], (h, columns, channels), axis=1, indices=tuple(range(columns)))
    if down > 1:
        x = b.add(net.Shaped, layer, [x], (h, 1, columns * channels))
        x = b.add(net.Padded, layer, [x], (h, down, columns * channels), padding=((0, 0), (0, down - 1)))
        x = b.add(net.Shaped, layer, [x], (h * down, columns, channels))
        x = b.add(net.Taken, layer, [x], (rows, columns, channels), axis=0, indices=tuple(np.arange(rows).tolist()))
    return x


@lowers("GlobalAveragePooling1D")
def global_average_pooling1d(b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: int | None = None) -> int:
    """Write the mean of each channel over all steps, or over those that a private mask keeps: sum m x / max(sum m, 1)."""
    steps, channels = sequence(b, layer, inputs[0])
    if mask is not None:
        bits = b.add(net.Shaped, layer, [mask], (1, steps))
        kept = b.add(net.Matrices, layer, [bits, inputs[0]], (1, channels))
        count = over(b, layer, bits, [1], "Sum")
        more = b.add(net.Rectify, layer, [plus(b, layer, count, np.array(-1.0))], b.shape(count))
        part = b.add(net.Inverse, layer, [plus(b, layer, more, np.array(1.0))], b.shape(count))
        mean = times(b, layer, kept, b.add(net.Shaped, layer, [part], (1, 1)))
        return mean if layer.keepdims else b.add(net.Shaped, layer, [mean], (channels,))
    flat = b.add(net.Shaped, layer, inputs, (1, steps, channels))
    pooled = b.add(net.AveragePool, layer, [flat], (1, 1, channels), size=(1, steps), strides=(1, steps))
    return b.add(net.Shaped, layer, [pooled], (1, channels) if layer.keepdims else (channels,))
