"""The shapes that windows, products and joined values have. This file knows tuples of lengths, no operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from protocols.errors import ProgramError

Shape = tuple[int, ...]
Pair = tuple[int, int]


def windows(shape: Shape, size: Pair, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair = (1, 1)) -> Pair:
    """How many windows fit: floor((n + before + after - dilation * (size - 1) - 1) / stride) + 1 an axis.

    Raises:
        ProgramError: a size, stride or dilation below 1, a padding below 0.
    """
    if min(*size, *strides, *dilation) < 1 or min(*padding[0], *padding[1]) < 0:
        raise ProgramError("sizes, strides and dilations are at least 1, paddings at least 0")
    h, w = (
        (n + sum(pad) - step * (k - 1) - 1) // stride + 1
        for n, k, stride, pad, step in zip(shape[:2], size, strides, padding, dilation, strict=True)
    )
    return h, w


def product(x: Shape, y: Shape) -> Shape:
    """Of x times y, element for element: as many axes each, those of length 1 repeated.

    Raises:
        ProgramError: the shapes do not fit.
    """
    if len(x) != len(y) or any(a != b and 1 not in (a, b) for a, b in zip(x, y, strict=True)):
        raise ProgramError(f"values of shape {x} and {y} cannot be multiplied element for element")
    return tuple(map(max, x, y))


def matrix_product(x: Shape, y: Shape) -> Shape:
    """Of x y over the last two axes.

    Raises:
        ProgramError: the shapes do not fit.
    """
    if len(x) < 2 or len(x) != len(y) or x[:-2] != y[:-2] or x[-1] != y[-2]:
        raise ProgramError(f"there is no matrix product of shapes {x} and {y}")
    return (*x[:-1], y[-1])


def joined(shapes: Sequence[Shape], axis: int) -> Shape:
    """Of values side by side along an axis.

    Raises:
        ProgramError: there is no such axis, or they differ along another one.
    """
    first = shapes[0]
    if not 0 <= axis < len(first):
        raise ProgramError(f"axis {axis} does not exist in shape {first}")
    for shape in shapes:
        if (*shape[:axis], *shape[axis + 1 :]) != (*first[:axis], *first[axis + 1 :]):
            raise ProgramError(f"{shape} and {first} cannot be joined along axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def permuted(shape: Shape, axes: Sequence[int]) -> Shape:
    """Of a value with its axes in another order.

    Raises:
        ProgramError: `axes` is no order of them.
    """
    if sorted(axes) != list(range(len(shape))):
        raise ProgramError(f"axes {axes} are not an order of those of a value of shape {shape}")
    return tuple(shape[axis] for axis in axes)


def taken(shape: Shape, axis: int, indices: Sequence[int]) -> Shape:
    """Of slices along an axis.

    Raises:
        ProgramError: there is no such axis or slice.
    """
    if not 0 <= axis < len(shape) or not all(0 <= index < shape[axis] for index in indices):
        raise ProgramError(f"{len(indices)} slices along axis {axis} are not all in a value of shape {shape}")
    return (*shape[:axis], len(indices), *shape[axis + 1 :])


def check_table(count: int, table: Shape, shape: Shape) -> None:
    """Refuse a table of `count` factors that cannot be broadcast to a value.

    Raises:
        ProgramError: it cannot.
    """
    padded = (1,) * (len(shape) - len(table)) + tuple(table)
    if count != math.prod(table) or len(padded) != len(shape):
        raise ProgramError(f"{count} factors of shape {table} do not fit a value of shape {shape}")
    if any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
        raise ProgramError(f"factors of shape {table} cannot be broadcast to {shape}")
