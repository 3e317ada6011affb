"""Real vectors as integers modulo 2^32 or 2^64, so that their weighted sums are right: for sums that nobody sees the terms of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import AggregationError

Vector = npt.NDArray[np.unsignedinteger[Any]]
"""Integers modulo 2^32 or 2^64."""
LEAST_BITS = 19
"""Fractional bits for an error below 1e-6."""
MOST_BITS = 40
CHUNK = 1 << 14
"""Values that are rounded at once: few enough to stay in the cache."""


def word_type(word: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Unsigned integers of 32 or 64 bits."""
    return np.dtype(np.uint32 if word == 32 else np.uint64)


def signed_type(word: int) -> np.dtype[np.signedinteger[Any]]:
    """Integers of 32 or 64 bits."""
    return np.dtype(np.int32 if word == 32 else np.int64)


@dataclass(frozen=True)
class Quantisation:
    """Real vectors as integers modulo 2^word so that their weighted sum cannot overflow.

    x in [-clip, clip] is multiplied by the owner's weight and rounded to multiples of 2^-bits. Overflow is impossible: bits is the largest
    number with owners * most_weight * clip * 2^bits <= 2^(word - 1) - owners. The error of the weighted mean is at most
    2^-(bits + 1) * owners / (total weight) <= 2^-(bits + 1) <= 1e-6, plus that of float64.

    Args:
        clip: the largest absolute value, above 0.
        most_weight: the largest weight; weights are integers from 1 on.
        owners: how many at most.

    Attributes:
        word: 32 if at least `LEAST_BITS` fractional bits are left there, else 64.
        bits: fractional bits.

    Raises:
        AggregationError: with 64 bits, too, fewer than `LEAST_BITS` would be left.
    """

    clip: float
    most_weight: int
    owners: int
    word: int = field(init=False)
    bits: int = field(init=False)

    def __post_init__(self) -> None:
        if not (0 < self.clip < math.inf and self.most_weight >= 1 and self.owners >= 1):
            raise AggregationError(f"clip {self.clip}, weight {self.most_weight}, {self.owners} owners; all must be positive and finite")
        largest = Fraction(self.clip) * self.most_weight * self.owners
        for word in (32, 64):
            bits = _most_bits(largest, 2 ** (word - 1) - self.owners)
            fits = bits >= LEAST_BITS and self.owners * self.most_weight < 2 ** (word - 1)
            if fits:
                break
        else:
            raise AggregationError(
                f"sums of {self.owners} x {self.most_weight} x {self.clip} leave only {bits} fractional bits; {LEAST_BITS} are needed"
            )
        object.__setattr__(self, "word", word)
        object.__setattr__(self, "bits", min(bits, MOST_BITS))

    def encode(self, parts: Sequence[npt.NDArray[np.floating[Any]]], weight: int) -> Vector:
        """Encode the weighted vector, and the weight itself as last element, so that weights are hidden as well.

        Args:
            parts: arrays that make up the vector, one behind the other.
            weight: from 1 to `most_weight`.

        Raises:
            AggregationError: a value is not finite or larger than `clip`, or the weight is out of range. No value is in the message.
        """
        if not 1 <= weight <= self.most_weight:
            raise AggregationError(f"a weight that is not from 1 to {self.most_weight}")
        if not all(x.size == 0 or (-self.clip <= x.min() and x.max() <= self.clip) for x in parts):  # NaN compares false
            raise AggregationError(f"a value is not finite, or larger than clip={self.clip:g}: raise clip, or lower the learning rate")
        encoded = np.empty(sum(x.size for x in parts) + 1, word_type(self.word)).view(signed_type(self.word))
        ends = np.cumsum([x.size for x in parts])
        for x, end in zip(parts, ends, strict=True):
            self._round(x.reshape(-1), weight, encoded[end - x.size : end])
        encoded[-1] = weight
        return encoded.view(word_type(self.word))

    def _round(self, x: npt.NDArray[np.floating[Any]], weight: int, out: npt.NDArray[np.signedinteger[Any]]) -> None:
        scaled = np.empty(CHUNK)
        for start in range(0, len(x), CHUNK):
            part = np.multiply(x[start : start + CHUNK], weight * 2.0**self.bits, out=scaled[: len(x) - start], dtype=np.float64)
            out[start : start + CHUNK] = np.rint(part, out=part)

    def mean(self, total: Vector) -> npt.NDArray[np.float64]:
        """Return the weighted mean from the sum of encoded vectors."""
        signed = total.view(signed_type(self.word))
        mean: npt.NDArray[np.float64] = np.divide(signed[:-1], float(signed[-1]) * 2.0**self.bits, dtype=np.float64)
        return mean

    def weight(self, total: Vector) -> int:
        """Return the sum of the weights."""
        return int(total[-1])

    def check(self, total: Vector, owners: int, *, headroom: int = 1) -> None:
        """Refuse a sum that `owners` encoded vectors cannot have: somebody has sent something else.

        Args:
            total: of the vectors, as they are summed.
            owners: how many.
            headroom: the largest factor that a vector was multiplied by, but for its weight: `most_weight` has room for it.

        Raises:
            AggregationError: the weight is not from `owners` to `owners` times the largest, or a value is beyond `clip` times it.
        """
        signed, weight = total.view(signed_type(self.word)), self.weight(total)
        if not owners <= weight <= owners * self.most_weight // headroom:
            raise AggregationError(f"a sum of {owners} vectors has a weight that they cannot have: an owner has sent what is no update")
        largest = math.floor(self.clip * weight * headroom * 2.0**self.bits) + headroom * owners  # each is rounded once
        if len(signed) > 1 and not -largest <= int(signed[:-1].min()) <= int(signed[:-1].max()) <= largest:
            raise AggregationError(f"a sum of {owners} vectors has values that they cannot have: an owner has sent what is no update")


def _most_bits(largest: Fraction, limit: int) -> int:
    """Return the largest b with largest * 2^b <= limit."""
    bits = math.floor(math.log2(limit / largest))
    return bits if largest * Fraction(2) ** bits <= limit else bits - 1
