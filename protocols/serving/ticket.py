"""One-time permissions: which examples of which chunk of randomness a request may use, signed by the crypto provider.

A ticket names a range of examples of a chunk. The provider issues each range once; a server consumes it before it sends anything; keys of
chunks live in memory only. So no mask is used twice: not by a retry, not after a crash of any of the three.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac

from protocols.authority.rights import shows
from protocols.errors import TicketRefused

Reveal = Literal["logits", "label"]
REVEALS: tuple[Reveal, ...] = ("logits", "label")
IDENTIFIER_BYTES = 16


def identifier() -> bytes:
    """Return a fresh name that nobody can guess: 16 bytes from the operating system."""
    return os.urandom(IDENTIFIER_BYTES)


def traced(request: bytes) -> str:
    """Return a name of a request that may be shown: by it the logs of three workers are put together, and nothing is asked."""
    return sha256(b"request " + request).hexdigest()[:16]


class Ticket(msgspec.Struct, frozen=True):
    """The permission to run the program of `model` on `examples` examples with the randomness of one range of one chunk.

    Attributes:
        model: identifier of the shared model.
        request: identifier of the client's request; one request may need several tickets.
        part: which part of the request this is, from 0.
        reveal: what the client learns.
        chunk: identifier of the chunk of randomness.
        start: first example of the chunk that is used.
        stop: one past the last.
        client: whose budget pays for it, where answers are counted for each client.
        holders: digests of the client's right to it at server 0 and at server 1, see `protocols.authority.rights`: a server that is
            shown the ticket cannot show it to the other.
    """

    model: bytes
    request: bytes
    part: int
    reveal: Reveal
    chunk: bytes
    start: int
    stop: int
    client: str = ""
    holders: tuple[bytes, bytes] = (b"", b"")

    @property
    def examples(self) -> int:
        """How many examples it allows."""
        return self.stop - self.start

    @property
    def run(self) -> bytes:
        """The name of the computation that it allows."""
        return self.request + self.part.to_bytes(4, "big")


class SignedTicket(msgspec.Struct, frozen=True):
    """A ticket with one HMAC-SHA256 for each server, under the key that this server shares with the provider."""

    ticket: Ticket
    tags: tuple[bytes, bytes]

    def __repr__(self) -> str:
        return f"SignedTicket({self.ticket.examples} examples, {self.ticket.reveal})"


def _mac(key: bytes, ticket: Ticket) -> hmac.HMAC:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(msgspec.msgpack.encode(ticket))
    return mac


def sign(ticket: Ticket, keys: tuple[bytes, bytes]) -> SignedTicket:
    """Sign a ticket for both servers."""
    return SignedTicket(ticket, (_mac(keys[0], ticket).finalize(), _mac(keys[1], ticket).finalize()))


def check(signed: SignedTicket, key: bytes, party: int, right: bytes) -> Ticket:
    """Check that the provider made a ticket for server `party`, and that the client it was made for shows it; return it.

    Raises:
        TicketRefused: the tag is not the provider's, or the right is not that to this ticket at this server.
    """
    try:
        _mac(key, signed.ticket).verify(signed.tags[party])
    except InvalidSignature:
        raise TicketRefused("the ticket was not issued by the crypto provider of this model; ask it for a new one") from None
    if not shows(right, signed.ticket.holders[party]):
        raise TicketRefused("the ticket was issued to another client; ask the crypto provider for one of your own")
    return signed.ticket
