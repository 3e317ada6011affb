"""How the updates of a round become one aggregate: the interface, and the form in which the aggregator sees each update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from federated.metrics.tally import NOTHING, MetricTally
from federated.owners.owner import Owner
from federated.rounds.gathering import Gathering
from federated.tasks.bounding import exceeds
from federated.tasks.means import RunningMean
from federated.tasks.update import Array, Task, Update, Weights


@dataclass(frozen=True, repr=False)
class Aggregate:
    """What a round gave.

    Attributes:
        delta: the mean over the owners, shaped as `Task.summed`, float64.
        metrics: of local training: name -> mean over the updates that count, weighted by examples.
        examples: that the updates were trained on.
        evaluators: owners whose update counts and that have evaluation data.
        states: of the metrics of local training: the sum over the updates that count, float64; empty if none has any.
        single: the updates that count, in the order of the owners' names; empty unless they were asked for.
    """

    delta: Weights
    metrics: Mapping[str, float]
    examples: int
    evaluators: tuple[Owner, ...]
    states: Array = field(default_factory=lambda: NOTHING)
    single: tuple[tuple[str, Update], ...] = ()


@dataclass(frozen=True)
class Limits:
    """What an aggregation needs and keeps.

    Attributes:
        least: owners whose sum is opened.
        resolution: multiples of it are summed without rounding.
        largest: absolute value in an update.
    """

    least: int = 1
    resolution: float = 0.0
    largest: float = math.inf


class Aggregation(Protocol):
    """How a round is aggregated.

    Attributes:
        hides_updates: whether nobody sees single updates.
        asynchronous: whether updates can be from owners who were asked at different times.
    """

    hides_updates: ClassVar[bool]
    asynchronous: ClassVar[bool]

    def limits(self, sampled: int) -> Limits:
        """In a round with so many sampled owners, each update with the weight of one."""

    async def gather(self, gathering: Gathering, *, single_updates: bool) -> Aggregate | None:
        """Ask the owners, and return when the round is over.

        Args:
            gathering: the round: whom to ask what, and until when. What becomes of each owner is written into its book.
            single_updates: the strategy needs them side by side. Never with an aggregation that hides them.

        Returns:
            None if fewer than the quorum have reported: then nothing is opened.
        """


@dataclass(frozen=True)
class PlainMean:
    """The aggregator sees each update, and averages them by their number of examples.

    sum_i n_i Delta_i / sum_i n_i, summed in float64 as the updates arrive; none is kept. For strategies that need the single updates all
    are kept until the round ends.
    """

    hides_updates: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = True

    def limits(self, sampled: int) -> Limits:
        """None."""
        return Limits()

    async def gather(self, gathering: Gathering, *, single_updates: bool) -> Aggregate | None:
        """Take updates in as they come."""
        mean, single = RunningMean(gathering.task.summed), {}
        metrics, evaluators = MetricTally(), []

        async def take(owner: Owner, update: Update, factor: float) -> None:
            if gathering.task.training.bound is not None and exceeds(update, gathering.task.training.bound):
                gathering.book.reject(owner.name, "its update is longer than the clip norm, counts more than once, or has metrics")
                return
            if gathering.task.training.alike and update.examples != 1:
                gathering.book.reject(owner.name, "its update counts more than once, and owners count alike")
                return
            gathering.report(owner, update)
            mean.add(update, factor)
            if single_updates:
                single[owner.name] = update
            metrics.add(update.metrics, update.states, update.examples)
            if update.evaluates:
                evaluators.append(owner)

        await gathering.ask(_train, take)
        if gathering.book.failure is not None:
            return None
        return Aggregate(mean.result(), metrics.means(), metrics.examples, tuple(evaluators), metrics.states, tuple(sorted(single.items())))


async def _train(owner: Owner, task: Task) -> Update:
    return await owner.train(task)
