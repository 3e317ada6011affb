"""The global model before the first step, one step of it, and whether more make sense."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from federated.aggregation.aggregation import Aggregate, Aggregation
from federated.errors import StepFailed
from federated.owners.owner import Owner
from federated.rounds.evaluation import Evaluated, evaluate
from federated.rounds.gathering import Gathering
from federated.rounds.outcome import Outcome, alike
from federated.runs.compatibility import check_trained_privately
from federated.runs.global_arrays import GlobalArrays
from federated.runs.global_model import GlobalModel
from federated.runs.protection import Protection
from federated.strategies.strategy import Strategy
from federated.tasks.update import Array, Task
from privacy import DPSGD, ClippedGaussian

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

LAST = 3
"""Rounds in which all owners fail alike before no more are played."""


def opened(
    model: Callable[[], keras.Model] | Sequence[Any],
    strategy: Strategy,
    seed: int,
    private: Protection | None,
    privacy: ClippedGaussian | DPSGD | None,
) -> GlobalModel | GlobalArrays:
    """Return the global model of a federation.

    Args:
        model: makes a compiled Keras model; or arrays.
        strategy: see `Federation`.
        seed: see there.
        private: what privacy costs.
        privacy: its settings.

    Raises:
        ModelRefused: it cannot be sent to owners.
        SettingError: it cannot be trained with that privacy.
    """
    if not callable(model):
        return GlobalArrays(model, strategy, seed, private, privacy)
    made = GlobalModel(model, strategy, seed, private, privacy)
    if privacy is not None:
        check_trained_privately(made.model, privacy, epochs=strategy.local_epochs)
    return made


async def results(model: GlobalModel | GlobalArrays, states: Array, means: Mapping[str, float]) -> dict[str, float]:
    """Metrics by name; those that Keras computes, beside the event loop."""
    return await asyncio.to_thread(model.results, states, means) if states.size else model.results(states, means)


async def told(
    model: GlobalModel | GlobalArrays, owners: Sequence[Owner], task: Task, *, deadline: float | None, missing: Callable[[str, str], None]
) -> tuple[Evaluated, dict[str, float]]:
    """Have owners evaluate the weights after the step of a round; return also the metrics, by `val_` and their names."""
    after = replace(task, weights=model.weights, arrays={**task.arrays, **model.arrays(task.round)})
    evaluated = await evaluate(owners, after, layout=model.layout, deadline=deadline, missing=missing)
    values = await results(model, evaluated.states, evaluated.means)
    return evaluated, {f"val_{name}": value for name, value in values.items()}


async def gathered(gathering: Gathering, strategy: Strategy, aggregation: Aggregation) -> Aggregate | None:
    """Return what came of a round; None if too little did, or nobody was asked, as may be with privacy."""
    if not gathering.book.standing:
        return None
    return await aggregation.gather(gathering, single_updates=strategy.single_updates)


def stepped(model: GlobalModel | GlobalArrays, task: Task, aggregate: Aggregate | None, owners: int) -> str | None:
    """Why the model could not be moved."""
    if aggregate is None:
        return "nothing was aggregated"
    try:
        model.step(task, aggregate, owners)
    except StepFailed as error:
        return str(error)
    return None


def hopeless(history: Sequence[Outcome], first: int) -> bool:
    """Return whether all owners have failed alike in the last rounds since round `first`, so that more rounds would be the same."""
    last = history[max(first, len(history) - LAST) :]
    reason = alike(last) if len(last) == LAST else None
    if reason is not None:
        log.warning("no more rounds are played: in %d nobody gave anything, and all for the same reason: %s", LAST, reason)
    return reason is not None
