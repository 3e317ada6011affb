"""Values as they cross one connection: what becomes of references on the way, and which actors the other side may reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.connection.home import Home
from actors.connection.wire import Encoded, Packet, encode, payload
from actors.errors import ActorNotFound, MessageRejected, TooLarge
from actors.identity import Caller
from actors.messages.frames import Frame, Payload
from actors.messages.reference import ActorRef
from actors.messages.schema import Form, Message
from actors.messages.transport import Transport
from actors.messages.values import Array, Packed
from actors.running.cell import Cell

SMALL = 64 << 10
"""Bytes up to which a message is copied when it is sent, so that nobody waits until it has been written."""

THROUGH_HERE, YOURS = "", "."
"""Instead of an address: the actor is reached over this connection only; the actor lives where this is read."""


class Crossing:
    """One connection's border.

    Args:
        home: the system at this end.
        transport: the way to the system at the other end.
        label: what errors call the other end.

    Attributes:
        limit: the largest message that the other side takes, in bytes; known once it has greeted.
    """

    def __init__(self, home: Home, transport: Transport[Message], label: str) -> None:
        self.limit = 0
        self._home = home
        self._transport = transport
        self._label = label
        self._exported: set[str] = set()

    def encoded(self, form: Form, values: tuple[Any, ...], kind: Callable[..., Frame], *fields: Any) -> Encoded:
        """Encode a frame of a kind: its fields and then the values.

        Raises:
            MessageRejected: the values cannot be sent, or the other side does not take so much.
        """
        packed = form.pack(values)
        refs = [self._export(ref) for ref in packed.refs]
        try:
            encoded = encode(Packet(kind(*fields, payload(packed.body, packed.arrays, refs)), packed.arrays))
        except TooLarge as error:
            raise MessageRejected(f"{form.label}: {error}") from None
        if encoded.size > self.limit:
            raise MessageRejected(f"{form.label}: a message of {encoded.size} bytes; {self._label} takes at most {self.limit}")
        return encoded.joined() if encoded.size <= SMALL else encoded

    def decoded(self, form: Form, value: Payload, arrays: list[Array]) -> tuple[Any, ...]:
        """Return the values in a frame.

        Raises:
            MessageRejected: they do not fit the annotations.
            LinkError: an address in them cannot be used.
        """
        refs = [self._import(*ref) for ref in value.refs]
        return form.unpack(Packed(value.body, arrays, refs))

    def reachable(self, name: str) -> Cell:
        """Return the actor of a name, as far as the other side may know of it.

        Raises:
            ActorNotFound, ActorStopped: it is not there, or not for the other side.
        """
        if not (self._home.listens or name in self._exported):
            raise ActorNotFound(f"no actor named {name!r} can be reached over this connection")
        return self._home.cell(name)

    def check(self, sender: Caller, cell: Cell, message: Message) -> None:
        """See `Home.check`."""
        self._home.check(sender, cell, message)

    def _export(self, ref: ActorRef) -> tuple[str, str]:
        """How a reference is written to the other side."""
        transport = ref._transport
        if transport is self._home.memory:
            self._exported.add(ref._name)
            return self._home.advertised or THROUGH_HERE, ref._name
        if transport is self._transport or (self._transport.address and transport.address == self._transport.address):
            return YOURS, ref._name
        if not transport.address:
            raise MessageRejected(
                f"{ref} lives in a system that does not listen; it can be reached over its own connection only, and not be passed on to "
                f"{self._label}. Let its system listen"
            )
        return transport.address, ref._name

    def _import(self, address: str, name: str) -> ActorRef:
        if address == THROUGH_HERE:
            return ActorRef(self._transport, name)
        if address not in (YOURS, self._home.advertised, self._transport.address) and not self._home.refer:
            raise MessageRejected("a reference leads to another system than the two that talk: here that is not followed")
        return self._home.reference("" if address == YOURS else address, name)
