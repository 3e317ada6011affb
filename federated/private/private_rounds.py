"""Differential privacy of rounds: who is asked, what owners are told, the noise on the sum, and what it has cost so far."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from federated.aggregation.aggregation import Aggregate, Limits
from federated.errors import SettingError
from federated.private.noising import TreeNoise, noising
from federated.strategies.sampling import asked
from federated.tasks.bounding import LARGEST_NOISE, only, spread
from federated.tasks.update import LocalTraining, Weights
from privacy import Accountant, ClippedGaussian, DistributedGaussian, Ledger, LocalGaussian

COIN = 53
"""Bits of the coin that decides whether an owner takes part."""


class PrivateRounds:
    """The privacy of one run.

    Args:
        settings: of the mechanism.
        owners: N, how many there are.
        fraction: q, the share of them that takes part in a round.
        seed: of the order in which owners take turns, for mechanisms that need no chance.
        ledger: is asked before each release, and told; None: the settings alone limit what is released.

    Attributes:
        spent: releases that were accounted for, in each epoch of the mechanism; all in the first if it has none.

    Raises:
        TypeError: the settings are those of no mechanism.
    """

    def __init__(self, settings: ClippedGaussian, *, owners: int, fraction: float, seed: int = 0, ledger: Ledger | None = None) -> None:
        self._settings, self._owners, self._fraction, self._seed, self._ledger = settings, owners, fraction, seed, ledger
        self._noising = noising(settings, fraction * owners)
        self._turns = asked(owners, fraction) if isinstance(self._noising, TreeNoise) else 0
        self._epoch, self._position = 0, 0
        self.spent = [0]

    # Before a round.

    @property
    def upfront(self) -> bool:
        """Whether it is spent when owners are asked: their updates may be seen, whatever becomes of the round."""
        return isinstance(self._settings, LocalGaussian)

    @property
    def hidden(self) -> bool:
        """Whether the noise is in the sum already, so that without owners there is none."""
        return isinstance(self._settings, DistributedGaussian)

    def training(
        self, told: LocalTraining, weights: Weights, *, least: int, limits: Limits, trained: Sequence[bool] | None = None
    ) -> LocalTraining:
        """Return what owners are told.

        Args:
            told: without privacy.
            weights: shaped as the updates.
            least: the fewest owners whose sum is opened.
            limits: of the aggregation.
            trained: of each of the weights, whether it is trained; None: all are. The others get no noise.

        Raises:
            SettingError: updates with noise are too large for the aggregation, or have too little for the grid that they are rounded to.
        """
        values = weights if trained is None else only(weights, trained)
        bound = self._noising.bound(sum(array.size for array in values), least, limits.resolution)
        largest = bound.clip_norm + LARGEST_NOISE * (bound.stddev + bound.step)
        if bound.stddev and largest > limits.largest:
            raise SettingError(
                f"clip={limits.largest:g} of the aggregation: updates with the noise of {least} owners or more have values up to "
                f"{largest:.3g}: raise it, or lower clip_norm or noise_multiplier"
            )
        return dataclasses.replace(told, bound=bound)

    def sample(self, names: Sequence[str]) -> list[str]:
        """Who takes part: each with probability q, independently, by the operating system's randomness; or those whose turn it is."""
        if not self._turns:
            return [name for name in names if secrets.randbits(COIN) < self._fraction * 2**COIN]
        if self._position >= self._rounds_in_an_epoch:
            self._begin_epoch()
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(names))
        start = self._position * self._turns
        self._position += 1
        return [names[i] for i in order[start : start + self._turns]]

    @property
    def _rounds_in_an_epoch(self) -> int:
        return self._owners // self._turns

    def _begin_epoch(self) -> None:
        assert isinstance(self._noising, TreeNoise)
        self._noising.restart()
        self._epoch, self._position = self._epoch + 1, 0
        if self.spent[-1]:
            self.spent.append(0)

    # What it costs.

    def epsilon(self, more: int = 0) -> float:
        """Return the epsilon, at the delta of the settings, of what has been spent and `more` rounds would spend."""
        accountant = Accountant()
        for rounds in [*self.spent[:-1], *self._with(more)]:
            for event, count in self._settings.events(self._fraction, rounds) if rounds else ():
                accountant.record(event, count)
        return accountant.epsilon(self._settings.delta) if accountant.events else 0.0

    def _with(self, more: int) -> list[int]:
        """Count the rounds of the present epoch, and of those that `more` rounds would begin."""
        if not self._turns:
            return [self.spent[-1] + more]
        room = self._rounds_in_an_epoch - self._position
        here = min(more, room)
        later = [min(self._rounds_in_an_epoch, more - begun) for begun in range(here, more, self._rounds_in_an_epoch)]
        return [self.spent[-1] + here, *later]

    @property
    def affordable(self) -> bool:
        """Whether another round stays within the budget."""
        limit = self._settings.max_epsilon
        if limit is not None and self.epsilon(more=1) > limit:
            return False
        fresh = bool(self._turns) and self._position >= self._rounds_in_an_epoch
        return self._ledger is None or all(self._ledger.affords(event, count) for event, count in self._due(fresh=fresh))

    def _due(self, *, fresh: bool = False) -> list[tuple[Any, int]]:
        """List what the next round adds to a ledger; a tree is paid for as a whole before its first release."""
        if not self._turns:
            return self._settings.events(self._fraction, 1)
        return self._settings.events(self._fraction, self._rounds_in_an_epoch) if fresh or not self.spent[-1] else []

    def charge(self) -> None:
        """Account for the release that comes next.

        Raises:
            privacy.BudgetSpent: the ledger cannot afford it any more. It must not be made.
        """
        if self._ledger is not None:
            for event, count in self._due():
                self._ledger.spend(event, count, purpose=f"a round with {type(self._settings).__name__}")
        self.spent[-1] += 1

    # After a round.

    def released(self, aggregate: Aggregate | None, weights: Weights, trained: Sequence[bool] | None = None) -> Aggregate:
        """Return what may be known: the noisy sum over the expected number of owners; the mean, if each update has its noise already.

        Args:
            aggregate: the mean of the clipped updates, each with weight one; None: nobody took part.
            weights: shaped as the updates.
            trained: of each of the weights, whether it is trained; None: all are. The others do not move.
        """
        trained = [True] * len(weights) if trained is None else trained
        count = 0 if aggregate is None else aggregate.examples
        mean = only([np.zeros(array.shape) for array in weights] if aggregate is None else aggregate.delta, trained)
        metrics = {} if aggregate is None else {name: count * value for name, value in aggregate.metrics.items()}
        if isinstance(self._settings, LocalGaussian):
            return Aggregate(spread(mean, weights, trained), {}, count, ())
        noisy = self._noising.noisy([count * array for array in mean], metrics)
        expected = self._turns or self._fraction * self._owners
        return Aggregate(spread([array / expected for array in noisy], weights, trained), {}, count, ())

    # Durable runs.

    def state(self) -> dict[str, Any]:
        """Return what the next round depends on, as plain values."""
        return {"spent": self.spent, "epoch": self._epoch, "mechanism": self._noising.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state. An epoch that was under way is over."""
        self.spent = list(state["spent"])
        self._noising.restore(state["mechanism"])
        if self._turns:
            self._epoch = int(state["epoch"])
            self._begin_epoch()
