"""Simulated owners on a Ray cluster: more of them, and larger models, than one machine holds. Needs the extra `confide[ray]`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from federated.errors import OwnerDropped, SettingError
from federated.owners.holding import Holding
from federated.simulation.engine import ThreadEngine, cannot_be_sent
from federated.strategies.strategy import check
from federated.tasks.update import Evaluation, Task, Update

R = TypeVar("R")
AHEAD = 2
"""Tasks that are with a worker at once: one at work, one on the way."""


class _Worker:
    """A `ThreadEngine` as an actor of Ray."""

    def __init__(self, holdings: Mapping[int, Holding]) -> None:
        self._holdings = holdings
        self._engine: ThreadEngine | None = None

    async def _opened(self) -> ThreadEngine:
        if self._engine is None:
            self._engine = ThreadEngine()
            await self._engine.open(self._holdings)
        return self._engine

    async def train(self, index: int, task: Task) -> Update:
        return await (await self._opened()).train(index, task)

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        return await (await self._opened()).evaluate(index, task)


class RayEngine:
    """Workers on a Ray cluster, each with one thread and one copy of the model.

    The weights of a round are put into Ray's object store once, not once an owner. A worker that dies is restarted by Ray; the owners
    that it was training drop out of the round.

    Args:
        address: of the cluster, `"auto"` for the one this machine is part of; None: one on this machine, which ends with the block.
        workers: how many, at least 1; None: one for each core of the cluster.
        cores: that each worker takes, above 0.

    Raises:
        SettingError: Ray is not installed.

    Example:
        >>> simulated_owners(parts, engine=RayEngine(address="auto"))
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None, cores: float = 1.0) -> None:
        check("workers", workers, workers is None or workers >= 1, "at least 1, or None")
        check("cores", cores, cores > 0, "above 0")
        self._ray = _installed()
        self._address, self._count, self._cores = address, workers, cores
        self._workers: list[Any] = []
        self._free: list[asyncio.Semaphore] = []
        self._put: tuple[Callable[[], Task | None], Any] = (lambda: None, None)
        self._began = False

    async def open(self, holdings: Mapping[int, Holding]) -> None:
        """Connect, start the workers, and send each the data of its owners.

        Raises:
            SettingError: data that cannot be sent to another process.
        """
        await asyncio.to_thread(self._start, holdings)
        self._free = [asyncio.Semaphore(AHEAD) for _ in self._workers]

    def _start(self, holdings: Mapping[int, Holding]) -> None:
        ray = self._ray
        if not ray.is_initialized():
            ray.init(address=self._address, include_dashboard=False, log_to_driver=False, logging_level="error")
            self._began = True
        count = self._count or max(1, int(ray.cluster_resources().get("CPU", 1) / self._cores))
        remote = ray.remote(num_cpus=self._cores, max_restarts=-1)(_Worker)
        shares = [{index: one for index, one in holdings.items() if index % count == number} for number in range(count)]
        try:
            self._workers = [remote.remote(share) for share in shares]
        except Exception as error:  # whatever says that something cannot be pickled
            self._end()
            raise cannot_be_sent(error) from error

    async def train(self, index: int, task: Task) -> Update:
        """See `Engine.train`."""
        number = index % len(self._workers)
        async with self._free[number]:
            return await self._answer(self._workers[number].train.remote(index, self._stored(task)))

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `Engine.evaluate`."""
        number = index % len(self._workers)
        async with self._free[number]:
            return await self._answer(self._workers[number].evaluate.remote(index, self._stored(task)))

    def _stored(self, task: Task) -> Any:
        """Put the task into the object store: workers of one machine read its weights from shared memory."""
        if self._put[0]() is not task:  # not by its id(): that of a task that is gone is given to the next
            self._put = (weakref.ref(task), self._ray.put(task))
        return self._put[1]

    async def _answer(self, reference: Awaitable[R]) -> R:
        try:
            return await reference
        except asyncio.CancelledError:
            self._ray.cancel(reference)
            raise
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except self._ray.exceptions.RayError as error:
            raise OwnerDropped(f"a Ray worker is gone: {type(error).__name__}") from error

    async def close(self) -> None:
        """End the workers, and the cluster if this engine began it."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers, self._put = [], (lambda: None, None)
        if self._began:
            self._ray.shutdown()
            self._began = False


def _installed() -> Any:
    try:
        import ray  # noqa: PLC0415  an extra
    except ImportError:
        raise SettingError("RayEngine needs Ray: pip install 'confide[ray]'") from None
    return ray
