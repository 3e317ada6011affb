"""Waiting for a future with a deadline, cheaply: a call in process takes less time than `asyncio.timeout` does."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Expired(Exception):  # never leaves this package: references make it a CallTimeout
    """The deadline passed."""


async def within(timeout: float | None, future: asyncio.Future[T]) -> T:
    """The result of `future`, or `Expired` after `timeout` seconds (None: no deadline). If it expires, the future is done."""
    if timeout is None or future.done():
        return await future
    timer = future.get_loop().call_later(timeout, _expire, future)
    try:
        return await future
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(Expired())
