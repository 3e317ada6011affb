"""The link of sum servers: both compare what they sum, and who waits hears at once when the other gives up or is gone."""

import asyncio
import contextlib
import secrets

import numpy as np
import pytest

from inner_workers import inner_workers
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import AggregationError, WorkerLost
from protocols.secure_aggregation.shared_sums import SumTerms, halve, new_ticket
from protocols.workers.sum_server import Session, SumServer, hand_in


class Aggregator:
    """A session with both servers, of sums of at least two vectors of four numbers."""

    def __init__(self, inner, servers, session, rights):
        self.inner, self.servers, self.session, self.rights = inner, servers, session, rights

    async def hand_in(self, vector, *, at=(0, 1)):
        """Hand a vector in, and have it admitted at these servers."""
        ticket = new_ticket(self.session.key)
        await hand_in(*self.servers, self.session.handle, ticket, halve(vector))
        for place in at:
            assert await self.servers[place].admit(self.session.handle, self.rights[place], ticket, 1)

    def open(self, place):
        return asyncio.create_task(self.servers[place].open(self.session.handle, self.rights[place]))

    async def waits(self, place):
        """Wait until this server has sent what it sums, and waits for the other."""
        inboxes = self.inner[1 - place].actor("sums")._sums[self.session.handle].twins.inboxes
        async with asyncio.timeout(30):
            while not len(inboxes):
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def aggregating():
    async with inner_workers() as (inner, cluster):
        await cluster.enrol()
        servers = [await cluster.links.system.connect(f"{worker.url}/sums", SumServer) for worker in cluster.workers[:2]]
        handle, key, secret = secrets.token_bytes(16), secrets.token_bytes(32), new_secret()
        sessions = [Session(handle, digest_at(secret, place), key, SumTerms(4, 4, 64, 2), False) for place in (0, 1)]
        for server, session in zip(servers, sessions, strict=True):
            await server.begin(session, cluster.presence)
        yield Aggregator(inner, servers, sessions[0], [right_at(secret, place) for place in (0, 1)])


@pytest.mark.parametrize("first", [0, 1])
async def test_a_sum_is_opened_whichever_server_is_asked_first_and_the_next_one_too(first):
    async with aggregating() as aggregator:
        for opening in (1, 2):
            for number in (1, 2, 3):
                await aggregator.hand_in(np.full(4, number * opening, np.uint64))
            begun = aggregator.open(first)
            await aggregator.waits(first)
            total = sum(await asyncio.gather(begun, aggregator.open(1 - first)))
            np.testing.assert_array_equal(total, np.full(4, 6 * opening))


async def test_servers_that_sum_different_vectors_open_nothing_and_both_say_so():
    async with aggregating() as aggregator:
        for _ in range(2):
            await aggregator.hand_in(np.ones(4, np.uint64))
        await aggregator.hand_in(np.ones(4, np.uint64), at=(0,))
        for half in await asyncio.gather(aggregator.open(0), aggregator.open(1), return_exceptions=True):
            assert isinstance(half, AggregationError)
            assert "do not sum the same vectors" in str(half)


async def test_who_waits_hears_at_once_when_the_other_server_opens_nothing():
    """Not when the patience of 30 s is over: that would be another error."""
    async with aggregating() as aggregator:
        await aggregator.hand_in(np.ones(4, np.uint64))
        await aggregator.hand_in(np.ones(4, np.uint64), at=(0,))  # the other server has too few
        begun = aggregator.open(0)
        await aggregator.waits(0)
        with pytest.raises(AggregationError, match="1 vectors have been admitted, 2 are needed"):
            await aggregator.open(1)
        with pytest.raises(WorkerLost, match="gave this computation up"):
            await begun


async def test_who_waits_hears_at_once_when_the_other_server_is_gone():
    async with aggregating() as aggregator:
        for _ in range(2):
            await aggregator.hand_in(np.ones(4, np.uint64))
        begun = aggregator.open(0)
        await aggregator.waits(0)
        other = aggregator.inner[1].system
        await other.stop(other.reference("", "sums"))
        with pytest.raises(WorkerLost, match="the other server is gone"):
            await begun


async def test_what_is_admitted_while_servers_compare_is_in_no_sum_that_is_opened():
    async with aggregating() as aggregator:
        for _ in range(2):
            await aggregator.hand_in(np.ones(4, np.uint64))
        begun = aggregator.open(0)
        await aggregator.waits(0)
        await aggregator.hand_in(np.ones(4, np.uint64), at=(0,))
        await aggregator.open(1)
        with pytest.raises(AggregationError, match="another vector was admitted"):
            await begun
