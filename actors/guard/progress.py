"""WebSocket connections on which nothing that has begun may stop half-way for long, and whose other end has to answer pings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from actors.guard.awake import FORGIVEN, TICK, Awake
from actors.guard.stillness import Stillness

STALLED_AFTER = 30.0
"""Seconds that a frame may keep us waiting ..."""
SLOWEST = 16 << 10
"""... and one more for each so many bytes of it that have arrived."""
WHOLE_WITHIN = 120.0
"""Seconds within which a piece of a frame must be complete, and twice as many at the latest: it has at most 1.25 MiB."""
UNANSWERED = "keepalive ping timeout"
"""The reason with which a connection is closed whose other end does not answer pings."""

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class Patience:
    """How much longer a frame may keep us waiting. It counts the time spent waiting for the other side only, not that of our own work.

    Time is counted in steps of at most `TICK`, so that those in which this event loop was busy are known, and do not count.
    """

    def __init__(self) -> None:
        self._frame = 0
        self._left = STALLED_AFTER
        self._limit: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since: float | None = None
        self._due, self._late, self._busy = 0.0, 0, 0.0

    @contextlib.asynccontextmanager
    async def bounding(self, busy: float = 0.0) -> AsyncIterator[None]:
        """Raise `TimeoutError` in the block if a wait in it, see `waits`, takes too long. One timer serves all of its waits.

        Args:
            busy: seconds for which the other side has said that it may be busy: they count on top.
        """
        self._busy = busy
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._limit = self._since = None

    def waits(self, now: float, *, of: int) -> None:
        """Wait for the next bytes of the frame of that number from now on, inside of `bounding`."""
        self._since = now
        if of != self._frame:
            self._frame, self._left = of, STALLED_AFTER
        if self._timer is None:
            self._arm(now)

    def came(self, size: int, now: float) -> None:
        """So many bytes have arrived, and nothing is awaited any more."""
        assert self._since is not None
        self._left += size / SLOWEST - min(now - self._since, TICK)
        self._since = None

    def left(self, *, of: int) -> float:
        """Seconds for which the next bytes of the frame of that number may be awaited; not negative."""
        return max(0.0, self._left if of == self._frame else STALLED_AFTER)

    def _arm(self, now: float) -> None:
        self._due = now + min(TICK, max(self._left + self._busy, 0.0))
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._since is not None:
            if now - self._due > TICK and self._late < FORGIVEN:  # this loop was busy: what has arrived gets a chance first
                self._late += 1
            else:
                self._late = 0
                self._left -= min(now - self._since, TICK)
            self._since = now
            if self._left + self._busy <= 0 and self._limit is not None:
                self._limit.reschedule(now)
                return
        self._arm(now)


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
        """Ping now and then, for as long as the connection lasts, and end it when the other side stands still; see `Stillness`."""
        assert self.ping_interval is not None
        assert self.ping_timeout is not None
        while True:
            await asyncio.sleep(self.ping_interval)
            pong = asyncio.create_task(self._pong())
            still = Stillness(self.transport, max(self.ping_timeout, self.busy))
            try:
                while not pong.done() and still.left > 0:
                    with contextlib.suppress(TimeoutError):
                        async with Awake(min(TICK, still.left)) as waiting:
                            await asyncio.shield(pong)
                    still.look(waiting.spent, (self._complete, len(self.protocol.reader.buffer)), held=self.held)
                if not pong.done():
                    await self._end_unanswered()
            finally:
                pong.cancel()

    async def _pong(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await (await self.ping())

    async def _end_unanswered(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.close_timeout):  # what waits to be written may never leave
                async with self.send_context():
                    self.protocol.fail(CloseCode.INTERNAL_ERROR, UNANSWERED)
        self.transport.abort()

    def _look_later(self) -> None:
        self._before, self._begun = self._complete, bool(self.protocol.reader.buffer)
        within = WHOLE_WITHIN + self.busy
        self._timer = self.loop.call_later(within, self._look, self.loop.time() + within)

    def _look(self, due: float) -> None:
        here = self.loop.time() - due < STALLED_AFTER  # this loop was not busy itself
        if here and self._begun and self.protocol.reader.buffer and self._before == self._complete and not self.held:
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
