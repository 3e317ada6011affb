"""Connections over WebSocket: one reader, one writer that keeps the order, and a `Peer` that knows what it all means.

Small frames that wait to be written leave together in one WebSocket message. A frame above 1 MiB leaves in fragments of 256 KiB, which
the reader copies straight into the arrays they belong to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from actors.connection.home import Home
from actors.connection.peer import Peer
from actors.connection.wire import Encoded, FrameReader, encode, hello
from actors.errors import Malformed, TooLarge, WireError
from actors.guard.awake import Awake
from actors.guard.progress import UNANSWERED, Patience, WatchedClient, WatchedServer
from actors.guard.words import shown, trace
from actors.observing.counts import SystemCounts

log = logging.getLogger(__name__)

FRAGMENT = 256 << 10
WHOLE = 1 << 20
"""Bytes up to which a frame, or several together, leave as one WebSocket message in one piece."""
UNREAD = 16 << 20
"""Bytes of answers that may wait for somebody who asks and does not listen, before nothing more is read from them."""
OPEN_WITHIN = 10.0
CLOSE_WITHIN = 2.0
ASK_WITHIN = 60.0
"""Seconds within which whoever has connected must have asked for something: until then, they hold a place for nothing."""
TURN = 0.02
"""Seconds for which the frames of one connection are handled before others get a chance to run."""
BRIEF = 1 << 10
"""Bytes that cannot take that long."""
PING_EVERY, PING_WITHIN = 5.0, 10.0
"""Seconds: whoever is frozen or cannot be reached is given up after 10 to 15. A loop that computes for longer than the last loses its
connections, unless its system has said that it may (`busy`). A slow link does not, see `Stillness`."""
REFUSED = 1008
"""Code of a close frame (RFC 6455, section 7.4.1): the other side does not do what is asked of it here."""
LONGEST_REASON = 123
"""Bytes of the reason in a close frame."""
MOST_BUSY = 3600
"""Seconds for which the loop of another system may be busy, whatever it says."""


Socket = WatchedClient | WatchedServer


class FrameWriter:
    """The frames of one connection that wait to be written, in order.

    Args:
        counts: what it writes, too.
    """

    def __init__(self, counts: SystemCounts) -> None:
        self._counts = counts
        self._queue: deque[tuple[Encoded, asyncio.Future[None] | None, int]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._unread = 0
        self._room = asyncio.Event()
        self._room.set()

    def put(self, encoded: Encoded, written: asyncio.Future[None] | None = None) -> None:
        """Add a frame without waiting. `written` is done once its buffers have been written."""
        self._add(encoded, written, 0)

    def put_answer(self, encoded: Encoded, written: asyncio.Future[None] | None = None) -> None:
        """Add a frame that answers the other side; count it towards `UNREAD` until it has been written.

        Own messages do not count: two systems that send each other much at once would wait for each other.
        """
        self._add(encoded, written, encoded.size)

    @property
    def full(self) -> bool:
        """Whether more than that wait."""
        return self._unread > UNREAD

    async def room(self) -> None:
        """Wait until no more than `UNREAD` bytes of answers wait."""
        await self._room.wait()

    def _add(self, encoded: Encoded, written: asyncio.Future[None] | None, answer: int) -> None:
        self._queue.append((encoded, written, answer))
        self._count(answer)
        self._flushed.clear()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self, socket: Socket) -> None:
        """Write until cancelled, or until the connection is closed."""
        try:
            while True:
                while self._queue:
                    await self._write_next(socket)
                self._flushed.set()
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
        finally:
            self._flushed.set()
            self._room.set()

    def _count(self, answer: int) -> None:
        self._unread += answer
        if self._unread > UNREAD:
            self._room.clear()
        else:
            self._room.set()

    async def flush(self) -> None:
        """Wait until everything has been written."""
        await self._flushed.wait()

    def abandon(self, error: Exception) -> None:
        """Nothing will be written any more."""
        for _, written, _ in self._queue:
            if written is not None and not written.done():
                written.set_exception(error)
        self._queue.clear()

    async def _write_next(self, socket: Socket) -> None:
        encoded, written, answer = self._queue[0]
        if not encoded.buffers and len(encoded.header) <= WHOLE:
            small, answers = self._together()
            await socket.send(small)
            self._counts.sent += len(small)
            self._count(-answers)
            return
        size = encoded.size
        await socket.send(fragments(encoded) if encoded.size > WHOLE else encoded.joined().header)
        self._counts.sent += size
        self._queue.popleft()
        encoded.buffers.clear()
        self._count(-answer)
        if written is not None and not written.done():
            written.set_result(None)

    def _together(self) -> tuple[bytes, int]:
        """Join the small frames that are next; return them, and how many bytes of them are answers."""
        first, _, answers = self._queue.popleft()
        parts, size = [first.header], len(first.header)
        while self._queue and not self._queue[0][0].buffers and size + len(self._queue[0][0].header) <= WHOLE:
            frame, _, answer = self._queue.popleft()
            parts.append(frame.header)
            size += len(frame.header)
            answers += answer
        return b"".join(parts) if len(parts) > 1 else parts[0], answers


def fragments(encoded: Encoded) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a frame in pieces of at most 256 KiB. Short pieces are joined; long arrays are not copied."""
    pending = bytearray()
    for source in range(-1, len(encoded.buffers)):
        start = 0
        while start < len(_part(encoded, source)):
            part = _part(encoded, source)  # read again: it may have been detached meanwhile
            room = FRAGMENT - len(pending) if pending else FRAGMENT
            piece = part[start : start + room]
            start += len(piece)
            if pending or len(piece) < FRAGMENT:
                pending += piece
                if len(pending) == FRAGMENT:
                    yield bytes(pending)
                    pending.clear()
            else:
                yield piece
    if pending:
        yield bytes(pending)


