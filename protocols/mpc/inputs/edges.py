"""The integers between which the elements of an input are cut: two for all, or two for each feature. This file knows no programs."""

from __future__ import annotations

import math

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.inputs.ranges import LARGEST_EDGE, Shape, fits
from protocols.mpc.numbers.ring import Ring

Edge = int | tuple[int, ...]
"""One for all elements, or a table."""


def check(low: Edge, high: Edge, shape: Shape, input_shape: Shape) -> None:
    """Refuse edges that are none.

    Raises:
        ProgramError: they are not in order or too large, or their tables do not fit the input.
    """
    lows, highs = (edge if isinstance(edge, tuple) else (edge,) for edge in (low, high))
    if not len(lows) == len(highs) == math.prod(shape) or len(shape) > len(input_shape) or not fits(shape, input_shape):
        raise ProgramError(f"edges of shape {shape} do not fit an input of shape {input_shape}")
    for least, largest in zip(lows, highs, strict=True):
        if not -LARGEST_EDGE <= least <= largest <= LARGEST_EDGE:
            raise ProgramError(f"an input cannot be cut into [{least}, {largest}]; integers in order of up to 2^62 are needed")


def elements(edge: Edge, shape: Shape, input_shape: Shape) -> Ring:
    """Return an edge as ring elements for the elements of an example, flattened; or one for all, shape (1,)."""
    if isinstance(edge, int):
        return np.array([edge % 2**64], np.uint64)
    table = np.array([value % 2**64 for value in edge], np.uint64).reshape(shape)
    return np.broadcast_to(table, input_shape).reshape(-1)
