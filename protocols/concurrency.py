"""Waiting for several things at once, with one plain error instead of a group."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(tasks: Sequence[asyncio.Task[T]]) -> list[T]:
    """The results of all tasks in order. The first failure cancels the others, waits until they have ended, and is raised alone."""
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def at_once(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Runs coroutines side by side; see `settled`."""
    return await settled([asyncio.create_task(one) for one in work])
