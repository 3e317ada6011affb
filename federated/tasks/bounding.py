"""An update that tells little about its owner: clipped, perhaps with noise, with the weight of one, and without metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from federated.tasks.update import Bound, Update, Weights
from privacy import GaussianNoise

T = TypeVar("T")

SLACK = 1 + 1e-5
"""Of a norm, for rounding to float32."""
WITHIN = "within"
"""The metric that tells whether an update was as long as it may be."""
LARGEST_NOISE = 10
"""Standard deviations beyond which the discrete Gaussian has no values."""


def bounded(update: Update, bound: Bound, noise: GaussianNoise, trained: Sequence[bool] | None = None) -> Update:
    """min(1, S / ||Delta||) Delta; with noise, rounded to multiples of the step, plus N_Z(0, stddev^2 / step^2) steps in each value.

    Arrays that are not trained come out as zeros, whatever happened to them, and count in no norm: they tell nothing, and need no noise.
    An update that has no finite norm cannot be scaled down: with noise it comes out as noise alone, as if it were zero.

    Args:
        update: of which only the arrays are used; the norm is over all of them together.
        bound: what to do.
        noise: where the noise comes from.
        trained: of each array, whether it is trained; None: all are.
    """
    trained = [True] * len(update.delta) if trained is None else trained
    length = norm(only(update.delta, trained))
    factor = min(1.0, bound.clip_norm / length) if length > 0 else 1.0
    delta = [factor * array.astype(np.float64) for array in only(update.delta, trained)]
    if bound.stddev:
        if not math.isfinite(length):
            delta = [np.zeros(array.shape) for array in delta]
        sigma = math.ceil(bound.stddev / bound.step)
        delta = [(np.rint(array / bound.step) + noise.discrete(array.shape, sigma)) * bound.step for array in delta]
    metrics = {WITHIN: 0.5 if length <= bound.clip_norm else -0.5} if bound.counts else {}
    sent = [np.array(array, before.dtype) for array, before in zip(spread(delta, update.delta, trained), update.delta, strict=True)]
    return dataclasses.replace(update, delta=sent, examples=1, metrics=metrics, states=np.zeros(0, np.float32))


def only(arrays: Sequence[T], trained: Sequence[bool]) -> list[T]:
    """Those that are trained."""
    return [array for array, moves in zip(arrays, trained, strict=True) if moves]


def spread(arrays: Weights, weights: Weights, trained: Sequence[bool]) -> Weights:
    """Undo `only`: return the arrays of those that are trained in their places, and zeros of the others' shapes between them."""
    given = iter(arrays)
    return [next(given) if moves else np.zeros(array.shape) for array, moves in zip(weights, trained, strict=True)]


def exceeds(update: Update, bound: Bound) -> bool:
    """Whether an update tells more than it may, as far as one can see: noise of the owner's makes any length possible."""
    told = set(update.metrics) == ({WITHIN} if bound.counts else set()) and all(abs(value) <= 0.5 for value in update.metrics.values())
    told = told and update.states.size == 0
    return update.examples != 1 or not told or (bound.stddev == 0 and not norm(update.delta) <= bound.clip_norm * SLACK)


def norm(arrays: Weights) -> float:
    """Return the L2 norm over all arrays together; NaN if a value is."""
    return math.sqrt(sum(float(np.vdot(array, array)) for array in (one.astype(np.float64).reshape(-1) for one in arrays)))


def step_for(clip_norm: float, stddev: float, coarsest: float) -> float:
    """Return the finest step, a power of two, at which float32 holds every noisy value exactly, and that is at least `coarsest`."""
    largest = clip_norm + LARGEST_NOISE * stddev
    return float(max(2.0 ** math.ceil(math.log2(largest / 2**24)), coarsest))
