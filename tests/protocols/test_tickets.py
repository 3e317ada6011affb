"""One-time use: tickets, the servers' stock, the provider's pool and its account of requests."""

import asyncio

import msgspec
import numpy as np
import pytest

from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import Busy, QuotaSpent, TicketRefused, WorkerLost
from protocols.mpc.engine.segments import Segment
from protocols.mpc.parties.material import Field, Layout, Material
from protocols.serving.pool import Chunk, Pool
from protocols.serving.requests import RequestPart, Requests
from protocols.serving.stock import Stock
from protocols.serving.supply import ComingPiece, Supply
from protocols.serving.ticket import Ticket, check, identifier, sign

KEYS = (b"a" * 32, b"b" * 32)
SECRET = new_secret()
RIGHTS = (right_at(SECRET, 0), right_at(SECRET, 1))
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))


def ticket(start: int = 0, stop: int = 1, chunk: bytes = b"chunk", request: bytes = b"request", part: int = 0) -> Ticket:
    return Ticket(b"model", request, part, "logits", chunk, start, stop, holders=HOLDERS)


class TestTicket:
    def test_each_server_accepts_its_own_tag_from_the_client_it_was_made_for(self):
        signed = sign(ticket(), KEYS)
        assert check(signed, KEYS[0], 0, RIGHTS[0]) == check(signed, KEYS[1], 1, RIGHTS[1]) == ticket()

    @pytest.mark.parametrize(
        "change",
        [
            {"stop": 2},
            {"start": 1},
            {"part": 1},
            {"reveal": "label"},
            {"chunk": b"other"},
            {"model": b"m"},
            {"request": b"another"},
            {"client": "alice"},
            {"holders": HOLDERS[::-1]},
            {"holders": (HOLDERS[0], digest_at(new_secret(), 1))},
        ],
    )
    def test_a_changed_ticket_is_refused(self, change):
        signed = msgspec.structs.replace(sign(ticket(), KEYS), ticket=msgspec.structs.replace(ticket(), **change))
        with pytest.raises(TicketRefused, match="not issued by the crypto provider"):
            check(signed, KEYS[0], 0, RIGHTS[0])

    def test_the_tag_for_one_server_is_no_tag_for_the_other(self):
        for right in RIGHTS:
            with pytest.raises(TicketRefused, match="not issued by the crypto provider"):
                check(sign(ticket(), KEYS), KEYS[0], 1, right)

    @pytest.mark.parametrize("party", [0, 1])
    def test_whoever_shows_another_right_is_refused(self, party):
        """Also the other server, which has been shown the ticket and the right there, and whoever knows what the ticket says."""
        wrong = (RIGHTS[1 - party], right_at(new_secret(), party), right_at(SECRET, 2), HOLDERS[party], RIGHTS[party][:-1], SECRET, b"")
        for right in wrong:
            with pytest.raises(TicketRefused, match="issued to another client"):
                check(sign(ticket(), KEYS), KEYS[party], party, right)

    def test_a_ticket_for_nobody_is_for_nobody(self):
        nobody = msgspec.structs.replace(ticket(), holders=(b"", b""))
        for right in (*RIGHTS, b""):
            with pytest.raises(TicketRefused, match="issued to another client"):
                check(sign(nobody, KEYS), KEYS[0], 0, right)


PART = Segment(range(1), Layout([(0, Field("lambda", 2), None)]))


async def at_once(work):
    return work()


async def put(stock: Stock, examples: int) -> None:
    fields = {(0, "lambda"): np.arange(examples * 2, dtype=np.uint64).reshape(examples, 2)}
    supply = Supply(PART.size(examples), run=at_once, patience=1.0)
    pieces = supply.extend([ComingPiece(PART, examples, lambda dealt: Material(fields, 0, examples))])
    stock.add(b"chunk", "logits", supply, examples)
    await supply.feed(pieces)


async def stocked(examples: int) -> Stock:
    stock = Stock(1 << 20)
    await put(stock, examples)
    return stock


class TestStock:
    async def test_a_range_leaves_once(self):
        stock = await stocked(4)
        assert stock.take(ticket(1, 3))(0, "lambda").tolist() == [[2, 3], [4, 5]]
        assert stock.examples == 2
        for start, stop in ((1, 3), (0, 2), (2, 4), (0, 4)):
            with pytest.raises(TicketRefused, match="used before"):
                stock.take(ticket(start, stop))
        assert stock.take(ticket(3, 4)).examples == 1

    @pytest.mark.parametrize(("start", "stop"), [(0, 5), (-1, 1), (2, 2), (3, 1)])
    async def test_a_range_that_does_not_exist_is_refused(self, start, stop):
        with pytest.raises(TicketRefused):
            (await stocked(4)).take(ticket(start, stop))

    async def test_a_chunk_of_another_life_of_the_server_is_refused(self):
        with pytest.raises(TicketRefused, match="another run of the server"):
            Stock(1 << 20).take(ticket())

    @pytest.mark.parametrize("used", [False, True])
    async def test_a_chunk_is_dealt_once(self, used):
        stock = await stocked(2)
        if used:
            stock.take(ticket(0, 2))
        with pytest.raises(TicketRefused, match="dealt before"):
            await put(stock, 2)
        assert stock.examples == (0 if used else 2)

    async def test_what_was_withdrawn_never_leaves_and_what_left_cannot_be_withdrawn(self):
        stock = await stocked(2)
        assert stock.withdraw(ticket(0, 1))
        with pytest.raises(TicketRefused):
            stock.take(ticket(0, 1))
        stock.take(ticket(1, 2))
        assert not stock.withdraw(ticket(1, 2))
        assert stock.examples == 0


