"""Differential privacy of rounds for single examples: each owner trains by DP-SGD, and what it sends may be seen."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from federated.aggregation.aggregation import Aggregate, Limits
from federated.strategies.sampling import sample
from federated.tasks.update import LocalTraining, Weights
from privacy import DPSGD, Accountant


class PrivateExamples:
    """The privacy of one run in which owners train by DP-SGD; the same interface as `PrivateRounds`.

    An example belongs to one owner, so what counts is how often that owner was asked. An owner that cannot afford another round is asked
    no more.

    Args:
        settings: of the training.
        asked: how many owners take part in a round.
        epochs: passes over its data that each makes in a round.
        seed: of the sampling of owners, which need not be secret.

    Attributes:
        spent: name -> rounds in which the owner was asked.
        hidden: False; noise is in the updates, and in their mean.
        upfront: True; it is spent when an owner is asked, for its update may be seen, whatever becomes of the round.
    """

    hidden = False
    upfront = True

    def __init__(self, settings: DPSGD, *, asked: int, epochs: int, seed: int) -> None:
        self._settings, self._asked, self._epochs, self._seed = settings, asked, epochs, seed
        self.spent: Counter[str] = Counter()
        self._chosen: list[str] = []
        self._names: Sequence[str] = ()
        self._rounds = 0

    # Before a round.

    def training(
        self, told: LocalTraining, weights: Weights, *, least: int, limits: Limits, trained: Sequence[bool] | None = None
    ) -> LocalTraining:
        """Return what owners are told; see `PrivateRounds.training`."""
        one = self._settings
        return dataclasses.replace(told, noise_multiplier=one.noise_multiplier, max_grad_norm=one.max_grad_norm, rate=one.sampling_rate)

    def sample(self, names: Sequence[str]) -> list[str]:
        """Who takes part, of those that can afford it."""
        self._names = names
        able = [name for name in names if self._affords(self.spent[name] + 1)]
        self._rounds += 1
        self._chosen = sample(able, min(self._asked, len(able)), seed=[self._seed, self._rounds])
        return self._chosen

    def _affords(self, rounds: int) -> bool:
        return self._settings.max_epsilon is None or self._epsilon(rounds) <= self._settings.max_epsilon

    # What it costs.

    def _epsilon(self, rounds: int) -> float:
        if rounds == 0:
            return 0.0
        accountant = Accountant()
        for event, count in self._settings.events(self._epochs, rounds):
            accountant.record(event, count)
        return accountant.epsilon(self._settings.delta)

    def epsilon(self, more: int = 0) -> float:
        """Return the epsilon of the owner that was asked most often, at the delta of the settings; `more` rounds later at most."""
        return self._epsilon(max(self.spent.values(), default=0) + more)

    @property
    def affordable(self) -> bool:
        """Whether any owner can afford another round."""
        fewest = min((self.spent[name] for name in self._names), default=0)
        return self._affords(fewest + 1)

    def charge(self) -> None:
        """Account for the round whose owners are asked next."""
        self.spent.update(self._chosen)

    # After a round.

    def released(self, aggregate: Aggregate | None, weights: Weights, trained: Sequence[bool] | None = None) -> Aggregate | None:
        """Return the mean as it is; without metrics and evaluations, which have no noise."""
        return None if aggregate is None else Aggregate(aggregate.delta, {}, aggregate.examples, (), single=aggregate.single)

    # Durable runs.

    def state(self) -> dict[str, Any]:
        """Return what the next round depends on, as plain values."""
        return {"spent": dict(self.spent), "rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.spent, self._rounds = Counter(state["spent"]), int(state["rounds"])
