"""The new global model on the owners' own evaluation data, which stays with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from federated.metrics.layout import StateLayout
from federated.metrics.tally import MetricTally
from federated.owners.owner import Owner
from federated.rounds.gathering import at_work, told
from federated.rounds.rounds import MOST_EXAMPLES, fault_of_metrics
from federated.tasks.update import Array, Evaluation, Task


@dataclass(frozen=True, repr=False)
class Evaluated:
    """What came of asking owners for an evaluation.

    Attributes:
        means: name -> mean of the owners' values, weighted by examples: of metrics of which they gave no states.
        states: of the others: the sum; empty if nobody gave any.
        owners: names of those whose evaluation counts.
        bytes: of what travels in each round, sent, and of states, received.
        asked: names of all that were asked.
    """

    means: Mapping[str, float]
    states: Array
    owners: tuple[str, ...]
    bytes: int
    asked: tuple[str, ...] = ()


async def evaluate(
    owners: Sequence[Owner], task: Task, *, layout: StateLayout, deadline: float | None, missing: Callable[[str, str], None]
) -> Evaluated:
    """Return the metrics of the weights of the task. An evaluation that fails, or is not there in time, does not count.

    Args:
        owners: that are asked.
        task: with the weights to evaluate.
        layout: of the states that it asks for.
        deadline: seconds from now; None for none.
        missing: is told the name of each owner whose evaluation does not count, and why.
    """
    tally, awaited, counted = MetricTally(), {owner.name for owner in owners}, set()
    received = 0

    async def ask(owner: Owner) -> None:
        nonlocal received
        try:
            evaluation = await owner.evaluate(task)
            fault = _fault(evaluation, task, layout)
            received += evaluation.states.nbytes
        except Exception as error:  # an evaluation that is missing costs its metrics, and nothing more
            fault = told(error)
        awaited.discard(owner.name)
        if fault is None:
            tally.add(evaluation.metrics, evaluation.states, evaluation.examples)
            counted.add(owner.name)
        else:
            missing(owner.name, f"its evaluation does not count: {fault}")

    async with at_work(ask(owner) for owner in owners) as tasks:
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
        late = sorted(awaited)
    for name in late:
        missing(name, "its evaluation does not count: it came after the deadline")
    names = tuple(owner.name for owner in owners if owner.name in counted)
    return Evaluated(tally.means(), tally.states, names, len(owners) * task.given + received, tuple(owner.name for owner in owners))


def _fault(evaluation: Evaluation, task: Task, layout: StateLayout) -> str | None:
    if evaluation.round != task.round:
        return f"it is of round {evaluation.round}, and was asked for in round {task.round}"
    if evaluation.examples < 1:
        return "it is over no examples"
    if not isinstance(evaluation.examples, int) or evaluation.examples > MOST_EXAMPLES:
        return f"it is over more than {MOST_EXAMPLES} examples, or no whole number of them"
    return fault_of_metrics(evaluation.metrics, evaluation.states, layout, evaluation.examples)
