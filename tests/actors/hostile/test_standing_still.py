"""Whoever stands still is told from whoever sits behind a slow link."""

import asyncio
import contextlib
import socket

import numpy as np
import numpy.typing as npt
import pytest

from actors import Actor, ActorSystem, message
from actors.connection import opening
from actors.guard.stillness import Stillness


class Taker(Actor):
    @message
    async def take(self, array: npt.NDArray[np.uint8]) -> int:
        return len(array)

    @message
    async def give(self, size: int) -> npt.NDArray[np.uint8]:
        return np.ones(size, np.uint8)


@pytest.fixture
def impatient(monkeypatch):
    """Pings each 20 ms, for which nothing may stand still for 0.3 s."""
    monkeypatch.setattr(opening, "PING_EVERY", 0.02)
    monkeypatch.setattr(opening, "PING_WITHIN", 0.3)


class Relay:
    """A link between two systems: slow, or one that loses everything and says nothing."""

    def __init__(self, port: int, rate: int) -> None:
        self.port, self.rate, self.broken = port, rate, False
        self.tasks: set[asyncio.Task] = set()

    async def pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(16 << 10):
                await asyncio.sleep(len(data) / self.rate)
                while self.broken:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
            writer.close()

    async def joined(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.port, limit=16 << 10)
        for end in (writer, ours):  # little is under way in buffers
            end.transport.set_write_buffer_limits(16 << 10)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 16 << 10)
        try:
            await asyncio.gather(self.pump(reader, ours), self.pump(theirs, writer))
        finally:
            for end in (writer, ours):
                end.transport.abort()


@contextlib.asynccontextmanager
async def behind(rate):
    async with ActorSystem(listen="ws://127.0.0.1:0", for_user=False) as there, ActorSystem() as here:
        await there.spawn(Taker, name="taker")
        relay = Relay(int(there.address.rpartition(":")[2]), rate)
        server = await asyncio.start_server(relay.joined, "127.0.0.1", 0, limit=16 << 10)
        try:
            yield await here.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/taker", Taker), relay, here
        finally:
            server.close()
            for task in relay.tasks:
                task.cancel()
            await asyncio.gather(*relay.tasks, return_exceptions=True)


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_large_message_on_a_slow_link_is_no_standing_still(impatient, way):
    """It is under way for several times as long as a ping may wait."""
    async with behind(rate=2 << 20) as (taker, _, _):
        size = 2 << 20
        if way == "there":
            assert await taker.take(np.ones(size, np.uint8)) == size
        else:
            assert len(await taker.give(size)) == size


async def test_a_link_that_loses_everything_is_found_also_while_much_is_sent(impatient):
    async with behind(rate=8 << 20) as (taker, relay, here):
        lost = asyncio.create_task(here.watch(taker))
        await taker.take(np.ones(10, np.uint8))
        sending = asyncio.create_task(taker.take(np.ones(32 << 20, np.uint8)))
        await asyncio.sleep(0.1)
        relay.broken = True
        async with asyncio.timeout(5):
            assert "did not answer a ping" in (await lost).reason
        assert isinstance((await asyncio.gather(sending, return_exceptions=True))[0], Exception)


async def test_acknowledged_bytes_are_a_sign_of_life_until_the_ping_is_there():
    """The machine of a process that is frozen takes what is sent to it, as long as it has room."""
    reached, taken = asyncio.get_running_loop().create_future(), []
    server = await asyncio.start_server(lambda reader, writer: (taken.append(writer), reached.set_result(None)), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reached
    taken[0].transport.pause_reading()
    still = Stillness(writer.transport, 1.0)
    for _ in range(3):
        writer.write(bytes(1000))
        await asyncio.sleep(0.02)
        still.look(0.25, (0, 0), held=False)
    assert still.left == 0.25
    taken[0].write(b"alive")
    await asyncio.sleep(0.02)
    still.look(0.25, (0, 0), held=False)
    assert still.left == 1.0
    writer.close()
    taken[0].close()
    server.close()
