"""The discrete Gaussian: integers y with P[y] proportional to exp(-y^2 / (2 sigma^2)), from the words of a key stream.

Noise on the integers of fixed point has no digits below the last place that could give the hidden value away, as sums of floating-point
noise have (Mironov, 2012). Added to integers it is as private as the continuous Gaussian of the same sigma: for vectors at L2 distance
Delta the Rényi divergence of order alpha is at most alpha Delta^2 / (2 sigma^2) (Canonne, Kamath and Steinke, 2020, Theorem 4).

Sampler for integer sigma (Karney, 2016, Algorithm D, arXiv:1303.6257): y = +-(k sigma + j) with k >= 0 of probability proportional to
exp(-k^2 / 2) and j uniform below sigma, accepted with probability exp(-x (2 k + x) / 2), x = j / sigma, since
k^2 + x (2 k + x) = (y / sigma)^2; one of the two zeros is rejected.

Comparisons are of 64-bit words with probabilities in float64: they are right to a relative 2^-50 and an absolute 2^-64, so a draw is
within a total variation of 2^-48 of the law, and |y| < 10 sigma, where the law has 2^-75 beyond. How many words a batch needs depends on
what is drawn, so the time tells a little about how many candidates were rejected, never which.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from protocols.mpc.numbers.ring import Ring
from protocols.mpc.parties.keystream import KeyStream

LARGEST_SIGMA: Final = 1 << 48
"""j is converted to float64 without error."""
REACH: Final = 10
"""Every draw is smaller than so many sigma."""

_WORDS: Final = 4  # of the key stream for each candidate: k; j; acceptance; sign
_FULL: Final = 2.0**64 - 2.0**11
"""The largest float64 below 2^64."""


def _thresholds() -> Ring:
    """Return the thresholds: a word of at least the first i means k >= i; 2^64 times the cumulative probabilities of exp(-k^2 / 2)."""
    weights = [math.exp(-k * k / 2) for k in range(REACH + 10)]
    tails = [math.fsum(weights[k:]) / math.fsum(weights) for k in range(1, REACH)]
    return np.array([2**64 - max(1, round(tail * 2.0**64)) for tail in tails], np.uint64)


_K: Final = _thresholds()


def sample(stream: KeyStream, sigma: int, shape: tuple[int, ...]) -> Ring:
    """Independent draws of the discrete Gaussian.

    Args:
        stream: secret words, used here only.
        sigma: at least 1, at most 2^48, in units of the last place.
        shape: of the result.

    Returns:
        Ring elements (two's complement), smaller than `REACH` sigma.

    Raises:
        ValueError: sigma is out of its range.

    Example:
        >>> noise = sample(KeyStream(fresh_key()), 1000, (32, 10)).view(np.int64)
    """
    if not 1 <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma={sigma}: from 1 to {LARGEST_SIGMA} units of the last place are possible")
    size = math.prod(shape)
    drawn: list[Ring] = []
    missing = size
    while missing > 0:
        drawn.append(_accepted(stream, sigma, missing + missing // 2 + 32)[:missing])
        missing -= len(drawn[-1])
    return np.concatenate(drawn).reshape(shape) if drawn else np.zeros(shape, np.uint64)


def _accepted(stream: KeyStream, sigma: int, candidates: int) -> Ring:
    """Those of so many candidates that are accepted: 5 of 7 on average."""
    first, second, third, fourth = stream.words((_WORDS, candidates))
    k = np.searchsorted(_K, first, side="right").astype(np.uint64)
    j = second % np.uint64(sigma)
    x = j.astype(np.float64) / sigma
    probability = np.exp(-x * (2 * k.astype(np.float64) + x) / 2)
    accepted = third < _words(probability)
    accepted &= second <= np.uint64(2**64 - 1 - 2**64 % sigma)  # else small j would be more likely
    negative = (fourth >> np.uint64(63)).astype(np.bool_)
    y = k * np.uint64(sigma) + j
    accepted &= ~(negative & (y == 0))
    signed: Ring = np.where(negative, np.uint64(0) - y, y)[accepted]
    return signed


def _words(probability: npt.NDArray[np.float64]) -> Ring:
    """2^64 times a probability."""
    return np.minimum(probability * 2.0**64, _FULL).astype(np.uint64)
