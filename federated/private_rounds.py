"""Differential privacy of rounds: who is asked, what owners are told, the noise on the sum, and what it has cost so far."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Sequence

import numpy as np

from federated.aggregation import Aggregate
from federated.update import Bound, LocalTraining, Weights
from privacy import Accountant, CentralGaussian, ClippedGaussian, GaussianNoise, LocalGaussian

ROUNDING = 1e-6
"""What an aggregation may change in each value of an update, see `Quantisation`: it adds to what one owner can do to the sum."""


class PrivateRounds:
    """The privacy of one run.

    Args:
        settings: of the mechanism.
        owners: N, how many there are.
        fraction: q, the probability with which each takes part in a round.

    Attributes:
        spent: releases that were accounted for.
    """

    def __init__(self, settings: ClippedGaussian, *, owners: int, fraction: float) -> None:
        if not isinstance(settings, (CentralGaussian, LocalGaussian)):
            raise TypeError(f"{type(settings).__name__} is no mechanism for rounds: CentralGaussian and LocalGaussian are")
        self._settings, self._owners, self._fraction = settings, owners, fraction
        self._noise, self._event = GaussianNoise(), settings.event(fraction)
        self.spent = 0

    def training(self, told: LocalTraining) -> LocalTraining:
        """What owners are told."""
        local = isinstance(self._settings, LocalGaussian)
        stddev = self._settings.noise_multiplier * self._settings.clip_norm if local else 0.0
        return dataclasses.replace(told, bound=Bound(self._settings.clip_norm, stddev))

    def sample(self, names: Sequence[str]) -> list[str]:
        """Each name with probability q, independently, by the operating system's randomness: what the accountant assumes."""
        bits = 53
        return [name for name in names if secrets.randbits(bits) < self._fraction * 2**bits]

    def epsilon(self, more: int = 0) -> float:
        """What has been spent, at the delta of the settings, and `more` rounds would spend."""
        if self.spent + more == 0:
            return 0.0
        accountant = Accountant()
        accountant.record(self._event, self.spent + more)
        return accountant.epsilon(self._settings.delta)

    @property
    def affordable(self) -> bool:
        """Whether another round stays within the budget."""
        return self._settings.max_epsilon is None or self.epsilon(more=1) <= self._settings.max_epsilon

    def released(self, aggregate: Aggregate | None, weights: Weights) -> Aggregate:
        """What may be known: the noisy sum over the expected number of owners. Local noise is there already.

        Args:
            aggregate: the mean of the clipped updates, each with weight one; None: nobody took part.
            weights: shaped as the updates.
        """
        count = 0 if aggregate is None else aggregate.examples
        mean = [np.zeros(array.shape) for array in weights] if aggregate is None else aggregate.delta
        evaluators = () if aggregate is None else aggregate.evaluators
        if isinstance(self._settings, LocalGaussian):
            return Aggregate(mean, {}, count, evaluators)
        expected = self._fraction * self._owners
        stddev = self._settings.noise_multiplier * self._sensitivity(weights)
        delta = [(count * array + self._noise.normal(array.shape, stddev)) / expected for array in mean]
        return Aggregate(delta, {}, count, ())

    def _sensitivity(self, weights: Weights) -> float:
        """How far one owner can move the sum."""
        return self._settings.clip_norm + ROUNDING * math.sqrt(sum(array.size for array in weights))