def _part(encoded: Encoded, index: int) -> memoryview:
    return memoryview(encoded.header) if index < 0 else encoded.buffers[index]


class Link:
    """One open connection.

    Args:
        socket: open WebSocket.
        home: the system at this end.
        address: that was dialed, or empty.
        limit: the largest message that is taken, in bytes.
        busy: seconds for which the loop at this end may be busy.
    """

    def __init__(self, socket: Socket, home: Home, *, address: str, limit: int, busy: int = 0) -> None:
        self._socket = socket
        self._limit, self._busy = limit, busy
        self._log = home.log
        self._dialed_us = not address
        self._patience = Patience()
        self._counts = home.observer.counts
        self._counts.connections += 1
        self._writer = FrameWriter(self._counts)
        self._why = ""
        remote = socket.remote_address
        label = address or (f"{remote[0]}:{remote[1]} (it dialed us)" if remote else "somebody who dialed us")
        own, host = self._writer, str(remote[0]) if remote and not address else ""
        certificate = certificate_of(socket)
        self.peer = Peer(home, own.put, answer=own.put_answer, address=address, label=label, certificate=certificate, host=host)

    async def run(self) -> None:
        """Read and write until the connection ends, for whatever reason."""
        self._writer.put(encode(hello(self._limit, self.peer.introduction.nonce, self._busy)))
        await self.peer.start()
        writing = asyncio.create_task(self._write())
        try:
            await self._read()
        except WireError as error:
            await self._refuse(error)
        except ConnectionClosed as error:
            self._why = self._why or _reason(error)
            if self._dialed_us and error.rcvd is not None and error.rcvd.code == REFUSED:
                text = "%s has refused this system: %s"
                self._log.write(log, logging.WARNING, "refused there", text, self.peer.label, shown(error.rcvd.reason))
        except Exception as error:
            text = "a frame from %s could not be handled: %s"
            self._log.write(log, logging.ERROR, "internal error", text, self.peer.label, trace(error))
            self._why = "an internal error here"
            await self._socket.close(1011, self._why)
        finally:
            writing.cancel()
            await self.peer.lost(self._why or "this system closed it", orderly=self._orderly())
            await asyncio.wait([writing])
            if self.peer.closed is not None:
                self._writer.abandon(self.peer.closed)

    async def close(self, why: str) -> None:
        """Answer and write what waits, then end the connection."""
        self._why = f"closed by this side: {why}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.peer.incoming.settled()
                await self._writer.flush()
        await self._socket.close(1001, brief(why))

    async def refuse(self, why: str) -> None:
        """End the connection, since the other side is not to be trusted; it is told why."""
        self._why = f"closed by this side: {why}"
        await self._socket.close(REFUSED, brief(why))

    def cut(self, running: asyncio.Task[None], why: str) -> None:
        """End the connection at once: nothing more of the other side is handled, and it is told why.

        Args:
            running: the task that runs this link.
            why: in words.
        """
        self._why = f"closed by this side: {why}"
        self._log.write(log, logging.WARNING, "cut", "the connection to %s was closed: %s", self.peer.label, why)
        self._closing = asyncio.create_task(self._cut(why))
        running.cancel()

    async def _cut(self, why: str) -> None:
        await self.peer.lost(self._why, orderly=False)
        await self._socket.close(REFUSED, brief(why))

    async def _read(self) -> None:
        reader = FrameReader(self._limit)
        try:
            async with Awake(OPEN_WITHIN):
                while not self.peer.greeted.done():
                    await self._read_message(reader)
        except TimeoutError:
            raise Malformed(f"no greeting, or no proof of who it is, came within {OPEN_WITHIN:g} s") from None
        self._socket.busy = min(max(0, self.peer.busy), MOST_BUSY)
        if self._dialed_us and reader.frames == 1:
            try:
                async with Awake(ASK_WITHIN):
                    await self._read_message(reader)
            except TimeoutError:
                await self.close(f"nothing was asked within {ASK_WITHIN:g} s")
        while True:
            await self._read_message(reader)

    async def _read_message(self, reader: FrameReader) -> None:
        pieces = self._socket.recv_streaming(decode=False)
        async for piece in pieces:
            self._counts.received += len(piece)
            if len(piece) <= BRIEF and not self._writer.full:
                for packet in reader.feed(piece):
                    self.peer.receive(packet)
            else:
                await self._handle(reader, piece)
            if reader.unfinished:
                await self._handle_rest(reader, pieces)
        reader.end()

    async def _handle_rest(self, reader: FrameReader, pieces: AsyncIterator[bytes]) -> None:
        """Handle what follows in the message, until no frame in it has begun and not ended.

        Raises:
            Malformed: the next bytes take too long.
        """
        patience, time = self._patience, asyncio.get_running_loop().time
        try:
            async with patience.bounding(self._socket.busy):
                while reader.unfinished:
                    patience.waits(time(), of=reader.frames)
                    piece = await anext(pieces, None)
                    if piece is None:
                        return
                    patience.came(len(piece), time())
                    self._counts.received += len(piece)
                    if len(piece) < reader.room:
                        reader.fill(piece)
                    else:
                        await self._handle(reader, piece)
        except TimeoutError:
            raise Malformed("a frame that has begun did not go on in time") from None

    async def _handle(self, reader: FrameReader, piece: bytes) -> None:
        """Handle what has arrived, and let others run in between if it takes long."""
        receive, time = self.peer.receive, asyncio.get_running_loop().time
        pause_at = 0.0
        for packet in reader.feed(piece):
            receive(packet)
            if not pause_at:
                pause_at = time() + TURN
            elif time() > pause_at:
                await asyncio.sleep(0)
                pause_at = time() + TURN
        if self._writer.full:
            self._socket.held = True
            await self._writer.room()
            self._socket.held = False

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._writer.run(self._socket)

    async def _refuse(self, error: WireError) -> None:
        self._why = f"refused here: {type(error).__name__}: {error}"
        self.peer.refused(error)
        text = "%s: %s; the connection is closed"
        self._log.write(log, logging.WARNING, "broken rules", text, self.peer.label, shown(str(error)))
        code = 1009 if isinstance(error, TooLarge) else 1002
        await self._socket.close(code, brief(f"{type(error).__name__}: {error}"))

    def _orderly(self) -> bool:
        return self._socket.close_code in (1000, 1001)


