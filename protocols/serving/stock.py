"""A server's stock of randomness for one model: chunks arrive ahead, whole or in a stream, and ranges of their examples leave once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError, TicketRefused
from protocols.mpc.parties.material import Material
from protocols.serving.supply import Supply
from protocols.serving.ticket import Reveal, Ticket


@dataclass
class _Chunk:
    reveal: Reveal
    supply: Supply = field(repr=False)
    used: npt.NDArray[np.bool_]
    copies: dict[int, Material] | None = field(default=None, repr=False)

    @property
    def bytes(self) -> int:
        """Those that are held: of a stream until it has ended; of a whole chunk all, used or not, until what is left has been copied."""
        if self.copies is None:
            return self.supply.reserved
        return self.supply.reserved // len(self.used) * sum(material.examples for material in self.copies.values())

    @property
    def needed(self) -> int:
        """Those that are held at least: of a whole chunk for the examples that have not left."""
        if self.supply.streamed:
            return self.supply.reserved
        return self.supply.reserved // len(self.used) * int((~self.used).sum())

    def slice(self, start: int, stop: int) -> Material | None:
        """Return the material of examples that have not left, as views; None if it is not here."""
        if self.copies is None:
            whole = self.supply.whole
            return None if whole is None else whole.slice(start, stop)
        first = max(place for place in self.copies if place <= start)
        return self.copies[first].slice(start - first, stop - first)

    def shrink(self) -> None:
        """Copy what has not left, and free the rest: views of a part keep all of it in memory."""
        if self.bytes == self.needed:
            return
        edges = np.flatnonzero(np.diff(np.concatenate(([True], self.used, [True]))))
        found = {int(start): self.slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)}
        self.copies = {start: material.copy() for start, material in found.items() if material is not None}
        self.supply.drop()


class Stock:
    """The chunks of one model at one server, by identifier. A range that has left, or was withdrawn, never leaves again.

    Args:
        most: bytes that all of them together may have reserved.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._chunks: dict[bytes, _Chunk] = {}
        self._seen: set[bytes] = set()

    def add(self, chunk: bytes, reveal: Reveal, supply: Supply, examples: int) -> None:
        """Put a chunk on stock that comes in a supply.

        Raises:
            TicketRefused: a chunk of this name was here before, used or not: the same masks never serve twice.
            SharingError: it needs more than the others leave.
        """
        if chunk in self._seen:
            raise TicketRefused("a chunk of this name has been dealt before: the same masks never serve twice")
        self._chunks = {name: one for name, one in self._chunks.items() if not one.supply.ended}
        reserved = sum(one.needed for one in self._chunks.values())
        if sum(one.bytes for one in self._chunks.values()) + supply.reserved > self._most >= reserved + supply.reserved:
            for one in self._chunks.values():
                one.shrink()
        if reserved + supply.reserved > self._most:
            raise SharingError(
                f"chunks of {reserved:,} bytes are open here, and one more of {supply.reserved:,} bytes: {self._most:,} are the most"
            )
        self._seen.add(chunk)
        self._chunks[chunk] = _Chunk(reveal, supply, np.zeros(examples, np.bool_))

    def __getitem__(self, chunk: bytes) -> Supply:
        """Return what a chunk comes in.

        Raises:
            TicketRefused: there is none of this name any more.
        """
        found = self._chunks.get(chunk)
        if found is None:
            raise TicketRefused("no chunk of this name is open here: it was used, withdrawn, or broken")
        return found.supply

    @property
    def examples(self) -> int:
        """How many examples could be served from what is here."""
        return sum(int((~chunk.used).sum()) for chunk in self._chunks.values() if not chunk.supply.ended)

    def take(self, ticket: Ticket) -> Material | Supply:
        """Consume the range of a ticket: its material, or the stream that has it.

        Raises:
            TicketRefused: the chunk is not here, or a part of the range has been used or withdrawn.
        """
        chunk = self._chunks.get(ticket.chunk)
        there = None if chunk is None or chunk.reveal != ticket.reveal or chunk.supply.ended else chunk.supply
        taken: Material | Supply | None = there
        if chunk is None or there is None or not _free(chunk, ticket):
            taken = None
        elif not there.streamed:
            taken = chunk.slice(ticket.start, ticket.stop)
        if chunk is None or taken is None:
            raise TicketRefused(
                f"the randomness of this ticket ({ticket.examples} examples) is not on stock: it was used before, withdrawn, or is of "
                "another run of the server; ask the crypto provider for a new ticket"
            )
        chunk.used[ticket.start : ticket.stop] = True
        if isinstance(taken, Supply):
            return taken
        if chunk.used.all():
            del self._chunks[ticket.chunk]
        return taken

    def withdraw(self, ticket: Ticket) -> bool:
        """Throw the range of an unused ticket away. True if nothing of it had been used."""
        try:
            taken = self.take(ticket)
        except TicketRefused:
            return False
        if isinstance(taken, Supply):
            taken.close()
        return True

    def close(self) -> None:
        """End what comes: nothing of it is wanted any more."""
        for chunk in self._chunks.values():
            chunk.supply.close()


def _free(chunk: _Chunk, ticket: Ticket) -> bool:
    """Whether a range of a chunk exists and nothing of it has left."""
    return 0 <= ticket.start < ticket.stop <= len(chunk.used) and not chunk.used[ticket.start : ticket.stop].any()
