"""How many may be connected: counted without sockets, over sockets, and when there are no descriptors left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from actors import Actor, ActorSystem, ConnectFailed, message
from actors.guard import door as door_module
from actors.guard.door import TOLD, Door
from actors.guard.limited_log import LimitedLog


class Greeter(Actor):
    @message
    async def greet(self) -> str:
        return "hello"


@pytest.fixture
def door():
    return Door(in_all=5, of_one=3, lines=LimitedLog())


def let_in(door, numbers, host="10.0.0.1", certificate=None):
    return [door.enter(number, host) and not door.refusal(number, host, certificate) for number in numbers]


def test_one_host_takes_no_more_than_its_share(door):
    assert let_in(door, range(4)) == [True, True, True, False]
    assert let_in(door, range(10, 13), host="10.0.0.2") == [True, True, False]
    door.leave(3)
    door.leave(0)
    assert let_in(door, [20, 21], host="10.0.0.3") == [True, False]


def test_certificates_count_apart_from_hosts(door):
    assert let_in(door, range(3), certificate=b"a") == [True, True, True]
    assert let_in(door, [3], certificate=b"a") == [False]
    assert let_in(door, [4], certificate=b"b") == [True]
    assert let_in(door, [5]) == [True]


def test_one_that_has_not_said_who_it_is_takes_nobody_elses_place():
    door = Door(in_all=5, of_one=100, lines=LimitedLog())
    assert all(door.enter(number, "10.0.0.1") for number in range(10))
    assert let_in(door, [20], host="10.0.0.2") == [True]


def test_sockets_that_say_nothing_are_bounded_too(door):
    assert [door.enter(number, "10.0.0.1") for number in range(3 + TOLD + 1)] == [True] * (3 + TOLD) + [False]
    assert door.enter(100, "10.0.0.2")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("2001:db8::1", "2001:db8::ffff", True), ("2001:db8::1", "2001:db8:0:1::1", False), ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False)],
)
def test_a_network_of_ipv6_is_one_peer(door, one, other, same):
    assert all(let_in(door, range(3), host=one))
    assert let_in(door, [10], host=other) == [not same]


def test_nothing_is_left_of_those_who_have_left(door):
    for round_ in range(1000):
        assert let_in(door, [7], host=f"10.0.{round_ % 250}.1", certificate=str(round_).encode()) == [True]
        door.leave(7)
    assert [door._sockets, door._by_peer, door._admitted, door._admitted_by_peer] == [{}, {}, {}, {}]


# Over sockets.


@contextlib.asynccontextmanager
async def strangers(address, count):
    async with contextlib.AsyncExitStack() as stack:
        outcomes = []
        for _ in range(count):
            try:
                outcomes.append(await stack.enter_async_context(connect(address, compression=None)))
            except (OSError, InvalidHandshake) as error:
                outcomes.append(error)
        yield outcomes


@pytest.mark.parametrize("options", [{"max_connections": 3}, {"max_connections_per_peer": 3}])
async def test_who_finds_no_room_is_told_and_gets_in_when_somebody_has_gone(options, caplog):
    async with ActorSystem(listen="ws://127.0.0.1:0", **options) as server:
        where = str(await server.spawn(Greeter, name="greeter"))
        async with ActorSystem() as early, ActorSystem() as late:
            inside = await early.connect(where, Greeter)
            async with strangers(server.address, 100) as outcomes:
                refused = [one for one in outcomes if isinstance(one, Exception)]
                assert len(refused) == 98
                assert all(isinstance(one, InvalidStatus) and b"3 connections" in one.response.body for one in refused)
                with pytest.raises(ConnectFailed, match=rf"refused the connection: 503 3 connections.*{next(iter(options))}"):
                    await late.connect(where, Greeter)
                assert await inside.greet() == "hello"
            while len(server._network._links) > 1:
                await asyncio.sleep(0)
            assert await (await late.connect(where, Greeter)).greet() == "hello"
    assert len([message for message in caplog.messages if "was refused" in message]) == 1


async def test_connections_are_given_back_however_they_end():
    async with ActorSystem(listen="ws://127.0.0.1:0", max_connections=2) as server:
        where = str(await server.spawn(Greeter, name="greeter"))
        door = server._network._door
        for data in (b"", b"GET / HTTP/1.1\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
                writer.write(data)
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await reader.read()
        while door._sockets:
            await asyncio.sleep(0)
        async with ActorSystem() as client:
            assert await (await client.connect(where, Greeter)).greet() == "hello"


async def test_a_connection_for_which_no_descriptor_is_left_is_closed(caplog, monkeypatch):
    """As the operating system reports it: accepting fails until a descriptor is given back."""
    caplog.set_level(logging.WARNING)
    taken = True
    real = socket.socket.accept

    def accept(self):
        if taken and not spares:
            raise OSError(24, "Too many open files")
        return real(self)

    spares = []
    real_close = door_module.os.close
    monkeypatch.setattr(socket.socket, "accept", accept)
    monkeypatch.setattr(door_module.os, "close", lambda descriptor: (spares.append(1), real_close(descriptor)))
    real_open = door_module.os.open
    monkeypatch.setattr(door_module.os, "open", lambda *args, **options: (spares.clear(), real_open(*args, **options))[1])
    async with ActorSystem(listen="ws://127.0.0.1:0") as server:
        where = str(await server.spawn(Greeter, name="greeter"))
        async with ActorSystem() as client:
            for _ in range(20):
                with pytest.raises(ConnectFailed):
                    await client.connect(where, Greeter)
            taken = False
            assert await (await client.connect(where, Greeter)).greet() == "hello"
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["no descriptor is left" in record.getMessage() for record in lines] == [True]
    assert not any(record.exc_info for record in lines)


LIMITED = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.path.insert(0, "tests/actors/hostile")
from actors import ActorSystem
from test_door import Greeter
async def main():
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(Greeter, name="greeter")
        print(system.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


async def test_with_few_descriptors_those_inside_go_on_and_the_log_has_a_line():
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIMITED, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    address = (await child.stdout.readline()).decode().strip()
    async with ActorSystem() as early, ActorSystem() as late:
        inside = await early.connect(f"{address}/greeter", Greeter)
        async with strangers(address, 150) as outcomes:
            assert sum(not isinstance(one, Exception) for one in outcomes) == 31
            assert await inside.greet() == "hello"
            with pytest.raises(ConnectFailed, match=r"32 connections are open, all that the limit of 64 open files \(ulimit -n\) leaves"):
                await late.connect(f"{address}/greeter", Greeter)
        for _ in range(1000):
            with contextlib.suppress(ConnectFailed):
                await late.connect(f"{address}/greeter", Greeter)
                break
        assert await inside.greet() == "hello"
    _, errors = await child.communicate(b"")
    assert b"Traceback" not in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", ["max_connections", "max_connections_per_peer"])
def test_a_limit_is_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name}=0: a system that listens takes at least one connection"):
        ActorSystem(**{name: 0})


async def test_many_owners_at_one_hub_are_within_the_limits():
    """What a federation of a thousand owners on one machine needs: see the defaults of `ActorSystem`."""
    async with ActorSystem(listen="ws://127.0.0.1:0") as server:
        door = server._network._door
        assert all(let_in(door, range(10_000, 11_000), host="127.0.0.1"))
        for number in range(10_000, 11_000):
            door.leave(number)


async def test_accepted_connections_send_small_messages_at_once():
    """Without TCP_NODELAY an answer may wait 40 ms for the acknowledgement of the one before."""
    async with ActorSystem(listen="ws://127.0.0.1:0") as server, ActorSystem() as client:
        await (await client.connect(str(await server.spawn(Greeter, name="greeter")), Greeter)).greet()
        [link] = server._network._links.values()
        assert link._socket.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
