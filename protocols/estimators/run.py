"""One fit at the workers: stores what is not there, runs plans on it, and has everything of it forgotten at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from actors import ActorError
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.concurrency import at_once
from protocols.datasets.dataset import SharedDataset
from protocols.errors import Diverged, InputError, WorkerLost
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.owner.fitting import MEMORY
from protocols.owner.running import Running, begun
from protocols.owner.stored import training_servers
from protocols.training.regression import Clusters, Logistic, LogLinear, Moments
from protocols.training.regression.logistic import WEIGHT_BITS
from protocols.training.terms import TrainingTerms
from protocols.training.trees import Binning, Boosting, Counts, Forest
from protocols.workers.training_server import TrainingServer

if TYPE_CHECKING:
    from protocols.owner.cluster import Cluster

Started = Moments | Logistic | LogLinear | Clusters | Counts | Boosting | Forest
"""Plans that begin with shares of their own."""

STEP_MEMORY = MEMORY // 8
"""Bytes of randomness of a step at a server, at most: so many are dealt ahead."""


class Run:
    """What one fit does at the workers, as a context.

    Args:
        cluster: a running one.
        name: of the model; among equals it says who helps.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._seats = cluster.seats_for(name)
        self._stored: list[SharedDataset] = []

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._forget()
        except (ActorError, WorkerLost) as lost:
            if error is None:
                raise WorkerLost(f"the data of the fit could not be removed: {str(lost).partition(chr(10))[0]}") from None

    async def _forget(self) -> None:
        system = self._cluster.links.system
        workers = [await system.connect(f"{worker.url}/training", TrainingServer) for worker in self._cluster.workers if self._stored]
        while self._stored:
            array = self._stored.pop()
            forgetting = (worker.forget(array.dataset.handle, right_at(array.secret, place)) for place, worker in enumerate(workers))
            await at_once(*forgetting)

    async def store(self, name: str, array: npt.ArrayLike, *, classes: int | None = None) -> SharedDataset:
        """Share an array for this fit; see `Cluster.store`."""
        shared = await self._cluster.store(name, array, classes=classes)
        self._stored.append(shared)
        return shared

    async def moments(self, plan: Moments, data: tuple[SharedDataset, ...], batch: int) -> dict[str, Ring]:
        """Open the sums that a plan asks for: integers modulo 2^64.

        Args:
            plan: what is summed.
            data: x, y, and the weights if there are any.
            batch: examples of a step.

        Raises:
            InputError: data do not fit, or weights are not from 0 to 1.
            WorkerLost: a worker went away.
        """
        try:
            return await self.opened(plan, data, {}, plan.asks, batch)
        except Diverged:
            raise InputError(f"{data[-1].name!r} has weights below 0 or above 1: weights that are shared must be from 0 to 1") from None

    async def minimised(
        self, plan: Logistic, data: tuple[SharedDataset, ...], batch: int
    ) -> tuple[list[npt.NDArray[np.float64]], int, bool]:
        """Iterate until the gradient is small, or as often as the plan allows.

        Returns:
            The weights, opened to this process; how many iterations were made; whether the gradient is small.

        Raises:
            InputError: data do not fit.
            Diverged: numbers have left fixed point.
            TooLarge: the randomness of one operation of a step does not fit the memory.
            WorkerLost: a worker went away.
        """
        made, epoch, steep = 0, 0, True
        async with self._model(plan, {}) as model:
            async with self._running(plan, data, batch, model) as running:
                while steep and made < plan.iterations:
                    [(first, second)] = await running.epoch(epoch, 0, None, told=["steep"], progress=False)
                    steep = bool((first.told["steep"] + second.told["steep"]).any())
                    made, epoch = made + plan.repeats(epoch), epoch + 1
            weights = await self._revealed(model)
        return [decode(weight, 2.0**-WEIGHT_BITS) for weight in weights], made, not steep

    async def opened(
        self,
        plan: Moments | Counts | Clusters | LogLinear,
        data: tuple[SharedDataset, ...],
        placed: dict[str, Ring],
        told: tuple[str, ...],
        batch: int,
    ) -> dict[str, Ring]:
        """Open sums over all examples that depend on what is placed: integers modulo 2^64.

        Args:
            plan: what is summed.
            data: x, y, and the weights if there are any.
            placed: what the plan begins with.
            told: which sums.
            batch: examples of a step.

        Raises:
            InputError: data do not fit.
            Diverged: numbers have left fixed point.
            WorkerLost: a worker went away.
        """
        async with self._model(plan, placed) as model, self._running(plan, data, batch, model) as running:
            [(first, second)] = await running.epoch(0, 0, None, told=list(told), progress=False)
        return {name: first.told[name] + second.told[name] for name in told}

    async def grown(
        self, plan: Boosting | Forest, data: tuple[SharedDataset, ...], placed: dict[str, Ring], compared: int | None, memory: int
    ) -> dict[str, Ring]:
        """Grow trees, and open them to this process.

        Args:
            plan: what is grown.
            data: x, y, and the weights if there are any.
            placed: shares of what the plan begins with, where it is not 0.
            compared: in how many examples at a time features are compared with thresholds that are shared; None if they were before.
            memory: bytes of randomness that a server may hold ahead.

        Returns:
            What the plan's shapes name, as integers.

        Raises:
            InputError: data do not fit.
            Diverged: targets, or what is left of them, are too large.
            WorkerLost: a worker went away.
        """
        async with self._model(plan, placed) as model:
            steps: list[tuple[Binning | Boosting | Forest, int]] = [(plan, plan.examples)]
            for step, batch in [*([(Binning(plan), compared)] if compared is not None else []), *steps]:
                async with self._running(step, data, batch, model, memory) as running:
                    await running.epoch(0, 0, None, told=[], progress=False)
            weights = await self._revealed(model)
        return dict(zip(plan.shapes, weights, strict=True))

    @contextlib.asynccontextmanager
    async def _model(self, plan: Started, values: dict[str, Ring]) -> AsyncIterator[tuple[bytes, bytes]]:
        """Place what a plan begins with for a block: its handle, and the secret of the rights to it. What is lost then ends the fit."""
        model = await self._placed(plan, values)
        try:
            yield model
        except (ActorError, WorkerLost) as error:
            reason = str(error).partition("\n")[0]
            raise WorkerLost(f"the fit stopped: {reason}; what was fitted before stays") from None
        finally:
            await self._removed(model)

    async def _placed(self, plan: Started, values: dict[str, Ring]) -> tuple[bytes, bytes]:
        """Share what a plan begins with, 0 unless it is given; return the handle, and the secret of the rights to it."""
        shapes = plan.shapes
        first = [KeyStream(fresh_key()).words(shape) for shape in shapes.values()]
        second = [values.get(name, np.uint64(0)) - share for name, share in zip(shapes, first, strict=True)]
        handle, secret, presence = os.urandom(16), new_secret(), self._cluster.presence
        placing = zip(await training_servers(self._cluster, self._name), self._seats.servers, (first, second), strict=True)
        await at_once(*(server.load(handle, digest_at(secret, place), plan, share, presence) for server, place, share in placing))
        return handle, secret

    @contextlib.asynccontextmanager
    async def _running(
        self, plan: Started | Binning, data: tuple[SharedDataset, ...], batch: int, model: tuple[bytes, bytes], memory: int = MEMORY
    ) -> AsyncIterator[Running]:
        """Begin the steps of a plan for a block, on what is placed."""
        x, y, *weights = [array.dataset for array in data]
        w = weights[0] if weights else None
        terms = TrainingTerms(os.urandom(16), plan, x, y, batch, None, memory, self._cluster.equals, self._name, w=w)
        running = await begun(self._cluster, terms, data, model, None)
        try:
            yield running
        finally:
            await running.end()

    async def _revealed(self, model: tuple[bytes, bytes]) -> list[Ring]:
        """Open what is held of a plan, in the order of its shapes."""
        held = await self._held(model)
        halves = await at_once(*(server.weights(model[0], right) for server, right in held))
        return [a + b for a, b in zip(*halves, strict=True)]

    async def _removed(self, model: tuple[bytes, bytes]) -> None:
        try:
            held = await self._held(model)
            await at_once(*(server.forget(model[0], right) for server, right in held))
        except (ActorError, WorkerLost):
            return  # a worker that is gone has forgotten it

    async def _held(self, model: tuple[bytes, bytes]) -> list[tuple[TrainingServer, bytes]]:
        """Return the servers, each with the right to what it holds."""
        rights = [right_at(model[1], place) for place in self._seats.servers]
        return list(zip(await training_servers(self._cluster, self._name), rights, strict=True))


def batch_within(plan: Logistic, memory: int = STEP_MEMORY) -> int:
    """Return the largest part of all examples, halved again and again, whose step needs no more randomness than `memory` at a server."""
    batch = plan.examples
    while batch > 1 and plan.circuit(batch).layout.bytes_per_example > memory:
        batch = -(-batch // 2)
    return batch
