"""Connections over WebSocket: one reader, one writer that keeps the order, and a `Peer` that knows what it all means.

Small frames that wait to be written leave together in one WebSocket message. A frame above 1 MiB leaves in fragments of 256 KiB, which
the reader copies straight into the arrays they belong to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, WebSocketException

from actors.address import Address
from actors.errors import AddressInUse, BadAddress, ConnectFailed, InsecureAddress, LinkError, Malformed, TooLarge, WireError
from actors.home import Home
from actors.peer import Peer
from actors.wire import Encoded, FrameReader, encode, hello

log = logging.getLogger(__name__)

FRAGMENT = 256 << 10
WHOLE = 1 << 20
"""Bytes up to which a frame, or several together, leave as one WebSocket message in one piece."""
UNREAD = 16 << 20
"""Bytes of answers that may wait for somebody who asks and does not listen, before nothing more is read from them."""
OPEN_WITHIN = 10.0
CLOSE_WITHIN = 2.0
PING_EVERY, PING_WITHIN = 20.0, 60.0
"""Seconds. A loop that computes for longer than the last loses its connections; long work belongs in a thread."""


class Writer:
    """The frames of one connection that wait to be written, in order."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Encoded, asyncio.Future[None] | None, int]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._unread = 0
        self._room = asyncio.Event()
        self._room.set()

    def put(self, encoded: Encoded, written: asyncio.Future[None] | None = None) -> None:
        """Adds a frame; never waits. `written` is done once its buffers have been written."""
        self._add(encoded, written, 0)

    def put_answer(self, encoded: Encoded, written: asyncio.Future[None] | None = None) -> None:
        """Adds a frame that answers the other side; counts towards `UNREAD` until it has been written.

        Own messages do not count: two systems that send each other much at once would wait for each other.
        """
        self._add(encoded, written, encoded.size)

    async def room(self) -> None:
        """Waits until no more than `UNREAD` bytes of answers wait."""
        await self._room.wait()

    def _add(self, encoded: Encoded, written: asyncio.Future[None] | None, answer: int) -> None:
        self._queue.append((encoded, written, answer))
        self._count(answer)
        self._flushed.clear()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self, socket: Connection) -> None:
        """Writes until it is cancelled, or the connection is closed."""
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
        """Waits until everything has been written."""
        await self._flushed.wait()

    def abandon(self, error: Exception) -> None:
        """Nothing will be written any more."""
        for _, written, _ in self._queue:
            if written is not None and not written.done():
                written.set_exception(error)
        self._queue.clear()

    async def _write_next(self, socket: Connection) -> None:
        encoded, written, answer = self._queue[0]
        if not encoded.buffers and len(encoded.header) <= WHOLE:
            small, answers = self._together()
            await socket.send(small)
            self._count(-answers)
            return
        await socket.send(fragments(encoded) if encoded.size > WHOLE else encoded.joined().header)
        self._queue.popleft()
        encoded.buffers.clear()
        self._count(-answer)
        if written is not None and not written.done():
            written.set_result(None)

    def _together(self) -> tuple[bytes, int]:
        """The small frames that are next, as one; and how many bytes of them are answers."""
        first, _, answers = self._queue.popleft()
        parts, size = [first.header], len(first.header)
        while self._queue and not self._queue[0][0].buffers and size + len(self._queue[0][0].header) <= WHOLE:
            frame, _, answer = self._queue.popleft()
            parts.append(frame.header)
            size += len(frame.header)
            answers += answer
        return b"".join(parts) if len(parts) > 1 else parts[0], answers


