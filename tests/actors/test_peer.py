"""Two ends of a connection without a connection: their bytes are carried by the test, in pieces of any size."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from actors import Actor, ActorSystem, CallTimeout, ConnectionLost, message
from actors.connection.dialed import Dialed
from actors.connection.peer import Peer
from actors.connection.wire import FrameReader, encode, hello
from actors.messages.schema import reference_type

LIMIT = 1 << 22


class Worker(Actor):
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()
        WORKERS.append(self)

    @message
    async def see(self, n: int) -> int:
        self.seen.append(n)
        await asyncio.sleep(0)
        return n

    @message
    async def double(self, x: np.ndarray) -> np.ndarray:
        return x * 2

    @message(reentrant=True)
    async def hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    @message
    async def ask(self, other: Worker, n: int) -> int:
        return await other.see(n)


WORKERS: list[Worker] = []


class Carrier:
    """Carries the bytes of two peers to each other whenever the loop is free, or holds them back."""

    def __init__(self, first, second, piece):
        self.peers = (Peer(first, self._write(0), address="ws://b:1", label="b"), Peer(second, self._write(1), address="", label="a"))
        self.readers = (FrameReader(LIMIT), FrameReader(LIMIT))
        self.sent = [bytearray(), bytearray()]
        self.piece = piece
        self.held = False
        self.scheduled = False

    def _write(self, side):
        def write(encoded, written=None):
            self.sent[side] += encoded.joined().header
            if written is not None:
                written.set_result(None)
            self.schedule()

        return write

    def schedule(self):
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self.carry)

    def carry(self):
        self.scheduled = False
        for side in (0, 1):
            while self.sent[side] and not self.held:
                piece = bytes(self.sent[side][: self.piece])
                del self.sent[side][: self.piece]
                for packet in self.readers[1 - side].feed(piece):
                    self.peers[1 - side].receive(packet)


@contextlib.asynccontextmanager
async def linked(piece=1 << 20, **options):
    async with ActorSystem(listen="ws://127.0.0.1:0", **options) as there, ActorSystem() as here:
        carrier = Carrier(here, there, piece)
        for side, peer in enumerate(carrier.peers):
            await peer.start()
            carrier._write(side)(encode(hello(LIMIT)))
        await carrier.peers[0].greeted
        await there.spawn(Worker, name="worker")
        yield carrier, reference_type(Worker)(carrier.peers[0], "worker"), here
        for peer in carrier.peers:
            await peer.lost("the test is over", orderly=True)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
async def test_calls_and_arrays_in_pieces_of_any_size(piece):
    async with linked(piece) as (_, worker, here):
        assert await worker.see(3) == 3
        np.testing.assert_array_equal(await worker.double(np.arange(1000)), np.arange(0, 2000, 2))
        mine = await here.spawn(Worker)
        assert await worker.ask(mine, 5) == 5


async def test_messages_wait_for_their_window_in_order():
    async with linked(mailbox=2) as (_, worker, _):
        actor = WORKERS[-1]
        one_way = worker.with_options(one_way=True)
        sends = [asyncio.create_task((one_way if n % 3 else worker).see(n)) for n in range(50)]
        await asyncio.gather(*sends)
        assert await worker.see(50) == 50
        assert actor.seen == list(range(51))


async def test_a_call_that_waits_for_its_window_can_be_given_up():
    async with linked(mailbox=1) as (carrier, worker, _):
        hanging = asyncio.create_task(worker.hang())
        waiting = [asyncio.create_task(worker.see(n)) for n in range(3)]
        await WORKERS[-1].hanging.wait()
        waiting[1].cancel()
        hanging.cancel()
        assert await asyncio.gather(*waiting, return_exceptions=True) == [0, ANY_CANCELLED, 2]
        assert WORKERS[-1].cancelled.is_set()
        assert WORKERS[-1].seen == [0, 2]
        assert carrier.peers[0].outgoing._calls == {}
        assert carrier.peers[1].incoming._running == {}


class _AnyCancelled:
    def __eq__(self, other):
        return isinstance(other, asyncio.CancelledError)

    __hash__ = None


ANY_CANCELLED = _AnyCancelled()


async def test_an_answer_to_a_call_that_was_given_up_gives_its_credit_back():
    async with linked(mailbox=1) as (carrier, worker, _):
        assert await worker.see(1) == 1
        carrier.held = True
        with pytest.raises(CallTimeout):
            await worker.with_options(timeout=0.01).see(2)
        carrier.held = False
        carrier.schedule()
        assert await worker.see(3) == 3
        assert WORKERS[-1].seen in ([1, 2, 3], [1, 3])
        assert carrier.peers[0].outgoing._calls == {}


async def test_everything_fails_when_the_connection_is_lost():
    async with linked(mailbox=1) as (carrier, worker, _):
        tasks = [asyncio.create_task(call) for call in (worker.hang(), worker.see(1), worker.with_options(one_way=True).see(2))]
        await WORKERS[-1].hanging.wait()
        for peer in carrier.peers:
            await peer.lost("cut", orderly=True)
        for task in tasks:
            with pytest.raises(ConnectionLost, match=r"the connection to b was lost at .*: cut"):
                await task
        with pytest.raises(ConnectionLost):
            await worker.see(3)
        await WORKERS[-1].cancelled.wait()


async def test_the_deadline_holds_while_connecting():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with ActorSystem(timeout=0.05) as system:
        with pytest.raises(CallTimeout, match=r"did not say within 0.05 s whether 'worker' is there"):
            await system.connect(f"{address}/worker", Worker)
        worker = reference_type(Worker)(system.reference(address, "worker")._transport, "worker")
        with pytest.raises(CallTimeout, match=r"did not answer within 0.05 s"):
            await worker.see(1)
        with pytest.raises(CallTimeout, match=r"was not accepted within 0.05 s"):
            await worker.with_options(one_way=True).see(1)
        assert isinstance(worker._transport, Dialed)
    server.close()
    await server.wait_closed()
