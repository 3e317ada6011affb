"""The actor that sums vectors together with its twin on the other server of a cluster. It never sees a vector, nor the sum.

Its messages come from three sides: the aggregator (`begin`, `admit`, `expel`, `open`, `discard`), owners (`hold_vector`, `hold_seed`), and
the other server (`deliver`, `give_up`).

Adversary: semi-honest; the two servers do not collude, and the aggregator with neither. **Leaks** to a server: who counts, and how much.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors import message
from actors.observing.notes import noted
from protocols.authority.membership import AGGREGATOR, OWNER, Membership
from protocols.authority.presence import Presence, check_presence, while_present
from protocols.authority.rights import Claim
from protocols.authority.seats import Seats
from protocols.errors import AggregationError, WorkerLost
from protocols.link.twins import Twins
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.keystream import derive
from protocols.quantisation import Vector
from protocols.secure_aggregation.shared_sums import DIGEST_WORDS, Half, SumTerms, agreed
from protocols.workers.linked import Linked

Words = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, repr=False)
class Session:
    """What an aggregator asks both servers for.

    Args:
        handle: what owners and workers call it, 16 bytes.
        digest: of the aggregator's right to it, at this server.
        key: of the tickets, 32 bytes.
        terms: what is summed.
        equals: whether the aggregator takes the cluster for one of three equals; it says which two are the servers. Server 0 is the one
            that gets vectors.
    """

    handle: bytes
    digest: bytes
    key: bytes
    terms: SumTerms
    equals: bool


class _Sum:
    """A session under way."""

    def __init__(self, session: Session, claim: Claim, seats: Seats, twins: Twins) -> None:
        self.session, self.claim, self.seats, self.twins = session, claim, seats, twins
        self.half = Half(session.terms, session.key)
        self.openings = 0


class SumServer(Linked):
    """Sums over two servers; see `shared_sums`.

    Args:
        cluster: whose server it is.
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, cluster: Membership | None = None, patience: float = 30.0) -> None:
        super().__init__(patience, "sums")
        self._cluster = cluster or Membership()
        self._sums: dict[bytes, _Sum] = {}

    async def stopped(self) -> None:
        """End what runs in the background."""
        for one in self._sums.values():
            one.twins.close(WorkerLost("the server stops"))
        await super().stopped()

    # The aggregator's messages.

    @message(reentrant=True, by=AGGREGATOR)
    async def begin(self, session: Session, presence: Presence) -> None:
        """Begin a session. It ends when the aggregator's presence does.

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
        while_present(self._background, self.system, presence, lambda: self._gone(session.handle))
        one = self._sums[session.handle] = _Sum(session, claim, seats, self._twinned(session.handle, Party(party), peer))
        one.twins.watch(self.system, peer)

    def _gone(self, handle: bytes) -> None:
        self._sums.pop(handle).twins.close(WorkerLost("the aggregator is gone"))

    @message(reentrant=True, by=AGGREGATOR)
    async def admit(self, handle: bytes, right: bytes, ticket: bytes, factor: int) -> bool:
        """Make a part count; False if it is not here."""
        return self._owned(handle, right).half.admit(ticket, factor)

    @message(reentrant=True, by=AGGREGATOR)
    async def expel(self, handle: bytes, right: bytes, ticket: bytes) -> None:
        """Take a seed back, whose vector is not at the other server."""
        self._owned(handle, right).half.expel(ticket)

    @message(reentrant=True, by=AGGREGATOR)
    async def discard(self, handle: bytes, right: bytes) -> None:
        """Forget what was admitted: the round has failed."""
        self._owned(handle, right).half.discard()

    @message(reentrant=True, by=AGGREGATOR)
    async def open(self, handle: bytes, right: bytes) -> Words:
        """Return this server's half of the sum, after both have found that they sum the same.

        Raises:
            AggregationError: they do not, or too few count.
            WorkerLost: the other server gave up, went away, or was not asked in time.
        """
        one = self._owned(handle, right)
        noted(opening=one.openings, cohort=one.half.terms.cohort)
        channel = derive(handle, "opening", one.openings)
        one.openings += 1
        protocol = agreed(one.twins.me, one.half)
        digest, _ = await one.twins.compute(protocol, channel, None, words=DIGEST_WORDS, dealt=0, who=handle)
        if one.half.digest() != digest:
            raise AggregationError("another vector was admitted while the servers compared what they sum: nothing is opened")
        return await asyncio.to_thread(one.half.opened)

    def _owned(self, handle: bytes, right: bytes) -> _Sum:
        one = self._of(handle)
        one.claim.check(right, "this session")
        return one

    # The owners' messages.

    @message(reentrant=True, by=OWNER)
    async def hold_vector(self, handle: bytes, ticket: bytes, vector: Words) -> None:
        """Take the half that is a vector."""
        self._of(handle).half.hold(ticket, vector)

    @message(reentrant=True, by=OWNER)
    async def hold_seed(self, handle: bytes, ticket: bytes, seed: bytes) -> None:
        """Take the half that is a seed."""
        self._of(handle).half.hold(ticket, seed)

    def _of(self, handle: bytes) -> _Sum:
        if handle not in self._sums:
            raise AggregationError("no such session here: the server was restarted, or the aggregator is gone")
        return self._sums[handle]

    # The other server's messages.

    def _linked(self, name: bytes, what: str) -> Twins | None:
        one = self._sums.get(name)
        if one is None:
            return None
        self._cluster.require(one.seats.servers[one.twins.me.other], what)
        return one.twins


async def hand_in(vectors: SumServer, seeds: SumServer, handle: bytes, ticket: bytes, halves: tuple[Vector, bytes]) -> None:
    """Hand in an owner's halves, to each server its own."""
    vector, seed = halves
    await asyncio.gather(seeds.hold_seed(handle, ticket, seed), vectors.hold_vector(handle, ticket, vector))
