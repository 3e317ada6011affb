"""Asynchronous rounds: owners train all the time, and a round is over when enough of them have reported, whenever they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from federated.errors import OwnerLate
from federated.owners.owner import Owner
from federated.rounds.gathering import Gathering, Take, Work
from federated.rounds.rounds import RoundBook, Standing
from federated.strategies.fedbuff import FedBuff
from federated.tasks.update import Task


@dataclass(frozen=True)
class OwnerAtWork:
    """An owner at work, by a task of some round."""

    owner: Owner
    task: Task
    work: asyncio.Task[Any]


class Pipeline:
    """Keeps up to `concurrency` owners at work, over all rounds. An owner that needs longer than the deadline is given up.

    Args:
        owners: by name.
        concurrency: how many are at work at once.
        deadline: seconds that an owner has; None: as long as it takes.
        seed: of the choice of owners.
        in_turn: take what comes of the owners' work in the order in which they were asked, not in that in which they are done. So the
            rounds are a function of the seed alone.
    """

    def __init__(self, owners: Mapping[str, Owner], *, concurrency: int, deadline: float | None, seed: int, in_turn: bool = False) -> None:
        self._owners, self._concurrency, self._deadline, self._in_turn = owners, concurrency, deadline, in_turn
        self._seed, self._choices = seed, 0
        self._asked: dict[str, OwnerAtWork] = {}
        self._finished: asyncio.Queue[str] = asyncio.Queue()

    def fill(self, task: Task, work: Callable[[Owner, Task], Awaitable[Any]], *, without: Collection[str]) -> None:
        """Put idle owners to work, chosen by chance; those in `without` rest."""
        while len(self._asked) < self._concurrency:
            idle = [name for name in self._owners if name not in self._asked and name not in without]
            if not idle:
                return
            self._choices += 1
            name = idle[np.random.default_rng([self._seed, task.round, self._choices]).integers(len(idle))]
            self._start(self._owners[name], task, work)

    def _start(self, owner: Owner, task: Task, work: Callable[[Owner, Task], Awaitable[Any]]) -> None:
        async def in_time() -> Any:
            try:
                async with asyncio.timeout(self._deadline):
                    return await work(owner, task)
            except TimeoutError:
                raise OwnerLate(f"{owner.name} has not answered within {self._deadline} s") from None

        started = asyncio.create_task(in_time())
        if not self._in_turn:
            started.add_done_callback(lambda _: self._finished.put_nowait(owner.name))
        self._asked[owner.name] = OwnerAtWork(owner, task, started)

    async def finished(self) -> OwnerAtWork:
        """Return the next owner whose work has ended, in the order in which they end, or were asked."""
        if not self._in_turn:
            return self._asked.pop(await self._finished.get())
        name = next(iter(self._asked))
        await asyncio.wait([self._asked[name].work])
        return self._asked.pop(name)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [asked.work for asked in self._asked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Buffer(Gathering):
    """One asynchronous round: the next `strategy.buffer` updates, each discounted by how many rounds ago its owner was asked."""

    def __init__(
        self,
        book: RoundBook,
        owners: Mapping[str, Owner],
        task: Task,
        *,
        progress: Callable[[RoundBook], None],
        pipeline: Pipeline,
        strategy: FedBuff,
    ) -> None:
        super().__init__(book, owners, task, progress=progress)
        self._pipeline, self._strategy = pipeline, strategy
        self._round_of: dict[str, int] = {}

    @property
    def at_once(self) -> bool:
        """No: some began earlier."""
        return False

    async def ask(self, work: Work[Any], take: Take[Any]) -> None:
        """See `Gathering.ask`; what is under way when the round is over goes on, for one of the next."""
        try:
            async with asyncio.timeout_at(self.book.deadline):
                while not self.book.over:
                    resting = set(self.book.standing) - set(self.book.having(Standing.WAITING))
                    self._pipeline.fill(self.task, work, without=resting)
                    await self._take(await self._pipeline.finished(), take)
        except TimeoutError:
            self.book.tick(self.book.deadline)

    async def _take(self, asked: OwnerAtWork, take: Take[Any]) -> None:
        name = asked.owner.name
        self._round_of[name] = asked.task.round
        with self.noting(name):
            await take(asked.owner, asked.work.result(), self._strategy.discount(self.task.round - asked.task.round))

    def _asked(self, owner: str) -> int:
        return self._round_of[owner]
