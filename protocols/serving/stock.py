"""A server's stock of prepared randomness: chunks arrive ahead, ranges of examples leave once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protocols.errors import TicketRefused
from protocols.mpc.parties.material import Material
from protocols.serving.streams import Stream
from protocols.serving.ticket import Ticket


@dataclass
class _Chunk:
    material: Material | Stream = field(repr=False)
    used: npt.NDArray[np.bool_]


class Stock:
    """The chunks of one model at one server, by identifier. A range that has left, or was withdrawn, never leaves again."""

    def __init__(self) -> None:
        self._chunks: dict[bytes, _Chunk] = {}
        self._seen: set[bytes] = set()

    def add(self, chunk: bytes, material: Material | Stream) -> None:
        """Put a prepared chunk on stock, or one that comes in a stream.

        Raises:
            TicketRefused: a chunk of this name was here before, used or not: the same masks never serve twice.
        """
        if chunk in self._seen:
            raise TicketRefused("a chunk of this name has been dealt before: the same masks never serve twice")
        self._seen.add(chunk)
        self._chunks[chunk] = _Chunk(material, np.zeros(material.examples, np.bool_))

    @property
    def examples(self) -> int:
        """How many examples could be served from what is here."""
        return sum(int((~chunk.used).sum()) for chunk in self._chunks.values())

    def take(self, ticket: Ticket) -> Material | Stream:
        """Consumes the range of a ticket.

        Raises:
            TicketRefused: the chunk is not here, or a part of the range has been used or withdrawn.
        """
        chunk = self._chunks.get(ticket.chunk)
        if chunk is None or not 0 <= ticket.start < ticket.stop <= len(chunk.used) or chunk.used[ticket.start : ticket.stop].any():
            raise TicketRefused(
                f"the randomness of this ticket ({ticket.examples} examples) is not on stock: it was used before, withdrawn, or is of "
                "another run of the server; ask the crypto provider for a new ticket"
            )
        self._consume(ticket, chunk)
        return chunk.material.slice(ticket.start, ticket.stop)

    def withdraw(self, ticket: Ticket) -> bool:
        """Throws the range of an unused ticket away. True if nothing of it had been used."""
        try:
            taken = self.take(ticket)
        except TicketRefused:
            return False
        if isinstance(taken, Stream):
            taken.close()
        return True

    def _consume(self, ticket: Ticket, chunk: _Chunk) -> None:
        chunk.used[ticket.start : ticket.stop] = True
        if chunk.used.all():
            del self._chunks[ticket.chunk]
