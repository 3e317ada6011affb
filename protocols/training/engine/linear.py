"""The linear operations of a circuit: masked values, masks and shares go the same way, so that what they make of a wire is a wire."""

from __future__ import annotations

import numpy as np

from protocols.mpc.operations.instructions import Shape
from protocols.mpc.parties.exchange import Ring
from protocols.training.engine.circuit import Combine, Linear, Put, Reshape, Sum, Take


def apply(op: Linear, xs: list[Ring], shape: Shape, *, constant: bool) -> Ring:
    """The operation on arrays; the result has the given shape. The public constant is added only where `constant` is set."""
    result: Ring
    match op:
        case Reshape(_, new):
            return xs[0].reshape(new)
        case Take(_, axis, indices):
            return xs[0][_at(axis, indices)]
        case Put(_, axis, places, _):
            return _put(xs, axis, places, shape)
        case Combine(_, factors, offset):
            return _combined(xs, factors, offset % 2**64 if constant else 0, shape)
        case Sum(_, None):
            result = xs[0].sum(keepdims=True).reshape(1)
            return result
        case Sum(_, axis, keep):
            result = xs[0].sum(axis, keepdims=keep)
            return result


def _at(axis: int, indices: tuple[int, ...]) -> tuple[slice | tuple[int, ...], ...]:
    """An index for some slices of an axis: a slice, which copies nothing, where they are evenly spaced."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    even = step > 0 and indices == tuple(range(indices[0], indices[-1] + 1, step))
    return (*[slice(None)] * axis, slice(indices[0], indices[-1] + 1, step) if even else indices)


def _put(xs: list[Ring], axis: int, places: tuple[tuple[int, ...], ...], shape: Shape) -> Ring:
    out = np.zeros(shape, np.uint64)
    for x, indices in zip(xs, places, strict=True):
        at = _at(axis, indices)
        if isinstance(at[-1], slice):
            out[at] += x
            continue
        target, slices = np.moveaxis(out, axis, 0), np.moveaxis(x, axis, 0)
        for index, piece in zip(indices, slices, strict=True):  # an index may come twice
            target[index] += piece
    return out


def _combined(xs: list[Ring], factors: tuple[int, ...], offset: int, shape: Shape) -> Ring:
    first, *others = xs
    total: Ring = np.multiply(first, np.uint64(factors[0] % 2**64)) if factors[0] != 1 else first.copy()
    if total.shape != shape:
        total = np.broadcast_to(total, shape).copy()
    for x, factor in zip(others, factors[1:], strict=True):
        if factor == 1:
            total += x
        elif factor == -1:
            total -= x
        else:
            total += x * np.uint64(factor % 2**64)
    if offset:
        total += np.uint64(offset)
    return total
