"""The owner's side of the two-server aggregation: it splits its update in two, and gives each server one half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from federated.errors import UpdateHeldBack
from federated.owners.hiding import Hiding
from federated.tasks.update import Task, Update
from protocols.quantisation import Vector
from protocols.secure_aggregation.shared_sums import halve
from protocols.workers.sum_server import SumServer, hand_in

METRIC_SLOTS = 16
"""Metrics that an update can have."""


@dataclass(frozen=True)
class Drop:
    """Where one update is handed in.

    Args:
        handle: of the session at the servers.
        ticket: for this update.
        owners: how many there can be in a sum.
        states: values of states of metrics that the vector has room for.
    """

    handle: bytes
    ticket: bytes
    owners: int
    states: int = 0


@dataclass(frozen=True)
class HandedIn:
    """An update was handed in.

    Args:
        metrics: names of its metrics, in the order in which they are in the vector.
        evaluates: whether the owner has evaluation data.
        states: values of the states of its metrics; 0: it tells none, and zeros are in the vector, which add nothing.
    """

    metrics: tuple[str, ...]
    evaluates: bool
    states: int = 0


class Giver(Protocol):
    """What an owner does, wherever it is."""

    async def give(self, task: Task, hiding: Hiding, drop: Drop, vectors: SumServer, seeds: SumServer) -> HandedIn:
        """Train, and hand each server its half of the update."""


class OwnGiver:
    """The giver of an owner in this process.

    Args:
        train: makes the update.
    """

    def __init__(self, train: Callable[[Task], Awaitable[Update]]) -> None:
        self._train = train

    async def give(self, task: Task, hiding: Hiding, drop: Drop, vectors: SumServer, seeds: SumServer) -> HandedIn:
        """See `Giver.give`.

        Raises:
            UpdateHeldBack: the update cannot be hidden: a value is too large, or it has too many metrics.
            AggregationError: a server refuses its half.
        """
        update = await self._train(task)
        hiding.check(update)
        if len(update.metrics) > METRIC_SLOTS:
            raise UpdateHeldBack(f"this owner has {len(update.metrics)} metrics; {METRIC_SLOTS} at most can be summed")
        if update.states.size not in (0, drop.states):
            raise UpdateHeldBack(f"this owner's metrics have states of {update.states.size} values; the sum has room for {drop.states}")
        halves = await asyncio.to_thread(lambda: halve(encoded(update, hiding, drop.owners, drop.states)))
        await hand_in(vectors, seeds, drop.handle, drop.ticket, halves)
        return HandedIn(tuple(update.metrics), update.evaluates, update.states.size)


def encoded(update: Update, hiding: Hiding, owners: int, states: int = 0) -> Vector:
    """Encode the update, its metrics and zeros behind them, times the number of examples, the states of the metrics, and that number."""
    slots = np.zeros(METRIC_SLOTS)
    slots[: len(update.metrics)] = hiding.metrics(update)
    given = update.states if update.states.size else np.zeros(states)
    limbs = hiding.split(given, update.examples, owners)
    return hiding.quantisation(owners).encode([*update.delta, slots, *limbs], update.examples)
