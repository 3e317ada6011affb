"""How pieces of randomness get to the servers: one is computed while the one before is on its way, and each server takes what it has to."""

import asyncio
import contextlib

import numpy as np
import pytest

from protocols.errors import TicketRefused, WorkerLost
from protocols.link.threads import Threads
from protocols.mpc.engine.segments import Segment
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.material import Expansion, Field, Layout
from protocols.serving.supply import ComingPiece, Supply
from protocols.workers.dealing import Ahead
from protocols.workers.supplied import Supplied

PART = Segment(range(1), Layout([(0, Field("gamma", 3, dealt=True), None)]))
WORDS = np.arange(3, dtype=np.uint64)


@pytest.fixture
def threads():
    with contextlib.closing(Threads("test", 1)) as threads:
        yield threads


async def test_a_piece_is_computed_while_the_one_before_is_on_its_way_and_none_overtakes_it(threads):
    log, gate, computed = [], asyncio.Event(), [asyncio.Event() for _ in range(3)]
    loop = asyncio.get_running_loop()

    def compute(number):
        loop.call_soon_threadsafe(computed[number].set)
        return np.full(1, number, np.uint64)

    async def send(words):
        log.append(f"send {words[0]}")
        await gate.wait()
        log.append(f"sent {words[0]}")

    async def deal():
        with contextlib.closing(Ahead(threads)) as ahead:
            for number in range(3):
                await ahead.deal(lambda number=number: compute(number), send)
            await ahead.sent()

    dealing = asyncio.create_task(deal())
    await asyncio.gather(*(one.wait() for one in computed[:2]))
    assert log == ["send 0"]
    assert not computed[2].is_set()  # no more than one is ready, and one is on its way
    gate.set()
    await dealing
    assert log == [f"{what} {number}" for number in range(3) for what in ("send", "sent")]


async def test_what_a_server_did_not_take_is_told_and_the_rest_is_given_up(threads):
    began, ended = asyncio.Event(), []

    async def refused(words):
        raise WorkerLost("gone")

    async def endless(words):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    ahead = Ahead(threads)
    await ahead.deal(lambda: WORDS, refused)
    with pytest.raises(WorkerLost, match="gone"):
        await ahead.deal(lambda: WORDS, refused)
    with contextlib.closing(Ahead(threads)) as other:
        await other.deal(lambda: WORDS, endless)
        await began.wait()
    await asyncio.sleep(0)
    assert ended == [True]


class Server(Supplied):
    """A server with one supply of two pieces."""

    def __init__(self, party: int) -> None:
        super().__init__(1.0, "test")
        self.me = Party(party)
        self.supply = Supply(2 * PART.size(1), run=self._ahead.run, patience=1.0, eager=True)

    def extend(self, count: int) -> range:
        expansion = Expansion(bytes(16))
        return self.supply.extend([ComingPiece(PART, 1, lambda dealt: expansion.material(PART.layout, 1, dealt))] * count)

    def _supply(self, name, chunk, what):
        return self.me, self.supply

    def _linked(self, name, what):
        return None


async def test_server_0_makes_its_own_and_is_sent_nothing():
    server = Server(0)
    numbers = server.extend(2)
    for call in (
        server._supplied(server.me, server.supply, numbers, WORDS),
        server.room(b"", b"", 0),
        server.segment(b"", b"", 0, [], True),
    ):
        with pytest.raises(TicketRefused, match="server 0 makes its half of the randomness by itself"):
            await call
    await server._supplied(server.me, server.supply, numbers, None)
    first, second = [await server.supply.take(number) for number in numbers]
    assert not (first(0, "gamma") == second(0, "gamma")).any()
    await server.stopped()


async def test_server_1_is_sent_one_piece_with_the_news_of_it_and_several_one_by_one():
    server = Server(1)
    await server._supplied(server.me, server.supply, server.extend(1), WORDS)
    np.testing.assert_array_equal((await server.supply.take(0))(0, "gamma"), [WORDS])
    numbers = server.extend(2)
    with pytest.raises(TicketRefused, match="randomness in 2 pieces came in one message"):
        await server._supplied(server.me, server.supply, numbers, WORDS)
    await server._supplied(server.me, server.supply, numbers, None)
    for number in numbers:
        await server.room(b"", b"", number)
        await server.segment(b"", b"", number, [WORDS + np.uint64(number)], True)
        np.testing.assert_array_equal((await server.supply.take(number))(0, "gamma"), [WORDS + np.uint64(number)])
    with pytest.raises(TicketRefused, match="piece 3 is announced after 3 of 3"):
        await server.room(b"", b"", 3)
    await server.stopped()
