"""Deadlines that count only the time in which this event loop ran."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

TICK = 1.0
"""Seconds between two looks at the clock, at most."""
FORGIVEN = 3
"""How many looks in a row that come too late do not count; a loop that is always late has deadlines, too."""


class Awake:
    """A block that ends with `TimeoutError` after so many seconds, like `asyncio.timeout`, not counting those in which the loop was busy.

    While the loop does something else, such as training a model, nothing that arrives is looked at, and all timers that are due fire before
    it is. A timer that fires late by more than it was set for says so: then what is awaited gets a chance first.

    Args:
        seconds: of waiting, not negative.

    Attributes:
        spent: seconds that were counted, once the block is over.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._late = 0
        self.spent = 0.0

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._arm()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        self.spent += min(max(0.0, self._loop.time() - self._due + self._step), self._step)
        await self._timeout.__aexit__(kind, error, trace)

    def _arm(self) -> None:
        self._step = min(TICK, max(0.0, self._left))
        self._due = self._loop.time() + self._step
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        if self._loop.time() - self._due > self._step and self._late < FORGIVEN:
            self._late += 1
        else:
            self._late = 0
            self._left -= self._step
            self.spent += self._step
        if self._left > 0:
            self._arm()
        else:
            self._step = 0.0
            self._timeout.reschedule(self._loop.time())
