"""Threads for long computations: while one of them computes, the event loop goes on with what is short.

numpy and the kernels release the GIL while they work on large arrays, so that the loop waits for a thread no longer than for a few lines
of Python. This file knows nothing of what is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

LONG = 1 << 19
"""Ring words from which a computation is long: a hop to a thread costs about 0.1 ms, and 2^19 words are some milliseconds in all."""
VERY_LONG = 1 << 25
"""Ring words from which a computation could keep the event loop busy for as long as pings wait for an answer."""
RECENTLY = 1.0
"""Seconds after a short computation in which another one is expected."""
GIVE_WAY = 0.02
"""Seconds for which long work waits at most, each time, while short computations are under way."""


class Runner(Protocol):
    """Something that runs work and waits for its end."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Return what `work` returns, or raise what it raises."""


class Precedence:
    """Short computations before long work: what is long waits while something short is under way, though never long."""

    def __init__(self) -> None:
        self._short: Counter[bytes] = Counter()
        self._last: dict[bytes, float] = {}
        self._quiet = asyncio.Event()

    @contextlib.contextmanager
    def short(self, who: bytes) -> Iterator[None]:
        """Count a short computation of `who`, a request or a run, as under way as long as the block lasts."""
        self._short[who] += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._short[who] -= 1
            if not self._short[who]:
                del self._short[who]
            self._last = {one: last for one, last in self._last.items() if last > time.monotonic() - RECENTLY}
            self._last[who] = time.monotonic()
            if not self._short:
                self._quiet.set()

    def expected(self, beside: bytes) -> bool:
        """Return whether something short of anybody else is under way, or was a moment ago."""
        since = time.monotonic() - RECENTLY
        return any(one != beside for one in self._short) or any(one != beside and last > since for one, last in self._last.items())

    async def give_way(self) -> None:
        """Wait until nothing short is under way, `GIVE_WAY` seconds at most."""
        if self._short:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_WAY):
                    await self._quiet.wait()


class Threads:
    """Threads beside the event loop, started when they are needed.

    Args:
        name: of the threads.
        count: how many; None: as many as this process may use cores, but for the one of the loop, and at least one.
        precedence: what they give way to; None: of their own.

    Attributes:
        precedence: the same.
    """

    def __init__(self, name: str, count: int | None = None, *, precedence: Precedence | None = None) -> None:
        self.precedence = precedence or Precedence()
        self._threads = ThreadPoolExecutor(count or max(1, _cores() - 1), thread_name_prefix=name)

    def close(self) -> None:
        """Begin nothing more; what has begun goes on to its end, and nobody waits for it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], T], /) -> T:
        """Run something in one of the threads; see `Runner`.

        Whoever is cancelled meanwhile waits for the end of work that has begun: no thread goes on with the arrays of somebody who has left.
        """
        await self.precedence.give_way()
        begun = self._threads.submit(work)
        ended = asyncio.wrap_future(begun)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not begun.cancel():
                await _through(ended)
            raise


async def _through(ended: asyncio.Future[Any]) -> None:
    """Wait for the end of something, however often whoever waits is cancelled, and whatever comes of it."""
    while not ended.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([ended])
    if not ended.cancelled():
        ended.exception()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
