"""One connection as two systems see it, without its socket: frames come in through `receive` and go out through `write`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from actors.address import Address
from actors.connection.crossing import Crossing
from actors.connection.home import Home, Write
from actors.connection.incoming import Incoming
from actors.connection.outgoing import Outgoing
from actors.connection.wire import Packet, encode
from actors.errors import ConnectionLost, LinkError, Malformed, MessageRejected
from actors.identity import Caller
from actors.identity.proofs import Introduction
from actors.messages.frames import Cancel, Credit, Failed, FailureReport, Frame, Hello, Invocation, OneWay, Proof, Reply
from actors.messages.reference import as_reference
from actors.messages.schema import Message
from actors.running.directory import Found


class Peer:
    """The transport to the system at the other end of one connection. Whoever owns the connection says when it is `lost`.

    Args:
        home: the system at this end.
        write: takes the frames that go out.
        answer: takes those that answer the other side, if they are to be counted apart.
        address: of the other system if it was dialed, otherwise empty.
        label: what errors call it.
        certificate: that the other side has shown, DER; None without TLS, or if it had none to show.
        host: the network address that the other side has dialed from.

    Attributes:
        introduction: what this side and the other prove to each other.
        greeted: done when the greeting of the other side has arrived, and who dialed knows whom it has reached.
        closed: why the connection has ended; None while it is open.
        busy: seconds for which the loop of the other side may be busy, as it has said in its greeting.
    """

    def __init__(
        self,
        home: Home,
        write: Write,
        *,
        answer: Write | None = None,
        address: str,
        label: str,
        certificate: bytes | None = None,
        host: str = "",
    ) -> None:
        self.address = address
        self._write = write
        self.label = label
        self.timeout = home.timeout
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: ConnectionLost | None = None
        self.busy = 0
        self._crossing = Crossing(home, self, label)
        self.outgoing = Outgoing(self._crossing, write, home.report, label)
        self.incoming = Incoming(self._crossing, answer or write, home.log, home.observer)
        self.incoming.caller = Caller(dialed=bool(address), certificate=certificate, url=address, host=host)
        dialed = Address.parse(address) if address else None
        self.introduction = Introduction(home.identity, dialed, for_user=home.for_user)
        self._proven = False
        self._receivers: dict[type[Frame], Callable[[Any, Any], None]] = {
            Hello: self._on_hello,
            Invocation: self.incoming.on_call,
            OneWay: self.incoming.on_one_way,
            Cancel: lambda frame, arrays: self.incoming.on_cancel(frame),
            Reply: self.outgoing.on_reply,
            Failed: lambda frame, arrays: self.outgoing.on_failed(frame),
            Credit: lambda frame, arrays: self.outgoing.on_credit(frame),
            FailureReport: lambda frame, arrays: self.outgoing.on_report(frame),
            Proof: lambda frame, arrays: self._on_proof(frame),
        }

    @property
    def caller(self) -> Caller:
        """Who is at the other end, as far as that is known."""
        return self.incoming.caller

    @property
    def limit(self) -> int:
        """The largest message that the other side takes, in bytes; known once it has greeted."""
        return self._crossing.limit

    async def start(self) -> None:
        """Let messages in; call it before the first frame is received."""
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
        """Ask for an actor; raise `ActorNotFound` or `ActorStopped`."""
        return await self.outgoing.find(target)

    def receive(self, packet: Packet) -> None:
        """Handle one frame of the other side.

        Raises:
            WireError: the other side breaks the rules; the connection must be closed.
        """
        self._receivers[type(packet.frame)](packet.frame, packet.arrays)

    def _on_hello(self, frame: Hello, arrays: object) -> None:
        self._crossing.limit = frame.limit
        self.busy = frame.busy
        proof = self.introduction.greeted(frame.nonce)
        if proof is None:
            self._met()
        else:
            self._write(encode(Packet(proof, [])), None)

    def _on_proof(self, frame: Proof) -> None:
        """Who dialed sends one before anything else, and is answered with one."""
        if self._proven:
            raise Malformed("a second proof on the same connection")
        self._proven = True
        if not self.address:
            answer, self.incoming.caller = self.introduction.checked(frame, self.caller)
            self._write(encode(Packet(answer, [])), None)
            return
        try:
            self.incoming.caller = self.introduction.answered(frame, self.caller)
        except Malformed:
            raise
        except LinkError as error:
            self.refused(error)
            raise Malformed("the other side has not proven who it is") from None
        self._met()

    def _met(self) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)

    def refused(self, error: LinkError) -> None:
        """Fail the greeting: that of the other side was malformed, or there will be none."""
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()  # there may be nobody who waits for it

    async def lost(self, why: str, *, orderly: bool) -> None:
        """End the connection: everything under way over it fails, and what the other side asked for is cancelled."""
        if self.closed is not None:
            return
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
        self.closed = ConnectionLost(self.label, now, why)
        self.refused(self.closed)
        self.outgoing.lost(self.closed, orderly=orderly)
        await self.incoming.lost()


def peer_of(ref: object) -> Peer:
    """Return the connection that a received reference leads over.

    Raises:
        TypeError: it is no reference.
        MessageRejected: it does not go over the connection that it came by.
    """
    transport = as_reference(ref)._transport
    if not isinstance(transport, Peer):
        raise MessageRejected(
            f"{ref} is not reached over the connection that it came by: a system that does not listen has to send it itself"
        )
    return transport
