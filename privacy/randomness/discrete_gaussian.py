"""The discrete Gaussian: whole numbers, so that adding it leaves no trace in the low bits of a float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Words = Callable[[int], NDArray[np.uint64]]
CHUNK = 1 << 12
"""Values that are made at once: few enough to stay in the cache."""
LARGEST_SIGMA = 1 << 40


def discrete_gaussian(words: Words, size: int, sigma: int) -> NDArray[np.int64]:
    """Independent values of N_Z(0, sigma^2): P(x) proportional to exp(-x^2 / (2 sigma^2)) for whole numbers x.

    The distribution is within 2^-50 of that in total variation: float64 decides what is accepted, and what lies beyond 10 sigma, 2^-70 of
    all, has no probability. So n values add at most n 2^-50 to a delta.

    Args:
        words: gives so many independent uniform words of 64 bits.
        size: how many values.
        sigma: from 1 to 2^40.

    References:
        Karney, 2016, arXiv:1303.6257, Algorithm D, with words of 64 bits for its deviates. Canonne, Kamath and Steinke, 2020,
        arXiv:2004.00010, Theorem 7, for the privacy, which is that of the continuous one.
    """
    if not 1 <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma is {sigma}: from 1 to 2^40 is needed")
    out = np.empty(size, np.int64)
    for start in range(0, size, CHUNK):
        _fill(words, out[start : start + CHUNK], sigma)
    return out


def _fill(words: Words, out: NDArray[np.int64], sigma: int) -> None:
    bits = max(1, (sigma - 1).bit_length())
    accepted, filled = 0.71 * sigma / (1 << bits), 0
    while filled < len(out):
        tries = int((len(out) - filled) / accepted * 1.02) + 32
        first, second, third = words(3 * tries).reshape(3, -1)
        found = _accepted(first, second, third, sigma, bits)[: len(out) - filled]
        out[filled : filled + len(found)] = found
        filled += len(found)


def _accepted(first: NDArray[np.uint64], second: NDArray[np.uint64], third: NDArray[np.uint64], sigma: int, bits: int) -> NDArray[np.int64]:
    """Of one try for each triple of words, those that succeed: +-(sigma k + j) with 0 <= j < sigma and k = 0, 1, ..."""
    k = np.zeros(len(first), np.int64)
    for threshold in _CUMULATIVE:  # P(k) proportional to exp(-k^2 / 2)
        k += first >= threshold
    j = (second & np.uint64((1 << bits) - 1)).view(np.int64)
    x = j * (1.0 / sigma)
    chance = np.exp(x * (2 * k + x) * -0.5) * 2.0**63
    negative = second >> np.uint64(63) != 0
    value = k * sigma + j
    good = (third >> np.uint64(1) < chance.astype(np.uint64)) & (j < sigma) & ~(negative & (value == 0))
    signed: NDArray[np.int64] = np.where(negative, -value, value)
    return signed[good]  # type: ignore[no-any-return, unused-ignore]


def _cumulative() -> list[np.uint64]:
    """P(K <= k) for k = 0 to 8, times 2^64."""
    weights = np.exp(-0.5 * np.arange(10, dtype=np.longdouble) ** 2)
    return [np.uint64(min(int(p * np.longdouble(2.0**64)), 2**64 - 1)) for p in np.cumsum(weights / weights.sum())[:-1]]


_CUMULATIVE = _cumulative()
