"""The numbers that a program says of its input, its windows and its output, checked by whoever is told them: no operations."""

from __future__ import annotations

import itertools
import math
from typing import Any

from protocols.errors import ProgramError
from protocols.mpc.inputs.ranges import LARGEST_EDGE, Ranges, Shape

RING_BITS = 64
LEAST_SCALE, LARGEST_SCALE = 2.0**-212, 2.0**128
"""Integers of 63 bits on the least scale end where numbers of float32 begin; the integer 1 on the largest is beyond their end."""
MOST_AXES = 32


def check_scale(name: str, scale: Any) -> None:
    """Refuse what is no scale.

    Raises:
        ProgramError: it is not a finite number from `LEAST_SCALE` to `LARGEST_SCALE`.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not LEAST_SCALE <= scale <= LARGEST_SCALE:
        raise ProgramError(f"{name} is {scale!r}: a finite number from {LEAST_SCALE:.3g} to {LARGEST_SCALE:.3g} is needed")


def check_shape(name: str, shape: Any) -> None:
    """Refuse what is no shape of an example.

    Raises:
        ProgramError: it has too many axes, or a length that is no integer of at least 1.
    """
    if len(shape) > MOST_AXES or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ProgramError(f"{name} is {shape}: up to {MOST_AXES} integers of at least 1 are needed")


def check(shape: Shape, scale: float, input_range: tuple[float, float], ranges: Ranges | None) -> None:
    """Refuse an input that nobody could encode.

    Args:
        shape: of an example.
        scale: what the integer 1 stands for.
        input_range: which holds all elements.
        ranges: of each feature, or None.

    Raises:
        ProgramError: one of them makes no sense, or they do not fit each other.
    """
    check_shape("input_shape", shape)
    check_scale("input_scale", scale)
    low, high = input_range
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ProgramError(f"input_range is {input_range}: two finite numbers, the smaller first, are needed")
    if ranges is not None:
        ranges.check(shape, scale)
        if tuple(input_range) != ranges.outermost:
            raise ProgramError(f"input_range is {input_range}, and the ranges of the features are from {ranges.outermost}")
    elif not scale <= 2 * max(abs(low), abs(high)) <= 2 * LARGEST_EDGE * scale:
        raise ProgramError(f"input_range is {input_range}, and input_scale {scale:.6g}: a range has from half a step to 2^62 steps")


def check_window(drop: int, window: int) -> None:
    """Refuse a rounding that the ring does not hold.

    Raises:
        ProgramError: a number of bits is out of range.
    """
    if not (drop >= 0 and window >= 2 and drop + window <= RING_BITS - 1):
        raise ProgramError(f"drop {drop} + window {window} must stay below {RING_BITS - 1} bits")


def check_pieces(knots: tuple[int, ...], slopes: tuple[int, ...], offsets: tuple[int, ...], window: int) -> None:
    """Refuse what is no piecewise linear function.

    Raises:
        ProgramError: its numbers do not fit each other, or the window, or the ring.
    """
    if not knots or any(a >= b for a, b in itertools.pairwise(knots)):
        raise ProgramError("a piecewise function needs increasing knots, at least one")
    if not len(slopes) == len(offsets) == len(knots) + 1:
        raise ProgramError(f"{len(slopes)} slopes and {len(offsets)} offsets do not fit {len(knots)} knots: one more is needed")
    if max(-knots[0], knots[-1]) > 1 << (window - 2):
        raise ProgramError(f"knots from {knots[0]} to {knots[-1]} do not fit a window of {window} bits")
    if any(abs(factor) >= 1 << (RING_BITS - 1) for factor in (*slopes, *offsets)):
        raise ProgramError("slopes and offsets must be integers of 64 bits")
