"""One round under way: asks owners all at once until the round is over. The thin shell around the state machine of `rounds`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from actors import MessageRejected
from federated.errors import UpdateRejected
from federated.owner import Owner
from federated.rounds import Round
from federated.update import Task, Update, size


class Gathering:
    """The owners of a round, what they are asked, and the book of what became of each.

    Attributes:
        book: who was asked, who answered.
        task: what they are asked.
        bytes: of weights, sent and received.
    """

    def __init__(self, book: Round, owners: Mapping[str, Owner], task: Task) -> None:
        self.book, self.task = book, task
        self._owners = {name: owners[name] for name in book.standing}
        self.bytes = 0

    async def ask(self, work: Callable[[Owner], Awaitable[None]]) -> None:
        """Does the work for each owner that was sampled, all at once, until the round is over; what is under way then is cancelled.

        An owner whose work fails is dropped, or rejected if what it sent was out of order. That costs it this round, and nothing more.
        """
        over = asyncio.Event()

        async def ask(owner: Owner) -> None:
            self.bytes += size(self.task.weights)
            try:
                await work(owner)
            except UpdateRejected:
                pass  # the book has it
            except MessageRejected as error:
                self.book.reject(owner.name, str(error))
            except Exception as error:
                self.book.drop(owner.name, f"{type(error).__name__}: {error}")
            if self.book.over:
                over.set()

        async with at_work(ask(owner) for owner in self._owners.values()):
            try:
                async with asyncio.timeout_at(self.book.deadline):
                    await over.wait()
            except TimeoutError:
                self.book.tick(self.book.deadline)

    def report(self, owner: Owner, update: Update) -> None:
        """Takes in an update; when this returns, it counts.

        Raises:
            UpdateRejected: it does not.
        """
        self.bytes += size(update.weights)
        self.book.report(owner.name, update, now=asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def at_work(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Runs all of it while the block lasts; what is not done then is cancelled and waited for."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
