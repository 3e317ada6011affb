"""Waiting for several things at once, with one plain error instead of a group; and for nothing, in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from actors import ActorError
from protocols.errors import ProtocolError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def settled(tasks: Sequence[asyncio.Task[T]]) -> list[T]:
    """Return the results of all tasks in order. The first failure cancels the others, waits until they have ended, and is raised alone."""
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def at_once(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run coroutines side by side; see `settled`."""
    return await settled([asyncio.create_task(one) for one in work])


class Background:
    """What an actor does beside its messages, until it ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """End it, and wait until it has ended."""
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something that nobody waits for. Whoever it is done for may be gone: those who watch it will say so."""
        self.begin(work)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Do the same, and return its task, to be cancelled when it is of no use any more."""
        task = asyncio.create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except (ActorError, ProtocolError) as error:
        log.info("work in the background failed: %s", error)
