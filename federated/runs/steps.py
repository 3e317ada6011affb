"""One step of the global model, and what is awaited for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from federated.aggregation.aggregation import Aggregate
from federated.errors import StepFailed
from federated.runs.global_model import GlobalModel
from federated.tasks.update import Array, Task

if TYPE_CHECKING:
    pass


async def results(model: GlobalModel, states: Array, means: Mapping[str, float]) -> dict[str, float]:
    """Metrics by name; those that Keras computes, beside the event loop."""
    return await asyncio.to_thread(model.results, states, means) if states.size else model.results(states, means)


def stepped(model: GlobalModel, task: Task, aggregate: Aggregate | None) -> str | None:
    """Why the model could not be moved."""
    if aggregate is None:
        return "nothing was aggregated"
    try:
        model.step(task.weights, aggregate.delta)
    except StepFailed as error:
        return str(error)
    return None
