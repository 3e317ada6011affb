"""One connection as two systems see it, without its socket: frames come in through `receive` and go out through `write`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from actors.crossing import Crossing
from actors.directory import Found
from actors.errors import ConnectionLost, LinkError, MessageRejected
from actors.frames import Call, Cancel, Credit, Failed, Frame, Hello, OneWay, Reply, Report
from actors.home import Home, Write
from actors.incoming import Incoming
from actors.outgoing import Outgoing
from actors.schema import Message
from actors.wire import Packet


class Peer:
    """The transport to the system at the other end of one connection. Whoever owns the connection says when it is `lost`.

    Args:
        home: the system at this end.
        write: takes the frames that go out.
        answer: takes those that answer the other side, if they are to be counted apart.
        address: of the other system if it was dialed, otherwise empty.
        label: what errors call it.

    Attributes:
        greeted: done when the greeting of the other side has arrived.
        closed: why the connection has ended; None while it is open.
        certificate: that the other side has shown, DER; None without TLS, or if it had none to show.
    """

    def __init__(self, home: Home, write: Write, *, answer: Write | None = None, address: str, label: str) -> None:
        self.address = address
        self.label = label
        self.timeout = home.timeout
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: ConnectionLost | None = None
        self.certificate: bytes | None = None
        self._crossing = Crossing(home, self, label)
        self.outgoing = Outgoing(self._crossing, write, home.report, label)
        self.incoming = Incoming(self._crossing, answer or write, home.log)
        self._receivers: dict[type[Frame], Callable[[Any, Any], None]] = {
            Hello: self._on_hello,
            Call: self.incoming.on_call,
            OneWay: self.incoming.on_one_way,
            Cancel: lambda frame, arrays: self.incoming.on_cancel(frame),
            Reply: self.outgoing.on_reply,
            Failed: lambda frame, arrays: self.outgoing.on_failed(frame),
            Credit: lambda frame, arrays: self.outgoing.on_credit(frame),
            Report: lambda frame, arrays: self.outgoing.on_report(frame),
        }

    async def start(self) -> None:
        """Lets messages in; call it before the first frame is received."""
        await self.incoming.start()

    async def call(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """See `Transport.call`."""
        return await self.outgoing.call(target, message, arguments, timeout)

    async def send(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> None:
        """See `Transport.send`."""
        await self.outgoing.send(target, message, arguments, timeout)

    async def watch(self, target: str) -> str:
        """See `Transport.watch`."""
        return await self.outgoing.watch(target)

    async def stop(self, target: str) -> None:
        """See `Transport.stop`."""
        raise MessageRejected(
            f"{target!r} at {self.label} can be stopped by its own system only; give it a message that makes it stop itself"
        )

    async def find(self, target: str) -> Found:
        """Asks for an actor; raises `ActorNotFound` or `ActorStopped`."""
        return await self.outgoing.find(target)

    def receive(self, packet: Packet) -> None:
        """Takes one frame of the other side.

        Raises:
            WireError: the other side breaks the rules; the connection must be closed.
        """
        self._receivers[type(packet.frame)](packet.frame, packet.arrays)

    def _on_hello(self, frame: Hello, arrays: object) -> None:
        self._crossing.limit = frame.limit
        if not self.greeted.done():
            self.greeted.set_result(None)

    def refused(self, error: LinkError) -> None:
        """The greeting of the other side was none, or there will be none."""
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()  # there may be nobody who waits for it

    async def lost(self, why: str, *, orderly: bool) -> None:
        """The connection has ended: everything under way over it fails, and what it asked for is cancelled."""
        if self.closed is not None:
            return
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
        self.closed = ConnectionLost(self.label, now, why)
        self.refused(self.closed)
        self.outgoing.lost(self.closed, orderly=orderly)
        await self.incoming.lost()
