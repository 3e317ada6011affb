"""In which units sums of gradients and Hessians are integers, so that nothing can wrap around.

A gradient is at most `reach`, a Hessian from 0 to `curve`. With 2^k at least n + 2 lambda / curve, and 1 % more, sums over any examples
are kept as fractions of 2^k reach and 2^k curve, with `BITS` fractional bits: at most 1. So a single gradient has `BITS` - k fractional
bits of `reach`. The value of a node, G / (H + lambda), is in units of reach / curve; it is cut at 2^clip of them.
"""

from __future__ import annotations

import math

import msgspec

from protocols.errors import InputError

BITS = 30
"""Fractional bits of sums."""

VALUE = 24
"""Fractional bits of scores of examples, and of values of nodes."""

CLIP = 4
"""Values of nodes are at most 2^CLIP reach / curve where gradients may be larger than Hessians."""

LEAST = 1 << 8
"""The smallest sum of Hessians and penalty that is told from 0, in units of the last digit."""


class Units(msgspec.Struct, frozen=True):
    """Of the sums over n examples.

    Attributes:
        examples: n.
        reach: the largest gradient of an example.
        curve: the largest Hessian of an example.
        penalty: lambda.
        weight: the smallest sum of Hessians of a node that is a child.
        bounded: whether no gradient is larger than its Hessian, in these units: then values of nodes are at most 1.
    """

    examples: int
    reach: float
    curve: float
    penalty: float
    weight: float
    bounded: bool

    @property
    def bits(self) -> int:
        """Fractional bits of the gradient or Hessian of an example.

        Raises:
            InputError: too few are left beside the penalty.
        """
        found = BITS - math.ceil(math.log2(1.01 * (self.examples + 2 * self.penalty / self.curve) + 1))
        if found < 4:
            raise self._refused(f"reg_lambda={self.penalty:g} is at most about {2.0**25 * self.curve:.1e}")
        return found

    def _refused(self, expected: str) -> InputError:
        return InputError(
            f"min_child_weight={self.weight:g} and reg_lambda={self.penalty:g}, over the largest weight of an example, do not fit"
            f" {self.examples:,} examples: {expected}"
        )

    @property
    def added(self) -> int:
        """Lambda, as an integer."""
        return self._integer(self.penalty)

    @property
    def least(self) -> int:
        """The smallest H + lambda of a child, as an integer.

        Raises:
            InputError: it cannot be told from 0.
        """
        found = math.ceil(self.weight / self.curve * 2.0**self.bits - 1e-6) + self.added
        if found < LEAST:
            raise self._refused(f"their sum must be at least {LEAST * self.curve * 2.0**-self.bits:.1e}")
        return found

    @property
    def clip(self) -> int:
        """Values of nodes are at most 2^clip."""
        return 0 if self.bounded else CLIP

    def _integer(self, real: float) -> int:
        return round(real / self.curve * 2.0**self.bits)
