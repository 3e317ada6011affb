"""An update that tells little about its owner: clipped, perhaps with noise, with the weight of one, and without metrics."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from federated.update import Bound, Update, Weights
from privacy import GaussianNoise

SLACK = 1 + 1e-5
"""Of a norm, for rounding to float32."""


def bounded(update: Update, bound: Bound, noise: GaussianNoise) -> Update:
    """min(1, S / ||Delta||) Delta, plus N(0, stddev^2) in each value.

    Args:
        update: of which only the arrays are used; the norm is over all of them together.
        bound: S and the standard deviation.
        noise: where the noise comes from.
    """
    length = norm(update.delta)
    factor = min(1.0, bound.clip_norm / length) if length > 0 else 1.0
    delta = [(factor * array.astype(np.float64)).astype(array.dtype) for array in update.delta]
    if bound.stddev:
        delta = [array + noise.normal(array.shape, bound.stddev).astype(array.dtype) for array in delta]
    return dataclasses.replace(update, delta=delta, examples=1, metrics={})


def exceeds(update: Update, bound: Bound) -> bool:
    """Whether an update tells more than it may, as far as one can see: noise of the owner's makes any length possible."""
    return update.examples != 1 or (bound.stddev == 0 and not norm(update.delta) <= bound.clip_norm * SLACK)


def norm(arrays: Weights) -> float:
    """The L2 norm over all arrays together; NaN if a value is."""
    return math.sqrt(sum(float(np.vdot(array, array)) for array in (one.astype(np.float64).reshape(-1) for one in arrays)))
