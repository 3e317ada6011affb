"""WebSocket connections on which nothing that has begun may stop half-way for long, and whose other end has to answer pings."""

from __future__ import annotations

import asyncio
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
"""Seconds within which a piece of a frame must be complete: it has at most 1.25 MiB."""
UNANSWERED = "keepalive ping timeout"
"""The reason with which a connection is closed whose other end does not answer pings."""

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class Patience:
    """How much longer a frame may keep us waiting. It counts the time spent waiting for the other side only, not that of our own work."""

    def __init__(self) -> None:
        self._frame = 0
        self._left = STALLED_AFTER

    def arrived(self, size: int, waited: float) -> None:
        """So many more bytes of it have arrived, after so many seconds of waiting."""
        self._left += size / SLOWEST - waited

    def left(self, *, of: int) -> float:
        """Seconds for which the next bytes of the frame of that number may be awaited; not negative."""
        if of != self._frame:
            self._frame, self._left = of, STALLED_AFTER
        return max(0.0, self._left)


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
    _timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is None and self.protocol.reader.buffer:
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
        self._before = self._complete
        within = WHOLE_WITHIN + self.busy
        self._timer = self.loop.call_later(within, self._look, self.loop.time() + within)

    def _look(self, due: float) -> None:
        self._timer = None
        if self.protocol.reader.buffer:
            here = self.loop.time() - due < STALLED_AFTER  # this loop was not busy itself
            if self._before == self._complete and not self.held and here:
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
