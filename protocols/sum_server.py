"""The actor that sums vectors together with its twin on the other server of a cluster. It never sees a vector, nor the sum.

Its messages come from three sides: the aggregator (`begin`, `admit`, `expel`, `open`, `discard`), owners (`hold_vector`, `hold_seed`), and
the other server (`compare`).

Adversary: semi-honest; the two servers do not collude, and the aggregator with neither. **Leaks** to a server: who counts, and how much.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors import Actor, message
from protocols.errors import AggregationError
from protocols.presence import Presence
from protocols.quantisation import Vector
from protocols.shared_sums import Half, SumTerms

Words = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, repr=False)
class Session:
    """What an aggregator asks both servers for.

    Args:
        handle: what owners call it, 16 bytes.
        authority: what only the aggregator and the servers know, 32 bytes.
        key: of the tickets, 32 bytes.
        terms: what is summed.
        peer: the address of the other server's actor.
        opens_first: this server compares with the other, and opens first; it is the one that gets vectors.
    """

    handle: bytes
    authority: bytes
    key: bytes
    terms: SumTerms
    peer: str
    opens_first: bool


class _Sum:
    """A session under way."""

    def __init__(self, session: Session, peer: SumServer) -> None:
        self.session, self.peer = session, peer
        self.half = Half(session.terms, session.key)
        self.agreed = b""
        self.watch: asyncio.Task[None] | None = None


class SumServer(Actor):
    """Sums over two servers; see `shared_sums`."""

    def __init__(self) -> None:
        self._sums: dict[bytes, _Sum] = {}

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        for one in self._sums.values():
            if one.watch is not None:
                one.watch.cancel()

    # The aggregator's messages.

    @message(reentrant=True)
    async def begin(self, session: Session, presence: Presence) -> None:
        """Begins a session. It ends when the aggregator's presence does."""
        if session.handle in self._sums:
            raise AggregationError("a session of this name is under way")
        peer = await self.system.connect(session.peer, SumServer)
        one = self._sums[session.handle] = _Sum(session, peer)
        one.watch = asyncio.create_task(self._watch(session.handle, presence))

    async def _watch(self, handle: bytes, presence: Presence) -> None:
        await self.system.watch(presence)
        del self._sums[handle]

    @message(reentrant=True)
    async def admit(self, authority: bytes, ticket: bytes, factor: int) -> bool:
        """Makes a part count; False if it is not here."""
        return self._by(authority).half.admit(ticket, factor)

    @message(reentrant=True)
    async def expel(self, authority: bytes, ticket: bytes) -> None:
        """Takes a seed back, whose vector is not at the other server."""
        self._by(authority).half.expel(ticket)

    @message(reentrant=True)
    async def discard(self, authority: bytes) -> None:
        """Forgets what was admitted: the round has failed."""
        self._by(authority).half.discard()

    @message(reentrant=True)
    async def open(self, authority: bytes) -> Words:
        """This server's half of the sum, after both have found that they sum the same.

        Raises:
            AggregationError: they do not, or too few count, or this server is asked before the other.
        """
        one = self._by(authority)
        digest = one.half.digest()
        if one.session.opens_first:
            await one.peer.compare(one.session.handle, digest)
        elif one.agreed != digest:
            raise AggregationError("the other server has not agreed to this sum")
        one.agreed = b""
        return await asyncio.to_thread(one.half.opened)

    def _by(self, authority: bytes) -> _Sum:
        for one in self._sums.values():
            if one.session.authority == authority:
                return one
        raise AggregationError("no such session here: the server was restarted, or the aggregator was away")

    # The owners' messages.

    @message(reentrant=True)
    async def hold_vector(self, handle: bytes, ticket: bytes, vector: Words) -> None:
        """Takes the half that is a vector."""
        self._of(handle).half.hold(ticket, vector)

    @message(reentrant=True)
    async def hold_seed(self, handle: bytes, ticket: bytes, seed: bytes) -> None:
        """Takes the half that is a seed."""
        self._of(handle).half.hold(ticket, seed)

    def _of(self, handle: bytes) -> _Sum:
        if handle not in self._sums:
            raise AggregationError("no such session here: the server was restarted, or the aggregator is gone")
        return self._sums[handle]

    # The other server's message.

    @message(reentrant=True)
    async def compare(self, handle: bytes, digest: bytes) -> None:
        """Agrees to open a sum.

        Raises:
            AggregationError: this server would open another.
        """
        one = self._of(handle)
        if one.half.digest() != digest:
            raise AggregationError("the two servers do not sum the same vectors: nothing is opened")
        one.agreed = digest


async def hand_in(vectors: SumServer, seeds: SumServer, handle: bytes, ticket: bytes, halves: tuple[Vector, bytes]) -> None:
    """An owner gives each server its half."""
    vector, seed = halves
    await asyncio.gather(seeds.hold_seed(handle, ticket, seed), vectors.hold_vector(handle, ticket, vector))