def brief(why: str) -> str:
    """Return as much of a reason as a close frame has room for (RFC 6455, section 5.5)."""
    return why.encode()[:LONGEST_REASON].decode(errors="ignore")


STOOD_STILL = "{} did not answer a ping for {:g} s or more: {}"
"""Why a connection is gone whose other end was alive, perhaps."""


def _reason(error: ConnectionClosed) -> str:
    if error.rcvd is not None and error.rcvd.reason == UNANSWERED:
        return STOOD_STILL.format(
            "closed by the other side, since this process",
            PING_WITHIN,
            "its event loop was busy; run what takes long with asyncio.to_thread",
        )
    if error.sent is not None and error.sent.reason == UNANSWERED:
        return STOOD_STILL.format("the other side", PING_WITHIN, "its machine cannot be reached, or its process stands still")
    if error.rcvd is not None:
        return f"closed by the other side: {error.rcvd.code} {shown(error.rcvd.reason)}".rstrip()
    cause = error.__cause__
    return f"{type(cause).__name__}: {shown(str(cause))}" if cause is not None else "the other side vanished without closing it"


def certificate_of(socket: Socket | ServerConnection) -> bytes | None:
    """Return the certificate that the other side has shown, DER."""
    tls = socket.transport.get_extra_info("ssl_object")
    certificate: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
    return certificate
