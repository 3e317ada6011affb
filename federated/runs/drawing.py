"""Whom a round asks, and when it has enough."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from federated.aggregation.aggregation import Aggregation
from federated.errors import SettingError
from federated.owners.owner import Owner
from federated.runs.compatibility import check_plan, sampled
from federated.runs.global_arrays import GlobalArrays
from federated.runs.global_model import GlobalModel
from federated.runs.protection import Protection
from federated.strategies.fedbuff import FedBuff
from federated.strategies.sampling import asked, sample
from federated.strategies.strategy import Strategy, check
from federated.tasks.update import Task
from privacy import ClippedGaussian


@dataclass(frozen=True)
class Draw:
    """Who is asked in a round.

    Attributes:
        owners: their names, in the order in which they are asked.
        wanted: of how many of them updates are wanted.
        task: what they are asked.
        tasks: what owners are asked that are asked something else.
        least: of them whose sum may be opened.
    """

    owners: list[str]
    wanted: int
    task: Task
    tasks: Mapping[str, Task] = field(default_factory=dict)
    least: int = 0

    def quorum(self, strategy: Strategy, share: float) -> int:
        """Return how many of them have to report."""
        return max(math.ceil(share * self.wanted), strategy.least_updates, self.least) if self.owners else 0


@dataclass(frozen=True)
class Waiting:
    """For whom rounds wait.

    Args:
        enough: share of the wanted updates with which a round is over, in (0, 1].
        oversample: how many times as many owners are asked as updates are wanted, at least 1.
        evaluate_every: rounds from one evaluation by owners to the next, at least 1.
        evaluators: share of the owners that report, and can, that evaluate, in (0, 1].

    Raises:
        SettingError: out of range.
    """

    enough: float = 1.0
    oversample: float = 1.0
    evaluate_every: int = 1
    evaluators: float = 1.0

    def __post_init__(self) -> None:
        check("enough", self.enough, 0.0 < self.enough <= 1.0, "in (0, 1]")
        check("oversample", self.oversample, 1.0 <= self.oversample < math.inf, "at least 1 and finite")
        check("evaluate_every", self.evaluate_every, self.evaluate_every >= 1, "at least 1")
        check("evaluators", self.evaluators, 0.0 < self.evaluators <= 1.0, "in (0, 1]")

    @property
    def waits_for_all(self) -> bool:
        """Whether a round waits for each owner that is asked."""
        return self.enough == 1.0 and self.oversample == 1.0

    def check_with(self, strategy: Strategy, privacy: object, quorum: float) -> None:
        """Refuse what does not go together.

        Raises:
            SettingError: naming it.
        """
        if self.enough < quorum:
            raise SettingError(f"enough={self.enough:g} and quorum={quorum:g}: a round would be over before it can be valid: lower quorum")
        if not self.waits_for_all and isinstance(privacy, ClippedGaussian):
            raise SettingError(
                f"enough= or oversample= with {type(privacy).__name__}: who takes part has to be drawn as the privacy says, and not by who "
                "is fast: leave them out, or use DPSGD"
            )
        if not self.waits_for_all and isinstance(strategy, FedBuff):
            raise SettingError(
                "enough= or oversample= with FedBuff: a round is over with `buffer` updates, and nobody waits: leave them out"
            )

    def evaluators_of(self, owners: Sequence[Owner], number: int, *, seed: int) -> tuple[Owner, ...]:
        """Return who evaluates in a round, of owners that can."""
        if number % self.evaluate_every or not owners:
            return ()
        by_name = {owner.name: owner for owner in owners}
        names = sorted(by_name)
        return tuple(by_name[name] for name in sample(names, asked(len(names), self.evaluators), seed=[seed, number, 2]))

    def over_with(self, draw: Draw, quorum: int) -> int | None:
        """Return with how many updates a round is over; None: when all have answered."""
        return None if self.waits_for_all else max(quorum, math.ceil(self.enough * draw.wanted))


def drawn_privately(
    private: Protection, task: Task, names: Sequence[str], strategy: Strategy, aggregation: Aggregation, share: float
) -> Draw:
    """Return whom a round asks as its privacy says, and what; it takes a while.

    Args:
        private: the privacy.
        task: of the round, without it.
        names: of all owners.
        strategy: how many updates it needs.
        aggregation: how updates are summed.
        share: of the owners that has to report.
    """
    chosen = private.sample(names)
    draw = Draw(chosen, len(chosen), task)
    if not chosen:  # then the noise alone is released
        return draw
    limits = aggregation.limits(len(chosen))
    draw = replace(draw, least=limits.least)
    training = private.training(task.training, task.summed, least=draw.quorum(strategy, share), limits=limits, trained=task.bounded)
    return replace(draw, task=replace(task, training=training))


def drawn(
    model: GlobalModel | GlobalArrays,
    task: Task,
    present: Sequence[str],
    strategy: Strategy,
    aggregation: Aggregation,
    *,
    patience: Waiting,
    seed: int,
    away: Collection[str] = (),
) -> Draw:
    """Return whom a round asks, where no privacy says it.

    Args:
        model: the global one.
        task: of the round.
        present: names of all owners.
        strategy: which may plan.
        aggregation: how updates are summed.
        patience: how many more are asked than are wanted.
        seed: of the sample.
        away: owners that are not here now: they are drawn only where too few others are.

    Raises:
        SettingError: the strategy plans what cannot be followed.
    """
    planned = model.planned(task, present)
    if planned is not None:
        check_plan(strategy, aggregation, planned)
        return Draw(list(planned), len(planned), next(iter(planned.values())), planned)
    wanted = sampled(len(present), strategy)
    count = min(len(present), math.ceil(patience.oversample * wanted))
    here = [name for name in present if name not in away]
    chosen = sample(here if len(here) >= count else present, count, seed=[seed, task.round])
    if not patience.waits_for_all:  # who is asked first may be who is done first
        chosen = [chosen[i] for i in np.random.default_rng([seed, task.round, 1]).permutation(count)]
    return Draw(chosen, wanted, task)
