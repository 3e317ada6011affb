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
from protocols.authority.membership import AGGREGATOR, OTHER_SERVER, OWNER, Membership
from protocols.authority.presence import Presence, check_presence
from protocols.authority.rights import Claim
from protocols.authority.seats import Seats
from protocols.errors import AggregationError
from protocols.quantisation import Vector
from protocols.secure_aggregation.shared_sums import Half, SumTerms

Words = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, repr=False)
class Session:
    """What an aggregator asks both servers for.

    Args:
        handle: what owners and workers call it, 16 bytes.
        digest: of the aggregator's right to it, at this server.
        key: of the tickets, 32 bytes.
        terms: what is summed.
        equals: whether the aggregator takes the cluster for one of three equals; it says which two are the servers. Server 0 compares with
            the other, and opens first; it is the one that gets vectors.
    """

    handle: bytes
    digest: bytes
    key: bytes
    terms: SumTerms
    equals: bool


class _Sum:
    """A session under way."""

    def __init__(self, session: Session, claim: Claim, seats: Seats, party: int, peer: SumServer) -> None:
        self.session, self.claim, self.seats, self.party, self.peer = session, claim, seats, party, peer
        self.half = Half(session.terms, session.key)
        self.agreed = b""
        self.watch: asyncio.Task[None] | None = None


class SumServer(Actor):
    """Sums over two servers; see `shared_sums`.

    Args:
        cluster: whose server it is.
    """

    def __init__(self, cluster: Membership | None = None) -> None:
        self._cluster = cluster or Membership()
        self._sums: dict[bytes, _Sum] = {}

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        for one in self._sums.values():
            if one.watch is not None:
                one.watch.cancel()

    # The aggregator's messages.

    @message(reentrant=True, by=AGGREGATOR)
    async def begin(self, session: Session, presence: Presence) -> None:
        """Begins a session. It ends when the aggregator's presence does.

        Raises:
            AggregationError: a session of this name is under way, or this worker is no server of this cluster.
            ClusterError: it belongs to another cluster.
        """
        check_presence(self.system, presence)
        claim, seats = Claim.of_caller(session.digest), self._cluster.seats(session.equals, "")
        party = seats.party(self._cluster.place)
        if party not in (0, 1):
            raise AggregationError("this worker is no server of the cluster: list the three workers in its order")
        peer = await self.system.connect(f"{self._cluster.address(seats.servers[1 - party])}/sums", SumServer)
        if session.handle in self._sums:
            raise AggregationError("a session of this name is under way")
        one = self._sums[session.handle] = _Sum(session, claim, seats, party, peer)
        one.watch = asyncio.create_task(self._watch(session.handle, presence))

    async def _watch(self, handle: bytes, presence: Presence) -> None:
        await self.system.watch(presence)
        del self._sums[handle]

    @message(reentrant=True, by=AGGREGATOR)
    async def admit(self, handle: bytes, right: bytes, ticket: bytes, factor: int) -> bool:
        """Makes a part count; False if it is not here."""
        return self._owned(handle, right).half.admit(ticket, factor)

    @message(reentrant=True, by=AGGREGATOR)
    async def expel(self, handle: bytes, right: bytes, ticket: bytes) -> None:
        """Takes a seed back, whose vector is not at the other server."""
        self._owned(handle, right).half.expel(ticket)

    @message(reentrant=True, by=AGGREGATOR)
    async def discard(self, handle: bytes, right: bytes) -> None:
        """Forgets what was admitted: the round has failed."""
        self._owned(handle, right).half.discard()

    @message(reentrant=True, by=AGGREGATOR)
    async def open(self, handle: bytes, right: bytes) -> Words:
        """This server's half of the sum, after both have found that they sum the same.

        Raises:
            AggregationError: they do not, or too few count, or this server is asked before the other.
        """
        one = self._owned(handle, right)
        digest = one.half.digest()
        if one.party == 0:
            await one.peer.compare(one.session.handle, digest)
        elif one.agreed != digest:
            raise AggregationError("the other server has not agreed to this sum")
        one.agreed = b""
        return await asyncio.to_thread(one.half.opened)

    def _owned(self, handle: bytes, right: bytes) -> _Sum:
        one = self._of(handle)
        one.claim.check(right, "this session")
        return one

    # The owners' messages.

    @message(reentrant=True, by=OWNER)
    async def hold_vector(self, handle: bytes, ticket: bytes, vector: Words) -> None:
        """Takes the half that is a vector."""
        self._of(handle).half.hold(ticket, vector)

    @message(reentrant=True, by=OWNER)
    async def hold_seed(self, handle: bytes, ticket: bytes, seed: bytes) -> None:
        """Takes the half that is a seed."""
        self._of(handle).half.hold(ticket, seed)

    def _of(self, handle: bytes) -> _Sum:
        if handle not in self._sums:
            raise AggregationError("no such session here: the server was restarted, or the aggregator is gone")
        return self._sums[handle]

    # The other server's message.

    @message(reentrant=True, by=OTHER_SERVER)
    async def compare(self, handle: bytes, digest: bytes) -> None:
        """Agrees to open a sum.

        Raises:
            AggregationError: this server would open another.
        """
        one = self._of(handle)
        self._cluster.require(one.seats.servers[1 - one.party], "compare")
        if one.half.digest() != digest:
            raise AggregationError("the two servers do not sum the same vectors: nothing is opened")
        one.agreed = digest


async def hand_in(vectors: SumServer, seeds: SumServer, handle: bytes, ticket: bytes, halves: tuple[Vector, bytes]) -> None:
    """An owner gives each server its half."""
    vector, seed = halves
    await asyncio.gather(seeds.hold_seed(handle, ticket, seed), vectors.hold_vector(handle, ticket, vector))
