"""Which owners are asked in a round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=16)
def asked(owners: int, fraction: float) -> int:
    """How many of the owners are a fraction of them, as it is written in decimal digits: halves are rounded up, and at least one is asked.

    Example:
        >>> asked(25, 0.1), asked(15, 0.1), asked(5, 0.5)
        (3, 2, 3)
    """
    return max(1, math.floor(Fraction(str(fraction)) * owners + Fraction(1, 2)))


def sample(names: Sequence[str], count: int, *, seed: Sequence[int]) -> list[str]:
    """So many of the names, without repetition, in their order: a function of the seed."""
    chosen = np.random.default_rng(seed).choice(len(names), count, replace=False)
    return [names[i] for i in sorted(chosen)]
