"""WebSocket connections on which nothing that has begun may stop half-way for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection

STALLED_AFTER = 30.0
"""Seconds that a frame may keep us waiting ..."""
SLOWEST = 16 << 10
"""... and one more for each so many bytes of it that have arrived."""
WHOLE_WITHIN = 120.0
"""Seconds within which a piece of a frame must be complete, and twice as many at the latest: it has at most 1.25 MiB."""

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class Patience:
    """How much longer a frame may keep us waiting. It counts the time spent waiting for the other side only, not that of our own work."""

    def __init__(self) -> None:
        self._frame = 0
        self._left = STALLED_AFTER
        self._limit: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since: float | None = None

    @contextlib.asynccontextmanager
    async def bounding(self) -> AsyncIterator[None]:
        """Raise `TimeoutError` in the block if a wait in it, see `waits`, takes too long. One timer serves all of its waits."""
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._limit = self._since = None

    def waits(self, now: float, *, of: int) -> None:
        """The next bytes of the frame of that number are awaited from now on, inside of `bounding`."""
        self._since = now
        left = self.left(of=of)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)

    def came(self, size: int, now: float) -> None:
        """So many bytes have arrived, and nothing is awaited any more."""
        assert self._since is not None
        self._left += size / SLOWEST - (now - self._since)
        self._since = None

    def _look(self) -> None:
        """Whether the wait has taken too long; if not, look again when it would have. Between two waits: a little later."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._left if self._since is None else self._since + self._left
        if self._since is not None and due <= loop.time() and self._limit is not None:
            self._limit.reschedule(loop.time())
        else:
            self._timer = loop.call_at(max(due, loop.time()), self._look)

    def left(self, *, of: int) -> float:
        """Seconds for which the next bytes of the frame of that number may be awaited; not negative."""
        if of != self._frame:
            self._frame, self._left = of, STALLED_AFTER
        return self._left if self._left > 0.0 else 0.0


class _Watched(_Base):
    """Ends the connection when a piece of a frame does not end, and remembers why a connection ended.

    Attributes:
        error: with which the operating system or TLS ended it; None as long as it has not.
        held: we do not read now, so that what is missing is not the fault of the other side.
    """

    error: Exception | None = None
    held = False
    _complete = 0
    _before = 0
    _begun = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_later()

    def process_event(self, event: Any) -> None:
        self._complete += 1
        super().process_event(event)

    def _look_later(self) -> None:
        self._before, self._begun = self._complete, bool(self.protocol.reader.buffer)
        self._timer = self.loop.call_later(WHOLE_WITHIN, self._look)

    def _look(self) -> None:
        if self._begun and self.protocol.reader.buffer and self._before == self._complete and not self.held:
            self.transport.abort()
        else:
            self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)


class WatchedServer(_Watched, ServerConnection):
    """A connection that was accepted."""


class WatchedClient(_Watched, ClientConnection):
    """A connection that was dialed."""
