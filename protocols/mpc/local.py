"""Operations that each holder of a value runs alone: they are linear, so they act on masks, masked values and shares alike."""

from __future__ import annotations

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.numbers import ring
from protocols.mpc.operations.instructions import AnyOp, Combine, Concatenate, Multiply, Pad, Permute, Reshape, SumPool, Take
from protocols.mpc.parties.exchange import Ring

LOCAL = (Reshape, Permute, Take, Pad, SumPool, Concatenate, Combine, Multiply)
"""The operations of this file."""


def operands(op: AnyOp) -> tuple[int, ...]:
    """The positions of the values that an operation reads."""
    if hasattr(op, "xs"):
        return tuple(op.xs)
    return tuple(getattr(op, name) for name in ("x", "y") if hasattr(op, name))


def apply(op: AnyOp, values: list[Ring], *, constant: bool) -> Ring:
    """The linear operation `op` on arrays (examples, *shape); the public constant is added only where `constant` is set.

    Shares of party 0 and masked values take the constant; shares of party 1 and masks do not.
    """
    match op:
        case Reshape(_, shape):
            return values[0].reshape(len(values[0]), *shape)
        case Permute(_, axes):
            return values[0].transpose(0, *(axis + 1 for axis in axes))
        case Take(_, axis, indices):
            return np.take(values[0], indices, axis + 1)
        case Pad(_, padding):
            return np.pad(values[0], ((0, 0), *padding, (0, 0)))
        case SumPool(_, size, strides, padding):
            return ring.sum_pool(values[0], size, strides=strides, padding=padding)
        case Concatenate(_, axis):
            return np.concatenate(values, axis + 1)
        case Multiply(_, factors, shape):
            product: Ring = values[0] * _words(factors).reshape(shape)
            return product
        case Combine(_, factors, offset):
            return _combined(values, _words(factors), offset if constant else 0)
        case _:
            raise ProgramError(f"{type(op).__name__} is not a local operation")


def _words(factors: tuple[int, ...]) -> Ring:
    words: Ring = np.array(factors, np.int64).view(np.uint64)
    return words


def _combined(values: list[Ring], factors: Ring, offset: int) -> Ring:
    total = np.full_like(values[0], offset % 2**64)
    for value, factor in zip(values, factors, strict=True):
        total += value * factor
    return total
