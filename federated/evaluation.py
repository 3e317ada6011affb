"""The new global model on the owners' own evaluation data, which stays with them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from federated.gathering import at_work, told
from federated.means import MetricsMean
from federated.owner import Owner
from federated.update import Evaluation, Task


async def evaluate(owners: Sequence[Owner], task: Task, *, deadline: float | None, missing: Callable[[str, str], None]) -> dict[str, float]:
    """The metrics of the weights of the task. An evaluation that fails, or is not there in time, does not count.

    Args:
        owners: that are asked.
        task: with the weights to evaluate.
        deadline: seconds from now; None for none.
        missing: is told the name of each owner whose evaluation does not count, and why.

    Returns:
        `val_` and the name of the metric -> mean, weighted by examples.
    """
    metrics, awaited = MetricsMean(), {owner.name for owner in owners}

    async def ask(owner: Owner) -> None:
        try:
            evaluation = await owner.evaluate(task)
            fault = _fault(evaluation, task)
        except Exception as error:  # an evaluation that is missing costs its metrics, and nothing more
            fault = told(error)
        awaited.discard(owner.name)
        if fault is None:
            metrics.add(evaluation.metrics, evaluation.examples)
        else:
            missing(owner.name, f"its evaluation does not count: {fault}")

    async with at_work(ask(owner) for owner in owners) as tasks:
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
        late = sorted(awaited)
    for name in late:
        missing(name, "its evaluation does not count: it came after the deadline")
    return {f"val_{name}": value for name, value in metrics.result().items()}


def _fault(evaluation: Evaluation, task: Task) -> str | None:
    if evaluation.round != task.round:
        return f"it is of round {evaluation.round}, and was asked for in round {task.round}"
    if evaluation.examples < 1:
        return "it is over no examples"
    return next((f"its {name} is not finite" for name, value in evaluation.metrics.items() if not math.isfinite(value)), None)
