"""Inputs on which a program is compared with its model where the owner gives no samples: drawn from the input range.

They are the same each time. Nothing secret is in them: the key of their stream is known to everybody.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.lowering.features.steps import Spread
from protocols.mpc.parties.keystream import KeyStream

Real = npt.NDArray[np.float64]

KEY = b"drawn in a check"
TERMS = 12
"""So many uniform numbers make one that is nearly Gaussian: its variance is 1, and it is not more than 6 from its mean."""


def drawn(count: int, low: Real, high: Real, spread: Spread) -> Real:
    """Examples (count, *shape) inside of [low, high], of which one in two or three is of each kind.

    - uniform;
    - each element one of the ends of its range;
    - where the model normalises its input first, about its means, as far away as its deviations say.

    Elements that stand for whole numbers are whole.

    Args:
        count: how many.
        low: the least value of each element, in the shape of an example.
        high: the largest.
        spread: what the model says of its input.
    """
    stream = KeyStream(KEY)
    known = np.isfinite(spread.mean) & np.isfinite(spread.deviation)
    kinds = 3 if known.any() else 2
    found = np.empty((count, *low.shape))
    for i, example in enumerate(found):
        uniform = low + _fractions(stream, low.shape) * np.where(spread.whole, high - low + 1, high - low)
        match i % kinds:
            case 0:
                example[...] = uniform
            case 1:
                example[...] = np.where(_fractions(stream, low.shape) < 0.5, low, high)
            case _:
                about = (_fractions(stream, (TERMS, *low.shape)) - 0.5).sum(axis=0)
                example[...] = np.where(known, np.nan_to_num(spread.mean) + about * np.where(known, spread.deviation, 0.0), uniform)
    inside: Real = np.where(spread.whole, np.floor(found), found).clip(low, high)
    return inside


def _fractions(stream: KeyStream, shape: tuple[int, ...]) -> Real:
    """Numbers uniform in [0, 1)."""
    return (stream.words(shape) >> np.uint64(11)) * 2.0**-53
