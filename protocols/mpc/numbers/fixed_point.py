"""Fixed point: real numbers as elements of Z_2^64. This file knows no shares and no randomness.

An integer z stands for z * scale; negative ones are two's complement, so z lies in [-2^63, 2^63). With scale = 2^-f there are f
fractional bits. Numbers are encoded once, where they enter, and decoded once, where they leave.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError
from protocols.mpc import kernels
from protocols.mpc.numbers.ring import Ring

LIMIT: Final = 2.0**62
"""Encoded numbers are smaller than this: one bit is left for a sum."""


def encode(x: npt.ArrayLike, scale: float) -> Ring:
    """Encode real numbers: the integers nearest to x / scale, modulo 2^64; halves go to the even neighbour.

    Args:
        x: real numbers, any shape.
        scale: the real number that the integer 1 stands for, above 0; 2**-f for f fractional bits.

    Returns:
        A new array of the shape of x, uint64.

    Raises:
        EncodingError: x is not real, a value is NaN or infinite, or |x / scale| is 2^62 or more. The message gives the position,
            not the value, which may be secret.

    Example:
        >>> encode([0.25, -0.5], 2**-4).view(np.int64)
        array([ 4, -8])
    """
    _check_scale(scale)
    values = np.asarray(x)
    if values.dtype.kind not in "biuf":
        raise EncodingError(f"the values are {values.dtype}: real numbers are needed")
    values = np.ascontiguousarray(values, np.float64).reshape(values.shape)
    out = np.empty(values.shape, np.int64)
    if not kernels.encode(values.reshape(-1), scale, LIMIT, out.reshape(-1)):
        raise EncodingError(_refusal(values, scale))
    return out.view(np.uint64)


def decode(ring: Ring, scale: float) -> npt.NDArray[np.float64]:
    """Decode ring elements: the real numbers z * scale that they stand for, z signed.

    Args:
        ring: any shape, uint64.
        scale: the real number that the integer 1 stands for, above 0.

    Returns:
        A new array of the shape of `ring`, float64. Integers beyond 2^53 are rounded to the nearest float64.

    Raises:
        EncodingError: `ring` is not uint64, or the scale makes no sense.

    Example:
        >>> decode(np.array([4, 2**64 - 8], np.uint64), 2**-4)
        array([ 0.25, -0.5 ])
    """
    _check_scale(scale)
    if ring.dtype != np.uint64:
        raise EncodingError(f"the ring elements are {ring.dtype}: uint64 is needed")
    out = np.empty(ring.shape, np.float64)
    kernels.decode(np.ascontiguousarray(ring).reshape(-1).view(np.int64), scale, out.reshape(-1))
    return out


def _check_scale(scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise EncodingError(f"the scale is {scale}: a finite number above 0 is needed")


def _refusal(values: npt.NDArray[np.float64], scale: float) -> str:
    with np.errstate(over="ignore"):
        refused = ~(np.abs(values / scale) < LIMIT)
    first = tuple(int(i) for i in np.unravel_index(int(refused.argmax()), values.shape))
    return (
        f"{np.count_nonzero(refused)} of {values.size} values cannot be held in fixed point, the first at position {first}:"
        f" finite values between -{LIMIT * scale:g} and {LIMIT * scale:g} are needed at scale {scale:g}"
    )
