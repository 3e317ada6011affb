"""Simulated owners in a pool of processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from actors import Actor, ActorError, ActorSystem, LinkError, limits, message
from federated.errors import OwnerDropped
from federated.owners.holding import Holding
from federated.owners.remote_owner import BUSY
from federated.simulation.engine import ThreadEngine, cannot_be_sent
from federated.strategies.strategy import check
from federated.tasks.base import Bases, TaskBase, supplied
from federated.tasks.update import Evaluation, Task, Update
from protocols.concurrency import at_once

AHEAD = 2
"""Tasks that are with a process at once: one at work, one on the way."""

STARTED_WITHIN = 300.0
"""Seconds for a process to begin: TensorFlow alone takes it half a minute on a busy machine. One that dies is noticed at once."""


class Bench(Actor):
    """A `ThreadEngine` in a process of the pool."""

    def __init__(self, holdings: Mapping[int, Holding]) -> None:
        self._holdings, self._engine, self._bases = holdings, ThreadEngine(), Bases()

    async def started(self) -> None:
        """Begin."""
        await self._engine.open(self._holdings)

    @message(reentrant=True)
    async def hold(self, base: TaskBase) -> None:
        """Keep what tasks leave out."""
        self._bases.keep(base)

    @message(reentrant=True)
    async def train(self, index: int, task: Task) -> Update:
        """See `Engine.train`."""
        return await self._engine.train(index, self._bases.whole(task))

    @message(reentrant=True)
    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `Engine.evaluate`."""
        return await self._engine.evaluate(index, self._bases.whole(task))

    async def stopped(self) -> None:
        """End the thread."""
        await self._engine.close()


class ProcessEngine:
    """A pool of processes, each with one thread and one copy of the model. They end with this process.

    What owners do by chance follows from the seed and their index, so a run is the same with any number of processes, but for the order
    in which sums are added up. If a process dies, the owners that it was training drop out of the round, and the next that needs it
    starts it anew.

    Args:
        processes: how many, at least 1.
        message_limit: bytes of the largest message between this process and those, 1 MiB to 1 TiB.

    Example:
        >>> simulated_owners(parts, engine=ProcessEngine(4))
    """

    def __init__(self, processes: int, *, message_limit: int = limits.MESSAGE_LIMIT) -> None:
        check("processes", processes, processes >= 1, "at least 1")
        self._places = [_Place(number) for number in range(processes)]
        self._scope = contextlib.AsyncExitStack()
        self._message_limit = limits.message_limit(message_limit)

    def __repr__(self) -> str:
        return f"ProcessEngine({len(self._places)})"

    async def open(self, holdings: Mapping[int, Holding]) -> None:
        """Start the processes and send each the data of its owners.

        Raises:
            SettingError: data that cannot be sent to another process.
        """
        async with contextlib.AsyncExitStack() as scope:
            system = await scope.enter_async_context(ActorSystem(message_limit=self._message_limit, timeout=STARTED_WITHIN, busy=BUSY))
            for place in self._places:
                place.holdings = {index: one for index, one in holdings.items() if self._place(index) is place}
                place.system = system
                scope.push_async_callback(place.close)
            await at_once(*(place.bench() for place in self._places))
            self._scope = scope.pop_all()

    def _place(self, index: int) -> _Place:
        return self._places[index % len(self._places)]

    async def train(self, index: int, task: Task) -> Update:
        """See `Engine.train`."""
        async with self._place(index).at_work() as bench:
            return await supplied(task, lambda sent: bench.train(index, sent), bench.hold)

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `Engine.evaluate`."""
        async with self._place(index).at_work() as bench:
            return await supplied(task, lambda sent: bench.evaluate(index, sent), bench.hold)

    async def close(self) -> None:
        """End the processes."""
        await self._scope.aclose()


class _Place:
    """One process of the pool, started when it is needed."""

    system: ActorSystem
    holdings: Mapping[int, Holding]

    def __init__(self, number: int) -> None:
        self._number = number
        self._scope = contextlib.AsyncExitStack()
        self._bench: Bench | None = None
        self._starting = asyncio.Lock()
        self._free = asyncio.Semaphore(AHEAD)

    async def bench(self) -> Bench:
        """Return the actor in the process."""
        async with self._starting:
            if self._bench is None:
                async with contextlib.AsyncExitStack() as scope:
                    node = await scope.enter_async_context(self.system.start_node(ready_within=STARTED_WITHIN))
                    bench = await self._sent(node)
                    self._bench = bench.with_options(timeout=None)
                    self._scope = scope.pop_all()
        return self._bench

    async def _sent(self, node: str) -> Bench:
        try:
            return await self.system.spawn_on(node, Bench, self.holdings, name="bench")
        except ActorError:
            raise
        except Exception as error:  # whatever says that something cannot be pickled
            raise cannot_be_sent(error) from error

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[Bench]:
        """Lend the bench, for one task.

        Raises:
            OwnerDropped: the process is gone.
        """
        async with self._free:
            bench = await self.bench()
            try:
                yield bench
            except LinkError as error:
                if self._bench is bench:
                    await self.close()
                raise OwnerDropped(f"process {self._number} of the pool is gone: {error}") from error

    async def close(self) -> None:
        """End the process."""
        self._bench = None
        await self._scope.aclose()
