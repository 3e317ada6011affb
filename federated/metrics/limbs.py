"""States of metrics in sums that nobody sees the terms of: two integers each, so that large ones fit and small ones are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federated.tasks.update import Array
from protocols.quantisation import LEAST_BITS, Quantisation, Vector, signed_type

LIMBS = 2
"""Elements of a hidden vector that a state takes."""


def largest(clip: float, most_examples: int) -> float:
    """Return the largest absolute state, for each example, that is summed: 2^40 in elements of 64 bits, 2^20 where they may have 32.

    It depends on what owners know before they know each other. Elements of 32 bits need clip * most_examples * owners <= 2^(31 - 19), for
    three owners or more.
    """
    return 2.0**40 if 3 * clip * most_examples > 2.0 ** (31 - LEAST_BITS) else 2.0**20


@dataclass(frozen=True)
class Limbs:
    """States s as s = a u + b v with integers a and b, the steps u = R / (clip 2^bits) and v = u / (2 clip 2^bits).

    Sums of a and b give the sum of s, wrong by at most v / 2 for each owner, and 2^-50 of the largest s.

    Args:
        scheme: of the vector that they are in.
        largest: R, see `largest`.
    """

    scheme: Quantisation
    largest: float

    @property
    def _coarse(self) -> float:
        return self.largest / (self.scheme.clip * 2.0**self.scheme.bits)

    @property
    def _fine(self) -> float:
        return self._coarse / (2 * self.scheme.clip * 2.0**self.scheme.bits)

    def split(self, states: Array, examples: int) -> list[Array]:
        """Split states into what `Quantisation.encode` makes integers of, all a, then all b; up to clip for states up to R `examples`."""
        exact = states.astype(np.float64)
        a = np.rint(exact / self._coarse)
        rest = exact - a * self._coarse
        clip = self.scheme.clip
        high = (a * (2.0**-self.scheme.bits / examples)).clip(-clip, clip)
        low = (rest / (self._coarse / 2) * (clip / examples)).clip(-clip, clip)
        return [high, low]

    def joined(self, total: Vector) -> Array:
        """Join the sum of the integers to the sum of the states."""
        signed = total.view(signed_type(self.scheme.word)).astype(np.float64)
        a, b = np.split(signed, LIMBS)
        joined: Array = a * self._coarse + b * self._fine
        return joined