def fragments(encoded: Encoded) -> Iterator[bytes | memoryview]:
    """The bytes of a frame in pieces of at most 256 KiB. Short pieces are joined; long arrays are not copied."""
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
    """

    def __init__(self, socket: Connection, home: Home, *, address: str, limit: int) -> None:
        self._socket = socket
        self._limit = limit
        self._writer = Writer()
        self._why = ""
        host = socket.remote_address
        label = address or (f"{host[0]}:{host[1]} (it dialed us)" if host else "somebody who dialed us")
        tls = socket.transport.get_extra_info("ssl_object")
        shown = None if tls is None else tls.getpeercert(binary_form=True)
        self.peer = Peer(home, self._writer.put, answer=self._writer.put_answer, address=address, label=label, certificate=shown)

    async def run(self) -> None:
        """Reads and writes until the connection ends, for whatever reason."""
        self._writer.put(encode(hello(self._limit, self.peer.introduction.nonce)))
        await self.peer.start()
        writing = asyncio.create_task(self._write())
        try:
            await self._read()
        except WireError as error:
            await self._refuse(error)
        except ConnectionClosed as error:
            self._why = self._why or _reason(error)
        except Exception:
            log.exception("a frame from %s could not be handled", self.peer.label)
            self._why = "an internal error here"
            await self._socket.close(1011, self._why)
        finally:
            writing.cancel()
            await self.peer.lost(self._why or "this system closed it", orderly=self._orderly())
            await asyncio.wait([writing])
            if self.peer.closed is not None:
                self._writer.abandon(self.peer.closed)

    async def close(self, why: str) -> None:
        """Answers and writes what waits, then ends the connection."""
        self._why = f"closed by this side: {why}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.peer.incoming.settled()
                await self._writer.flush()
        await self._socket.close(1001, why)

    async def _read(self) -> None:
        reader = FrameReader(self._limit)
        try:
            async with asyncio.timeout(OPEN_WITHIN):
                while not self.peer.greeted.done():
                    await self._read_message(reader)
        except TimeoutError:
            raise Malformed(f"no greeting came within {OPEN_WITHIN:g} s") from None
        while True:
            await self._read_message(reader)

    async def _read_message(self, reader: FrameReader) -> None:
        receive = self.peer.receive
        async for piece in self._socket.recv_streaming(decode=False):
            for packet in reader.feed(piece):
                receive(packet)
            await self._writer.room()
        reader.end()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._writer.run(self._socket)

    async def _refuse(self, error: WireError) -> None:
        self._why = f"refused here: {type(error).__name__}: {error}"
        self.peer.refused(error)
        log.warning("%s: %s; the connection is closed", self.peer.label, error)
        code = 1009 if isinstance(error, TooLarge) else 1002
        await self._socket.close(code, f"{type(error).__name__}: {error}".encode()[:120].decode(errors="ignore"))

    def _orderly(self) -> bool:
        return self._socket.close_code in (1000, 1001)


def _reason(error: ConnectionClosed) -> str:
    if error.rcvd is not None:
        return f"closed by the other side: {error.rcvd.code} {error.rcvd.reason}".rstrip()
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else "the other side vanished without closing it"


async def dial(address: Address, home: Home, *, limit: int, tls: ssl.SSLContext | None, keep: Callable[[Link], None]) -> Peer:
    """Opens a connection and exchanges greetings.

    Args:
        address: of the other system.
        home: this system.
        limit: the largest message that is taken, in bytes.
        tls: for wss; None for the certificates that the operating system trusts.
        keep: is given the link, to run it and to close it with the system.

    Raises:
        ConnectFailed: nobody answers there, or not with this protocol.
        VersionMismatch: another version is spoken there.
    """
    try:
        socket = await connect(
            str(address),
            ssl=(tls or ssl.create_default_context()) if address.secure else None,
            compression=None,
            proxy=None,
            max_size=(limit + WHOLE, WHOLE + FRAGMENT),
            open_timeout=OPEN_WITHIN,
            close_timeout=CLOSE_WITHIN,
            ping_interval=PING_EVERY,
            ping_timeout=PING_WITHIN,
            user_agent_header=None,
        )
    except (OSError, TimeoutError, WebSocketException) as error:
        raise ConnectFailed(f"nobody answers at {address}: {type(error).__name__}: {error}") from None
    link = Link(socket, home, address=str(address), limit=limit)
    keep(link)
    try:
        async with asyncio.timeout(OPEN_WITHIN):
            await asyncio.shield(link.peer.greeted)
    except BaseException as error:
        await socket.close()
        if isinstance(error, WireError) or not isinstance(error, (LinkError, TimeoutError)):
            raise
        raise ConnectFailed(f"{address} does not speak this protocol: {error or 'no greeting'}") from None
    return link.peer


async def listen(
    address: Address, home: Home, *, limit: int, tls: ssl.SSLContext | None, run: Callable[[Link], Awaitable[None]]
) -> tuple[Server, int]:
    """Listens for connections; returns the server and its port.

    Args:
        address: to bind; port 0 chooses one.
        home: this system.
        limit: the largest message that is taken, in bytes.
        tls: for wss.
        run: runs a link as long as its connection lasts.

    Raises:
        AddressInUse: somebody else listens there.
        BadAddress: it is no address of this machine.
        InsecureAddress: wss without certificates.
    """
    if address.secure and tls is None:
        raise InsecureAddress(f"{address} needs a certificate; give the system ssl=... with an ssl.SSLContext for servers")

    async def handle(socket: ServerConnection) -> None:
        await run(Link(socket, home, address="", limit=limit))

    try:
        server = await serve(
            handle,
            address.host,
            address.port,
            ssl=tls if address.secure else None,
            compression=None,
            origins=[None],  # no web page may talk to us
            max_size=(limit + WHOLE, WHOLE + FRAGMENT),
            open_timeout=OPEN_WITHIN,
            close_timeout=CLOSE_WITHIN,
            ping_interval=PING_EVERY,
            ping_timeout=PING_WITHIN,
            server_header=None,
            logger=logging.getLogger(f"{__name__}.server"),
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{address} is in use by another process; choose another port, or 0 for any that is free") from None
        raise BadAddress(f"cannot listen on {address}: {error}") from None
    return server, next(iter(server.sockets)).getsockname()[1]
