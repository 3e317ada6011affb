"""What a program computes, in the clear: slow, obviously right, and the oracle of every test.

Integers modulo 2^64 in plain numpy; none of the kernels of this package. Where the protocols need a sum to stay inside its window, this
raises, so that tests find windows that are too small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from protocols.errors import WindowError
from protocols.mpc.local import operands
from protocols.mpc.operations.instructions import (
    AddNoise,
    AnyOp,
    Argmax,
    AsShare,
    ClampedInput,
    Combine,
    Concatenate,
    Conv2D,
    Dense,
    Hadamard,
    Input,
    MatMul,
    Multiply,
    Open,
    Pad,
    Permute,
    Piecewise,
    Reshape,
    Select,
    Shift,
    SumPool,
    Take,
    Truncate,
)
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program

Rounding = Callable[[tuple[int, ...]], Ring]
"""Gives the random bit u of each rounded value, 0 or 1, for a shape."""

Product = Callable[[Dense | Conv2D, Ring, Ring], Ring]
"""(operation, x, weight) -> x o weight modulo 2^64."""


def evaluate(program: Program, weights: Sequence[Ring], x: Ring, *, rounding: Rounding | None = None) -> Ring:
    """The output (examples, *output_shape) of a program for integers `x` (examples, *input_shape); see `trace`."""
    return trace(program, weights, x, rounding=rounding)[-1]


def trace(program: Program, weights: Sequence[Ring], x: Ring, *, rounding: Rounding | None = None) -> list[Ring]:
    """Every value of a program, in order.

    Args:
        program: what to compute.
        weights: its weights as integers, in the shapes of `program.weights`.
        x: encoded examples.
        rounding: the random bits of truncation; all zero (rounding down) if None.

    Raises:
        WindowError: a sum, or a difference that an arg max compares, left its window: |Z| > 2^(drop + w - 1) - 2^(drop + 1).

    Noise is left out. The arg max is that of the exact values; a protocol that drops bits may choose another of those within 2^drop of
    the largest.
    """
    values = outputs(program, weights, x, range(len(program.ops)), rounding=rounding)
    return [values[position] for position in range(len(program.ops))]


def outputs(
    program: Program,
    weights: Sequence[Ring],
    x: Ring,
    wanted: Collection[int],
    *,
    rounding: Rounding | None = None,
    product: Product | None = None,
) -> dict[int, Ring]:
    """Some values of a program by position; the others are forgotten as soon as nothing needs them. See `trace`.

    Args:
        program: what to compute.
        weights: its weights.
        x: encoded examples.
        wanted: positions of the values.
        rounding: the random bits of truncation.
        product: a faster one in place of that of this file.
    """
    needed = {operand: position for position, op in enumerate(program.ops) for operand in operands(op)}
    values: dict[int, Ring] = {}
    for position, op in enumerate(program.ops):
        values[position] = _value(op, position, values, weights, x, rounding or _down, product or _product)
        for done in {*operands(op), position} - set(wanted):
            if needed.get(done, position) <= position:
                del values[done]
    return values


def _product(op: Dense | Conv2D, x: Ring, weight: Ring) -> Ring:
    return _convolved(op, x, weight) if isinstance(op, Conv2D) else np.tensordot(x, weight, 1)


def _down(shape: tuple[int, ...]) -> Ring:
    return np.zeros(shape, np.uint64)


def _value(
    op: AnyOp, position: int, values: Mapping[int, Ring], weights: Sequence[Ring], x: Ring, rounding: Rounding, product: Product
) -> Ring:
    match op:
        case Input():
            return x
        case ClampedInput(low, high, shape):
            ends = [np.array(edge, np.int64).reshape(shape) for edge in (low, high)]
            return x.view(np.int64).clip(*ends).view(np.uint64)
        case Open(a) | AsShare(a) | AddNoise(a):
            return values[a]
        case Dense(a) | Conv2D(a):
            return _biased(product(op, values[a], weights[op.weight]), weights, op.bias)
        case Shift(a, weight):
            return values[a] + weights[weight]
        case Hadamard(a, b):
            return values[a] * values[b]
        case MatMul(a, b):
            return values[a] @ values[b]
        case Piecewise(a, drop, window):
            return _piecewise(op, _truncated(values[a], drop, window - 1, position, rounding))
        case Truncate(a, drop, window):
            return _truncated(values[a], drop, window, position, rounding)
        case Select(a, drop, window):
            return _selected(op, _truncated(values[a], drop, window, position, rounding))
        case Argmax(a, drop, window):
            return _one_hot(values[a], drop, window, position)
        case _:
            return _local(op, values, product)


def _biased(z: Ring, weights: Sequence[Ring], bias: int | None) -> Ring:
    return z if bias is None else z + weights[bias]


def _convolved(op: Conv2D, x: Ring, kernel: Ring) -> Ring:
    padded = np.pad(x, ((0, 0), *op.padding, (0, 0)))
    kh, kw, channels, filters = kernel.shape
    h, w = (
        (n - step * (k - 1) - 1) // stride + 1
        for n, k, stride, step in zip(padded.shape[1:3], (kh, kw), op.strides, op.dilation, strict=True)
    )
    out = np.zeros((len(x), h, w, filters), np.uint64)
    each = filters // op.groups
    for group, i, j in itertools.product(range(op.groups), range(kh), range(kw)):
        rows = slice(i * op.dilation[0], i * op.dilation[0] + (h - 1) * op.strides[0] + 1, op.strides[0])
        columns = slice(j * op.dilation[1], j * op.dilation[1] + (w - 1) * op.strides[1] + 1, op.strides[1])
        patch = padded[:, rows, columns, group * channels : (group + 1) * channels]
        out[..., group * each : (group + 1) * each] += np.tensordot(patch, kernel[i, j, :, group * each : (group + 1) * each], 1)
    return out


def _truncated(z: Ring, drop: int, window: int, position: int, rounding: Rounding) -> Ring:
    signed = z.view(np.int64)
    _check_window(max(int(signed.max(initial=0)), -int(signed.min(initial=0))), drop, window, position)
    exact = signed & np.int64((1 << drop) - 1) == 0
    return (signed >> np.int64(drop)).view(np.uint64) + np.where(exact, np.uint64(0), rounding(z.shape))  # type: ignore[no-any-return, unused-ignore]


def _selected(op: Select, t: Ring) -> Ring:
    positive, negative, step = (np.uint64(value % 2**64) for value in (op.positive, op.negative, op.step))
    selected: Ring = np.where(t.view(np.int64) >= 0, positive * t + step, negative * t)
    return selected


def _piecewise(op: Piecewise, t: Ring) -> Ring:
    pieces = np.searchsorted(op.knots, t.view(np.int64), side="right")
    slopes, offsets = (np.array([factor % 2**64 for factor in factors], np.uint64) for factors in (op.slopes, op.offsets))
    y: Ring = slopes[pieces] * t + offsets[pieces]
    return y


def _check_window(largest: int, drop: int, window: int, position: int) -> None:
    limit = (1 << (drop + window - 1)) - (1 << (drop + 1))
    if largest > limit:
        raise WindowError(f"operation {position}: a sum of {largest} is outside of its window, which ends at {limit}")


def _one_hot(z: Ring, drop: int, window: int, position: int) -> Ring:
    signed = z.view(np.int64)
    for example in signed.tolist():
        _check_window(max(example) - min(example), drop, window, position)
    one_hot = np.zeros_like(z)
    one_hot[np.arange(len(z)), signed.argmax(axis=1)] = 1
    return one_hot


def _local(op: AnyOp, values: Mapping[int, Ring], product: Product) -> Ring:
    match op:
        case Reshape(a, shape):
            return values[a].reshape(len(values[a]), *shape)
        case Permute(a, axes):
            return values[a].transpose(0, *(axis + 1 for axis in axes))
        case Take(a, axis, indices):
            return np.concatenate([values[a].take([index], axis + 1) for index in indices], axis + 1)
        case Pad(a, padding):
            return np.pad(values[a], ((0, 0), *padding, (0, 0)))
        case SumPool(a):
            return _summed(op, values[a], product)
        case Concatenate(xs, axis):
            return np.concatenate([values[a] for a in xs], axis + 1)
        case Combine(xs, factors, constant):
            total = np.full_like(values[xs[0]], constant % 2**64)
            for a, factor in zip(xs, factors, strict=True):
                total += values[a] * np.uint64(factor % 2**64)
            return total
        case Multiply(a, factors, shape):
            scaled: Ring = values[a] * np.array([factor % 2**64 for factor in factors], np.uint64).reshape(shape)
            return scaled
        case _:
            raise TypeError(f"unknown operation {type(op).__name__}")


def _summed(op: SumPool, x: Ring, product: Product) -> Ring:
    channels = x.shape[3]
    ones = np.ones((*op.size, 1, channels), np.uint64)
    return product(Conv2D(op.x, 0, strides=op.strides, padding=op.padding, groups=channels), x, ones)
