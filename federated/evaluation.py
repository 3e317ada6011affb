"""The new global model on the owners' own evaluation data, which stays with them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence

from federated.gathering import at_work
from federated.means import MetricsMean
from federated.owner import Owner
from federated.update import Task


async def evaluate(owners: Sequence[Owner], task: Task, *, deadline: float | None) -> dict[str, float]:
    """The metrics of the weights of the task. An evaluation that fails, or is not there in time, does not count.

    Args:
        owners: that are asked.
        task: with the weights to evaluate.
        deadline: seconds from now; None for none.

    Returns:
        `val_` and the name of the metric -> mean, weighted by examples.
    """
    metrics = MetricsMean()

    async def ask(owner: Owner) -> None:
        with contextlib.suppress(Exception):  # an evaluation that is missing costs its metrics, and nothing more
            evaluation = await owner.evaluate(task)
            if evaluation.round == task.round and evaluation.examples > 0 and all(map(math.isfinite, evaluation.metrics.values())):
                metrics.add(evaluation.metrics, evaluation.examples)

    async with at_work(ask(owner) for owner in owners) as tasks:
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
    return {f"val_{name}": value for name, value in metrics.result().items()}
