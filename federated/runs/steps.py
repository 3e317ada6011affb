"""One step of the global model, what is awaited for it, and whether another is worth trying."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from federated.aggregation.aggregation import Aggregate
from federated.errors import StepFailed
from federated.rounds.outcome import Outcome, alike
from federated.runs.global_model import GlobalModel
from federated.tasks.update import Array, Task

log = logging.getLogger(__name__)

LAST = 3
"""Rounds in which all owners fail alike before no more are played."""


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


def hopeless(history: Sequence[Outcome], first: int) -> bool:
    """Whether all owners have failed alike for so long, since a round, that more rounds would be the same."""
    last = history[max(first, len(history) - LAST) :]
    reason = alike(last) if len(last) == LAST else None
    if reason is not None:
        log.warning("no more rounds are played: in %d nobody gave anything, and all for the same reason: %s", LAST, reason)
    return reason is not None