class Dealer:
    """Deals at once, or when told to; counts."""

    def __init__(self) -> None:
        self.dealt = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: Exception | None = None

    async def __call__(self, examples: int) -> Chunk:
        await self.gate.wait()
        if self.broken:
            raise self.broken
        self.dealt += examples
        return Chunk(identifier(), np.zeros((examples, 1), np.uint64))


async def drained(pool: Pool) -> None:
    """Takes what is there."""
    while pool.available:
        await pool.take(4)
    await idle()


async def idle() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def pool():
    dealer = Dealer()
    pool = Pool(dealer, chunk=4, capacity=16, ahead=4)
    task = asyncio.create_task(pool.run())
    await idle()
    yield pool, dealer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class TestPool:
    async def test_deals_ahead_and_no_more(self, pool):
        pool, dealer = pool
        assert (pool.available, dealer.dealt) == (4, 4)

    async def test_grants_never_overlap(self, pool):
        pool, _ = pool
        seen = set()
        for _ in range(12):
            for grant in await pool.take(3):
                for example in range(grant.start, grant.stop):
                    assert (grant.chunk, example) not in seen
                    seen.add((grant.chunk, example))
                await pool.settle(grant.stop - grant.start)
        assert len(seen) > 24

    async def test_never_more_than_the_capacity_is_dealt_and_not_settled(self, pool):
        pool, dealer = pool
        taken = 0
        while taken < 16:
            taken += sum(grant.stop - grant.start for grant in await pool.take(16 - taken))
        await idle()
        assert dealer.dealt == 16
        waiting = asyncio.create_task(pool.take(1))
        await idle()
        assert not waiting.done()
        await pool.settle(4)
        assert (await waiting)[0].stop == 1

    async def test_first_come_first_served(self, pool):
        pool, dealer = pool
        await pool.take(4)
        await idle()
        dealer.gate.clear()
        await drained(pool)
        await pool.settle(8)
        order = []

        async def ask(name: str) -> None:
            await pool.take(1)
            order.append(name)

        tasks = [asyncio.create_task(ask(name)) for name in "abc"]
        await idle()
        dealer.gate.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]

    async def test_a_lost_server_reaches_everybody_who_waits(self, pool):
        pool, dealer = pool
        dealer.broken = WorkerLost("gone")
        await pool.take(4)
        await drained(pool)
        with pytest.raises(WorkerLost, match="gone"):
            await pool.take(1)

    async def test_rest_stops_dealing_ahead_but_serves_who_waits(self, pool):
        pool, dealer = pool
        await pool.rest()
        await pool.take(4)
        await idle()
        assert dealer.dealt in (4, 8, 12)
        assert (await pool.take(2))[0].stop > 0


class TestRequests:
    def answered(self, request):
        request.parts = [RequestPart(ticket(), {0: True, 1: True})]
        request.granted = request.examples

    async def test_no_more_than_allowed(self):
        requests = Requests("mnist")
        with pytest.raises(QuotaSpent, match="0 requests"):
            requests.open(1, "logits")
        requests.allow(2)
        first, second = requests.open(1, "logits"), requests.open(1, "logits")
        with pytest.raises(Busy, match=r"retry in 1 s: .*'mnist' is promised"):  # neither has been answered
            requests.open(1, "logits")
        self.answered(first)
        await requests.close(first)
        assert (requests.answered, requests.left) == (1, 0)
        self.answered(second)
        with pytest.raises(QuotaSpent, match=r"'mnist' .*2 requests"):
            requests.open(1, "logits")

    async def test_a_request_without_an_answer_does_not_count(self):
        requests = Requests("mnist")
        requests.allow(1)
        request = requests.open(1, "logits")
        request.parts = [RequestPart(ticket(), {0: False, 1: False})]
        await requests.close(request)
        assert (requests.answered, requests.left) == (0, 1)

    @pytest.mark.parametrize("honest", [0, 1])
    async def test_no_server_alone_can_say_that_an_answer_was_none(self, honest):
        requests = Requests("mnist")
        requests.allow(1)
        request = requests.open(1, "logits")
        request.parts = [RequestPart(ticket())]
        request.parts[0].end(honest, True)
        request.parts[0].end(1 - honest, False)
        request.parts[0].end(honest, False)  # nor take it back
        await requests.close(request)
        assert (requests.answered, requests.left) == (1, 0)

    async def test_a_request_with_one_answered_part_counts(self):
        requests = Requests("mnist")
        requests.allow(1)
        request = requests.open(2, "logits")
        request.parts = [RequestPart(ticket(), {0: True, 1: False}), RequestPart(ticket(part=1), {0: True, 1: True})]
        await requests.close(request)
        assert requests.left == 0
