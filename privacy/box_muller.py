"""Normal values from uniform words, by Box and Muller in float64: sqrt(-2 log u) (cos a, sin a). Compiled, without the GIL.

Importing this module takes half a second (numba), or some seconds where its code is not on disk yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

CIRCLE_BITS = 13
_ANGLES = np.arange(1 << CIRCLE_BITS) * (2.0 * np.pi / (1 << CIRCLE_BITS))
_COSINES, _SINES = np.cos(_ANGLES), np.sin(_ANGLES)
_REST = np.uint64((1 << (52 - CIRCLE_BITS)) - 1)
_TURN = 2.0 * np.pi / (1 << 52)


def compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Compiles for the types of `signature`, kept on disk where that can be written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            made: Callable[..., None] = numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:
            made = numba.njit(signature, **options)(function)
        return made

    return decorate


def rounded(words: NDArray[np.uint64], sigma: float) -> NDArray[np.float64]:
    """As many values of N(0, sigma^2), rounded to whole numbers, as there are uniform words, an even number.

    The angle a is within 2^-49 of its words: the first bits choose a direction from a table, and the others turn it by d,
    0 <= d < 2^-10, with cos d = 1 - d^2/2 + d^4/24 and sin d = d - d^3/6.
    """
    half = len(words) // 2
    logs, out = np.empty(half), np.empty(2 * half)
    _uniform(words[:half], logs)
    np.log(logs, out=logs)  # numpy's is made of vector instructions
    _turned(logs, words[half:], _COSINES, _SINES, sigma, out[:half], out[half:])
    return out


@compiled("void(uint64[::1], float64[::1])")
def _uniform(words: NDArray[np.uint64], out: NDArray[np.float64]) -> None:
    """In (0, 1), with 52 bits."""
    for i in range(len(out)):
        out[i] = (np.float64(words[i] >> np.uint64(12)) + 0.5) * 2.0**-52


@compiled("void(float64[::1], uint64[::1], float64[::1], float64[::1], float64, float64[::1], float64[::1])")
def _turned(
    logs: NDArray[np.float64],
    words: NDArray[np.uint64],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    sigma: float,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
) -> None:
    """sigma sqrt(-2 log u) times the direction of each word, rounded."""
    for i in range(len(first)):
        place = np.int64(words[i] >> np.uint64(64 - CIRCLE_BITS))
        d = np.float64((words[i] >> np.uint64(12)) & _REST) * _TURN
        square = d * d
        across = (square * (-1.0 / 6.0) + 1.0) * d
        along = (square * (1.0 / 24.0) - 0.5) * square + 1.0
        radius = np.sqrt(-2.0 * logs[i]) * sigma
        first[i] = np.rint(radius * (cosines[place] * along - sines[place] * across))
        second[i] = np.rint(radius * (sines[place] * along + cosines[place] * across))
