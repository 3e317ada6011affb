"""Sums and products in which each operand is a private value or a constant of the model.

A constant that is one number is public, as the layers are; an array is treated as a weight, and stays private.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Real
from protocols.lowering.nodes.refusals import refuse
from protocols.mpc.engine.values import Shape

Operand = int | Real
"""The position of a private value, or a constant."""


def broadcast(b: NetworkBuilder, layer: Any, x: int, shape: Shape) -> int:
    """Repeat axes of length 1 of a value, and put new ones in front, as numpy broadcasts."""
    known = b.shape(x)
    full = (1,) * (len(shape) - len(known)) + known
    x = x if full == known else b.add(net.Shaped, layer, [x], full)
    for axis, (found, wanted) in enumerate(zip(full, shape, strict=True)):
        if found != wanted:
            here = b.shape(x)
            x = b.add(net.Taken, layer, [x], (*here[:axis], wanted, *here[axis + 1 :]), axis=axis, indices=(0,) * wanted)
    return x


def common_shape(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> Shape:
    """Return the shape to which values are broadcast."""
    shapes = [b.shape(x) for x in inputs]
    if len({len(shape) for shape in shapes}) > 1:
        raise refuse(layer, f"its inputs have shapes {shapes}", "inputs with as many axes each")
    return np.broadcast_shapes(*shapes)


def alike(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> tuple[list[int], Shape]:
    """Values broadcast to one shape, and the shape."""
    shape = common_shape(b, layer, inputs)
    return [broadcast(b, layer, x, shape) for x in inputs], shape


def plus(b: NetworkBuilder, layer: Any, x: Operand, y: Operand, sign: int = 1) -> int:
    """x + y, or x - y."""
    if not isinstance(x, int):
        assert isinstance(y, int)
        return plus(b, layer, times(b, layer, y, np.asarray(float(sign))), x)
    if not isinstance(y, int):
        return _shifted(b, layer, x, np.asarray(sign * y))
    both, shape = alike(b, layer, [x, y])
    return b.add(net.SignedSum, layer, both, shape, signs=(1, sign))


def times(b: NetworkBuilder, layer: Any, x: Operand, y: Operand) -> int:
    """x y, element for element."""
    if not isinstance(x, int):
        x, y = y, x
    assert isinstance(x, int)
    if not isinstance(y, int):
        return _scaled(b, layer, x, np.asarray(y))
    shape = common_shape(b, layer, [x, y])
    return b.add(net.Multiplied, layer, [x, y], shape)


def _shifted(b: NetworkBuilder, layer: Any, x: int, constant: Real) -> int:
    constant = _beside(b, layer, x, constant)
    if constant.size == 1 and constant.ndim == 0:
        return b.add(net.Rescale, layer, [x], b.shape(x), scale=1.0, offset=float(constant))
    shape = np.broadcast_shapes(b.shape(x), constant.shape)
    x = broadcast(b, layer, x, shape)
    if constant.size == constant.shape[-1] == shape[-1]:
        return b.add(net.ChannelAffine, layer, [x], shape, scale=np.ones(shape[-1]), shift=constant.reshape(-1))
    return b.add(net.Shifted, layer, [x], shape, shift=np.broadcast_to(constant, shape))


def _scaled(b: NetworkBuilder, layer: Any, x: int, constant: Real) -> int:
    constant = _beside(b, layer, x, constant)
    if constant.size == 1 and constant.ndim == 0:
        if not constant:
            raise refuse(layer, "it multiplies by 0", "a model without it")
        return b.add(net.Rescale, layer, [x], b.shape(x), scale=float(constant), offset=0.0)
    shape = np.broadcast_shapes(b.shape(x), constant.shape)
    x = broadcast(b, layer, x, shape)
    if constant.size == constant.shape[-1] == shape[-1]:
        return b.add(net.ChannelAffine, layer, [x], shape, scale=constant.reshape(-1), shift=np.zeros(shape[-1]))
    flat = b.add(net.Shaped, layer, [x], (math.prod(shape),))
    full = np.broadcast_to(constant, shape).reshape(-1)
    scaled = b.add(net.ChannelAffine, layer, [flat], full.shape, scale=full, shift=np.zeros(full.size))
    return b.add(net.Shaped, layer, [scaled], shape)


def _beside(b: NetworkBuilder, layer: Any, x: int, constant: Real) -> Real:
    """Return a constant without its batch axis, which must have length 1."""
    if not np.isfinite(constant).all():
        raise refuse(layer, "a constant in it is NaN or infinite", "finite constants")
    if constant.ndim > len(b.shape(x)):
        if constant.shape[0] != 1 or constant.ndim > len(b.shape(x)) + 1:
            raise refuse(
                layer, f"a constant of shape {constant.shape} does not fit examples of shape {b.shape(x)}", "one without a batch axis"
            )
        constant = constant[0]
    return constant


def along(b: NetworkBuilder, layer: Any, x: int, axis: int, rule: Callable[[int], int]) -> int:
    """Apply a rule over the last axis, which may change its length, for any axis."""
    shape = b.shape(x)
    if axis == len(shape) - 1:
        return rule(x)
    order = list(range(len(shape)))
    order[axis], order[-1] = order[-1], order[axis]
    turned = rule(b.add(net.Permuted, layer, [x], [shape[i] for i in order], axes=tuple(order)))
    return b.add(net.Permuted, layer, [turned], [b.shape(turned)[i] for i in order], axes=tuple(order))


def over(b: NetworkBuilder, layer: Any, x: int, axes: Sequence[int], name: str) -> int:
    """Write the Mean, Sum, Max or Min over axes: (outer, 1, 1)."""
    shape = b.shape(x)
    if name == "Min":
        turned = over(b, layer, times(b, layer, x, np.array(-1.0)), axes, "Max")
        return times(b, layer, turned, np.array(-1.0))
    order = (*(axis for axis in range(len(shape)) if axis not in axes), *axes)
    length = math.prod(shape[axis] for axis in axes)
    if order != tuple(range(len(shape))):
        x = b.add(net.Permuted, layer, [x], [shape[axis] for axis in order], axes=order)
    outer = math.prod(shape) // length
    x = b.add(net.Shaped, layer, [x], (outer, length, 1))
    pool: type[net.Node] = net.MaxPool if name == "Max" else net.AveragePool
    y = b.add(pool, layer, [x], (outer, 1, 1), size=(1, length), strides=(1, length))
    return b.add(net.Rescale, layer, [y], (outer, 1, 1), scale=float(length), offset=0.0) if name == "Sum" else y
