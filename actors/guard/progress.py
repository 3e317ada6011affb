"""WebSocket connections on which nothing that has begun may stop half-way for long, and whose other end has to answer pings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode

from actors.guard.awake import Awake

STALLED_AFTER = 30.0
"""Seconds that a frame may keep us waiting ..."""
SLOWEST = 16 << 10
"""... and one more for each so many bytes of it that have arrived."""
WHOLE_WITHIN = 120.0
"""Seconds within which a piece of a frame must be complete, and twice as many at the latest: it has at most 1.25 MiB."""
UNANSWERED = "keepalive ping timeout"
"""The reason with which a connection is closed whose other end does not answer pings."""
LATE = 1.0
"""Seconds by which a timer may be late before that is taken for the fault of this side, whose loop was busy."""

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class Patience:
    """How much longer a frame may keep us waiting. It counts the time spent waiting for the other side only, not that of our own work.

    Attributes:
        busy: seconds for which the event loop of the other side may be busy, as it has said.
    """

    def __init__(self) -> None:
        self.busy = 0.0
        self._looks_at = 0.0
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
            self._looks_at = now + left
            self._timer = asyncio.get_running_loop().call_at(self._looks_at, self._look)

    def came(self, size: int, now: float) -> None:
        """So many bytes have arrived, and nothing is awaited any more."""
        assert self._since is not None
        self._left += size / SLOWEST - (now - self._since)
        self._since = None

    def _look(self) -> None:
        """Whether the wait has taken too long; if not, look again when it would have. Between two waits: a little later."""
        loop = asyncio.get_running_loop()
        late = loop.time() - self._looks_at
        if self._since is not None and late > LATE:  # this loop was busy: what has arrived meanwhile was not looked at
            self._since += late
        due = loop.time() + self._left if self._since is None else self._since + self._left
        if self._since is not None and due <= loop.time() and self._limit is not None:
            self._limit.reschedule(loop.time())
        else:
            self._looks_at = max(due, loop.time())
            self._timer = loop.call_at(self._looks_at, self._look)

    def left(self, *, of: int) -> float:
        """Seconds for which the next bytes of the frame of that number may be awaited; not negative."""
        if of != self._frame:
            self._frame, self._left = of, STALLED_AFTER + self.busy
        return self._left if self._left > 0.0 else 0.0


class _Watched(_Base):
    """Ends the connection when a piece of a frame does not end, or pings are not answered, and remembers why a connection ended.

    Seconds in which the event loop of this side was busy do not count: nobody looked at what arrived.

    Attributes:
        busy: seconds for which the event loop at the other end may be busy, as it has said in its greeting.
        error: with which the operating system or TLS ended it; None as long as it has not.
        held: we do not read now, so that what is missing is not the fault of the other side.
    """

    error: Exception | None = None
    held = False
    busy = 0.0
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

    async def keepalive(self) -> None:
        """Ping now and then, for as long as the connection lasts, and end it when an answer does not come within `ping_timeout`."""
        assert self.ping_interval is not None
        assert self.ping_timeout is not None
        while True:
            await asyncio.sleep(self.ping_interval)
            pong = await self.ping()
            try:
                async with Awake(max(self.ping_timeout, self.busy)):
                    await pong
            except TimeoutError:
                async with self.send_context():
                    self.protocol.fail(CloseCode.INTERNAL_ERROR, UNANSWERED)

    def _look_later(self) -> None:
        self._before, self._begun = self._complete, bool(self.protocol.reader.buffer)
        within = WHOLE_WITHIN + self.busy
        self._timer = self.loop.call_later(within, self._look, self.loop.time() + within)

    def _look(self, due: float) -> None:
        stalled = self._begun and self.protocol.reader.buffer and self._before == self._complete and not self.held
        if stalled and self.loop.time() - due < LATE:
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
