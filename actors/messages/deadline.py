"""Waiting for a future with a deadline, cheaply: a call in process takes less time than `asyncio.timeout` does."""

from __future__ import annotations

import asyncio
import math
from typing import TypeVar

T = TypeVar("T")
LATE = 1.0
"""Seconds by which a deadline may be missed before it is taken for the fault of this process, which was busy."""


class Expired(Exception):  # never leaves this package: references make it a CallTimeout
    """The deadline passed."""


async def within(timeout: float | None, future: asyncio.Future[T]) -> T:
    """Return the result of `future`; raise `Expired` after `timeout` seconds (None: no deadline). If it expires, the future is done."""
    if timeout is None or future.done():
        return await future
    loop = future.get_loop()
    due = loop.time() + timeout
    timer = loop.call_at(due, _expire, future, due)
    try:
        return await future
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[T], due: float) -> None:
    if future.done():
        return
    loop = future.get_loop()
    if loop.time() - due > LATE:  # the loop was busy: what has arrived meanwhile is looked at first
        loop.call_later(LATE, _expire, future, math.inf)
    else:
        future.set_exception(Expired())
