"""Event loops that are busy for longer than a ping waits are not taken for dead, by themselves or by others; what is dead is found."""

import asyncio
import contextlib
import threading

import pytest
from websockets.asyncio.client import connect
from websockets.frames import Opcode

from actors import Actor, ActorSystem, ConnectionLost, message
from actors.connection import opening, websocket
from actors.connection.wire import Packet, encode, hello
from actors.guard import awake
from actors.guard.awake import Awake
from actors.messages.frames import PROTOCOL, VERSION, Hello


class Echo(Actor):
    @message
    def ping(self) -> str:
        return "pong"


def busy(seconds):
    """What keeps a loop busy: a computation that does not give way."""
    threading.Event().wait(seconds)


@pytest.fixture
def impatient(monkeypatch):
    """Pings each 20 ms, answered within 60 ms: 1000 times as fast as they are."""
    monkeypatch.setattr(opening, "PING_EVERY", 0.02)
    monkeypatch.setattr(opening, "PING_WITHIN", 0.06)


# Deadlines.


async def test_a_deadline_passes_in_a_loop_that_is_awake():
    with pytest.raises(TimeoutError):
        async with Awake(0.01):
            await asyncio.Event().wait()


async def test_time_in_which_the_loop_was_busy_does_not_count():
    arrived = asyncio.get_running_loop().create_future()
    threading.Timer(0.03, arrived.get_loop().call_soon_threadsafe, [arrived.set_result, 7]).start()
    async with Awake(0.02) as waiting:
        asyncio.get_running_loop().call_soon(busy, 0.1)
        assert await arrived == 7
    assert waiting.spent <= 0.02


async def test_a_loop_that_is_always_late_has_deadlines_too(monkeypatch):
    monkeypatch.setattr(awake, "TICK", 0.001)
    loop = asyncio.get_running_loop()

    def again():
        busy(0.005)
        nonlocal handle
        handle = loop.call_soon(again)

    handle = loop.call_soon(again)
    with pytest.raises(TimeoutError):
        async with Awake(0.003):
            await asyncio.Event().wait()
    handle.cancel()


async def test_a_block_that_ends_in_time_leaves_no_timer():
    async with Awake(3600.0) as waiting:
        await asyncio.sleep(0)
    assert waiting._timer.cancelled()
    assert waiting.spent < 1.0


async def test_cancelling_goes_through():
    async def waits():
        async with Awake(3600.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Connections.


@contextlib.contextmanager
def elsewhere(**options):
    """A system with a loop and a thread of its own; gives its address."""
    loop, started, address = asyncio.new_event_loop(), threading.Event(), []

    async def live():
        async with ActorSystem(listen="ws://127.0.0.1:0", for_user=False, **options) as system:
            await system.spawn(Echo, name="echo")
            address.append(system.address)
            ending.append(asyncio.Event())
            started.set()
            await ending[0].wait()

    ending: list[asyncio.Event] = []
    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    started.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(ending[0].set)
        thread.join()
        loop.close()


async def lost_after(seconds, times, **options):
    """Why a system whose loop was busy for so long, with pings that go both ways, has lost its connection; None if it has not."""
    with elsewhere() as address:
        async with ActorSystem(**options) as system:
            echo = await system.connect(f"{address}/echo", Echo)
            watching = asyncio.create_task(system.watch(echo))
            for _ in range(times):
                await asyncio.sleep(0.03)
                if watching.done():
                    break
                busy(seconds)
            with contextlib.suppress(ConnectionLost):
                assert await echo.ping() == "pong"  # over a new connection, if the first is gone
            await asyncio.sleep(0)
            if watching.done():
                return watching.result().reason
            watching.cancel()
            return None


async def test_a_system_that_says_it_may_be_busy_keeps_its_connections(impatient):
    assert await lost_after(0.3, 3, busy=600) is None


async def test_one_that_does_not_say_so_learns_what_happened(impatient):
    reason = await lost_after(0.3, 20)
    assert reason is not None
    assert "its event loop was busy; run what takes long with asyncio.to_thread" in reason


@pytest.mark.parametrize("claimed", [0, -5, 10**9])
async def test_whoever_answers_no_ping_is_found(impatient, monkeypatch, claimed):
    """However long it has said that it may be busy: there is a bound for that."""
    monkeypatch.setattr(websocket, "MOST_BUSY", 0.05)
    with elsewhere() as address:
        async with connect(address, compression=None, ping_interval=None) as socket:
            send = socket.protocol.send_frame
            monkeypatch.setattr(socket.protocol, "send_frame", lambda frame: frame.opcode is Opcode.PONG or send(frame))
            await socket.send(encode(hello(1 << 20, b"", claimed)).header)
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (1011, "keepalive ping timeout")


@pytest.mark.parametrize("said", ["a while", 1.5, None, True])
async def test_a_greeting_that_does_not_say_for_how_long_in_seconds_is_refused(said):
    with elsewhere() as address:
        async with connect(address, compression=None, ping_interval=None) as socket:
            await socket.send(encode(Packet(Hello(PROTOCOL, VERSION, 1 << 20, b"", said), [])).header)
            await socket.wait_closed()
            assert socket.close_code == 1002
