"""One round under way: asks owners all at once until the round is over. The thin shell around the state machine of `rounds`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from actors import MessageRejected, RemoteError
from federated.errors import OwnerLate, UpdateRejected
from federated.owners.owner import Owner
from federated.rounds.rounds import RoundBook
from federated.tasks.failures import is_ours, kind
from federated.tasks.update import Task, Update, size

log = logging.getLogger(__name__)

R = TypeVar("R")
Work = Callable[[Owner, Task], Awaitable[R]]
Take = Callable[[Owner, R, float], Awaitable[None]]


class Gathering:
    """The owners of a round, what they are asked, and the book of what became of each.

    Attributes:
        book: who was asked, who answered.
        task: what they are asked.
        bytes: of arrays, sent and received.

    Args:
        progress: called whenever something became of an owner.
        tasks: of owners that are asked something else than `task`.
    """

    def __init__(
        self,
        book: RoundBook,
        owners: Mapping[str, Owner],
        task: Task,
        *,
        progress: Callable[[RoundBook], None],
        tasks: Mapping[str, Task] | None = None,
    ) -> None:
        self.book, self.task = book, task
        self._tasks = tasks or {}
        self.bytes = 0
        self._owners, self._progress = owners, progress

    @property
    def at_once(self) -> bool:
        """Whether all updates begin at the weights of this round."""
        return True

    async def ask(self, work: Work[R], take: Take[R]) -> None:
        """Ask each sampled owner, all at once, until the round is over; what is under way then is cancelled.

        An owner whose work fails is dropped, or rejected if what it sent was out of order. That costs it this round, and nothing more.

        Args:
            work: what an owner is asked, by a task. It may take long.
            take: counts what came of it, with a factor in (0, 1], here 1: less for what comes from an earlier round.
        """
        over = asyncio.Event()

        async def ask(owner: Owner) -> None:
            with self.noting(owner.name):
                answer = await work(owner, self._tasks.get(owner.name, self.task))
                if over.is_set():
                    return  # enough were faster
                await take(owner, answer, 1.0)
            if self.book.over:
                over.set()

        async with at_work(ask(self._owners[name]) for name in self.book.standing):
            try:
                async with asyncio.timeout_at(self.book.deadline):
                    await over.wait()
            except TimeoutError:
                self.book.tick(self.book.deadline)
        self.book.close()

    async def stage(
        self, names: Iterable[str], work: Callable[[str, Owner], Awaitable[R]], *, deadline: float, enough: int | None = None
    ) -> dict[str, R]:
        """Ask owners all at once for one step of several, and wait for each until the deadline.

        Args:
            names: whom.
            work: what.
            deadline: on the clock of the event loop.
            enough: answers with which nobody is waited for any more; None: each is.

        Returns:
            What came, by owner. Who failed, or was late, is in the book.
        """
        answers: dict[str, R] = {}
        asked = list(names)
        awaited, over = len(asked), asyncio.Event()

        async def ask(name: str) -> None:
            nonlocal awaited
            with self.noting(name):
                answer = await work(name, self._owners[name])
                if over.is_set():
                    return  # enough were faster
                answers[name] = answer
            awaited -= 1
            if not awaited or (enough is not None and len(answers) >= enough):
                over.set()

        if not asked:
            return answers
        async with at_work(ask(name) for name in asked):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if deadline == math.inf else deadline):
                    await over.wait()
        for name in asked:
            if name not in answers:
                self.book.late(name)
        return {name: answers[name] for name in asked if name in answers}

    @contextlib.contextmanager
    def noting(self, owner: str) -> Iterator[None]:
        """Record what goes wrong with an owner, so that it costs that owner this round only."""
        try:
            yield
        except UpdateRejected:
            pass  # the book has it
        except MessageRejected as error:
            self.book.reject(owner, str(error))
        except OwnerLate:
            self.book.late(owner)
        except Exception as error:
            self.book.drop(owner, told(error))
        self._progress(self.book)

    def owner(self, name: str) -> Owner:
        """Return the owner of a name."""
        return self._owners[name]

    def count(self, name: str, received: int) -> None:
        """Count an update that nobody sees, of so many bytes.

        Raises:
            UpdateRejected: it does not count.
        """
        self.bytes += self.task.given + received
        self.book.count(name)

    def give_up(self, reason: str) -> None:
        """Drop all that are awaited: the round has failed, also if nobody is awaited any more."""
        for name in self.book.standing:
            self.book.drop(name, reason)
        if self.book.failure is None:
            self.book.fail(reason)

    def report(self, owner: Owner, update: Update) -> None:
        """Take in an update; when this returns, it counts.

        Raises:
            UpdateRejected: it does not.
        """
        self.bytes += self._tasks.get(owner.name, self.task).given + size(update.delta) + update.states.nbytes
        self.book.report(owner.name, update, now=asyncio.get_running_loop().time(), of=self._asked(owner.name))

    def _asked(self, owner: str) -> int:
        """Return the round in which the owner was asked."""
        return self.task.round


def told(error: Exception) -> str:
    """Return what is told of an error at an owner: of one that is not of this library its kind only, for its text may quote data."""
    if is_ours(error):
        return f"{type(error).__name__}: {error}"
    if not isinstance(error, RemoteError):  # this process is the owner's
        log.warning("an owner failed", exc_info=error)
    return f"it failed ({kind(error)}); see this owner's log"


@contextlib.asynccontextmanager
async def at_work(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run all of it while the block lasts; cancel what is not done then, and wait for it."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
