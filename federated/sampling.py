"""Which owners are asked in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample(names: Sequence[str], count: int, *, seed: Sequence[int]) -> list[str]:
    """So many of the names, without repetition, in their order: a function of the seed."""
    chosen = np.random.default_rng(seed).choice(len(names), count, replace=False)
    return [names[i] for i in sorted(chosen)]
