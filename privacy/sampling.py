"""Poisson sampling: each example is in a batch with probability q, independently, and nobody can tell from outside which were.

Knows nothing of models. The sample must stay secret: the amplification that the accountant counts on is lost on those who know it.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import SamplingRefused

_CHUNK = 1 << 20  # bytes of key stream at a time


class PoissonSampler:
    """Batches of a random size, around an expected one.

    Each of `examples` examples is in a batch with probability q = floor(2^64 batch_size / examples) / 2^64, at most 2^-64 below the
    quotient and never above it. The decisions come from AES-128-CTR under a key of the operating system.

    Args:
        examples: N, at least 1.
        batch_size: the expected size of a batch, from 1 to N; N is every example in every batch.

    Raises:
        SamplingRefused: the data is shorter than its batch, or the batch is not at least 1.

    References:
        Abadi et al., 2016, arXiv:1607.00133, Algorithm 1; Mironov et al., 2019, arXiv:1908.10530.
    """

    def __init__(self, examples: int, batch_size: int) -> None:
        check(examples, batch_size)
        self.examples = examples
        self.batch_size = batch_size
        self._threshold = (batch_size << 64) // examples
        self._stream = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return f"PoissonSampler(examples={self.examples}, batch_size={self.batch_size})"

    @property
    def probability(self) -> float:
        """q, rounded up where it is no float64: what the accountant has to be told."""
        q = self.batch_size / self.examples
        return q if Fraction(q) >= Fraction(self.batch_size, self.examples) else math.nextafter(q, 1.0)

    def sample(self) -> NDArray[np.intp]:
        """Draw the indices of the next batch, ascending; there may be none."""
        if self._threshold >> 64:
            return np.arange(self.examples)
        found = []
        for start in range(0, self.examples, _CHUNK // 8):
            count = min(_CHUNK // 8, self.examples - start)
            words = np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)
            found.append(np.flatnonzero(words < np.uint64(self._threshold)) + start)
        return np.concatenate(found)


def check(examples: int, batch_size: int) -> None:
    """Check that `examples` examples can be sampled in batches of `batch_size`; raise `SamplingRefused` if not."""
    if not batch_size >= 1:
        raise SamplingRefused(f"the batch size is {batch_size}: at least 1 is needed")
    if examples < batch_size:
        raise SamplingRefused(f"there are {examples} examples for a batch of {batch_size}: the data is shorter than its batch")


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the steps in which each example is expected once: ceil(N / B)."""
    check(examples, batch_size)
    return math.ceil(examples / batch_size)
