"""Rules of operations over whole axes: means, maxima, softmax, normalisation, the k largest; see `operations.py` for what a rule is."""

from __future__ import annotations

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import along, over, plus, times
from protocols.lowering.rules.operations import Call, Result, axis_of, operates
from protocols.mpc.engine.values import Shape


@operates("Mean", "Sum", "Max", "Min")
def reduced(b: NetworkBuilder, call: Call) -> Result:
    """Write the mean, sum, largest or smallest over axes."""
    (x,) = call.values
    name, shape = type(call.operation).__name__, b.shape(x)
    if call.operation.axis is None or getattr(call.operation, "initial", None) is not None:
        raise refuse(call.operation, "it has axis=None, or initial", "axes of an example")
    axes = call.operation.axis if isinstance(call.operation.axis, list | tuple) else [call.operation.axis]
    inside = [axis_of(call.operation, axis, len(shape) + 1) for axis in axes]
    return b.add(net.Shaped, call.operation, [over(b, call.operation, x, inside, name)], call.shape)


@operates("Softmax", "LogSoftmax")
def softmax(b: NetworkBuilder, call: Call) -> Result:
    """Over one axis."""
    (x,) = call.values
    rank = len(call.shape)
    return along(b, call.operation, x, call.axis(rank + 1), lambda y: _softmax(b, call, y))


def _softmax(b: NetworkBuilder, call: Call, x: int) -> int:
    return b.add(net.Softmax, call.operation, [x], b.shape(x), log=type(call.operation).__name__ == "LogSoftmax")


@operates("LayerNorm", "RMSNorm")
def normalised(b: NetworkBuilder, call: Call) -> Result:
    """(x - mean) / sqrt(variance + epsilon) over the last axis, with or without the mean, scaled and shifted."""
    from keras import config  # noqa: PLC0415  an operation of it is at hand

    x, *factors = call.operands
    name, operation = type(call.operation).__name__, call.operation
    assert isinstance(x, int)
    centred = name == "LayerNorm" and not operation.rms_scaling
    epsilon = config.epsilon() if operation.epsilon is None else operation.epsilon
    if call.axis(len(call.shape) + 1) != len(call.shape) - 1:
        raise refuse(operation, f"its axis is {operation.axis}", "the last axis")
    y = b.add(net.Normalised, operation, [x], call.shape, epsilon=float(epsilon), centred=centred)
    y = times(b, operation, y, factors[0]) if factors else y
    return plus(b, operation, y, factors[1]) if len(factors) > 1 else y


@operates("Cumsum")
def cumulated(b: NetworkBuilder, call: Call) -> Result:
    """Write sums of all before, along one axis."""
    (x,) = call.values

    def rule(y: int) -> int:
        length = b.shape(y)[-1]
        return b.add(net.Product, call.operation, [y], b.shape(y), kernel=np.triu(np.ones((length, length))), bias=None)

    return along(b, call.operation, x, call.axis(len(call.shape) + 1), rule)


@operates("Logsumexp")
def logsumexp(b: NetworkBuilder, call: Call) -> Result:
    """log sum exp x = x_0 - log softmax(x)_0 over one axis."""
    (x,) = call.values
    operation, shape = call.operation, b.shape(x)
    axis = call.axis(len(shape) + 1)
    logarithms = along(b, operation, x, axis, lambda y: b.add(net.Softmax, operation, [y], b.shape(y), log=True))
    difference = plus(b, operation, x, logarithms, -1)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return b.add(net.Shaped, operation, [b.add(net.Taken, operation, [difference], one, axis=axis, indices=(0,))], call.shape)


@operates("Moments", "Var")
def moments(b: NetworkBuilder, call: Call) -> Result:
    """Mean and variance over axes, or the variance."""
    (x,) = call.values
    operation, shape = call.operation, b.shape(x)
    given = operation.axes if type(operation).__name__ == "Moments" else operation.axis
    axes = [axis_of(operation, axis, len(shape) + 1) for axis in (given if isinstance(given, list | tuple) else [given])]
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    mean = b.add(net.Shaped, operation, [over(b, operation, x, axes, "Mean")], kept)
    centred = plus(b, operation, x, mean, -1)
    variance = over(b, operation, times(b, operation, centred, centred), axes, "Mean")
    results = (mean, variance) if type(operation).__name__ == "Moments" else (variance,)
    return [b.add(net.Shaped, operation, [y], one) for y, one in zip(results, call.shapes, strict=True)]


@operates("OneHot")
def one_hot(b: NetworkBuilder, call: Call) -> Result:
    """[i <= x < i + 1] on a new last axis."""
    if call.operation.axis not in (-1, len(call.shape)):
        raise refuse(call.operation, f"its axis is {call.operation.axis}", "the last axis")
    return b.add(net.OneHot, call.operation, call.values, call.shape)


@operates("TopK")
def top_k(b: NetworkBuilder, call: Call) -> Result:
    """Write the k largest of a vector and where they are."""
    (x,) = call.values
    (n,) = shape = b.shape(x)
    (k,) = call.shapes[0]
    if len(shape) != 1:
        raise refuse(call.operation, f"its input has shape {shape}", "a vector an example")
    rows = b.add(net.TopK, call.operation, [x], (k, n))
    column = b.add(net.Shaped, call.operation, [x], (n, 1))
    found = b.add(net.Matrices, call.operation, [rows, column], (k, 1))
    return [b.add(net.Shaped, call.operation, [found], (k,)), _places(b, call, rows, (k,))]


@operates("Argmax", "Argmin")
def argmax(b: NetworkBuilder, call: Call) -> Result:
    """Where the largest, or smallest, of a vector is."""
    (x,) = call.values
    if len(b.shape(x)) != 1 or call.operation.axis is None:
        raise refuse(call.operation, f"its input has shape {b.shape(x)}, its axis is {call.operation.axis}", "a vector an example, axis=-1")
    if type(call.operation).__name__ == "Argmin":
        x = times(b, call.operation, x, np.array(-1.0))
    return _places(b, call, b.add(net.TopK, call.operation, [x], (1, *b.shape(x))), call.shape)


def _places(b: NetworkBuilder, call: Call, rows: int, shape: Shape) -> int:
    k, n = b.shape(rows)
    found = b.add(net.Product, call.operation, [rows], (k, 1), kernel=np.arange(float(n))[:, None], bias=None)
    return b.add(net.Shaped, call.operation, [found], shape)
