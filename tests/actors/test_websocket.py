"""Connections: what breaks them, what that breaks, and what goes on."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct

import msgspec
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from actors import (
    Actor,
    ActorNotFound,
    ActorSystem,
    AddressInUse,
    BadAddress,
    ConnectFailed,
    ConnectionLost,
    InsecureAddress,
    MessageRejected,
    OneWayFailed,
    SystemClosed,
    VersionMismatch,
    message,
)
from actors.connection import websocket
from actors.connection.wire import encode, hello
from actors.messages import frames
from actors.messages.frames import PROTOCOL, VERSION

LIMIT = 1 << 20


class Waiter(Actor):
    def __init__(self) -> None:
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        WAITERS.append(self)

    @message(reentrant=True)
    async def wait(self, name: str) -> None:
        self.begun.put_nowait(name)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.put_nowait(name)

    @message
    async def echo(self, x: np.ndarray) -> np.ndarray:
        return x

    @message(reentrant=True)
    def ping(self) -> str:
        return "pong"

    @message
    async def call_back(self, other: Waiter) -> str:
        return await other.ping()

    @message
    async def remember(self, other: Waiter) -> None:
        self.other = other

    @message
    async def forward_to(self, other: Waiter) -> None:
        await other.remember(self.other)

    @message
    async def ping_remembered(self) -> str:
        return await self.other.ping()


WAITERS: list[Waiter] = []


@pytest.fixture
async def server():
    async with ActorSystem(listen="ws://127.0.0.1:0", message_limit=LIMIT) as system:
        await system.spawn(Waiter, name="waiter")
        yield system


@pytest.fixture
async def client():
    async with ActorSystem() as system:
        yield system


def frame(*fields):
    body = msgspec.msgpack.encode(fields)
    return struct.pack("<I", len(body)) + body


HELLO = encode(hello(LIMIT)).header


async def drained(connection):
    while True:
        await connection.recv()


# A stranger who breaks the rules.


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"garbage, and nothing but that", 1009, "TooLarge: a header of"),
        (frame(0, PROTOCOL, VERSION + 1, 1), 1002, "VersionMismatch: the other side speaks 'confide-actors' version 2"),
        (frame(5, 1), 1002, "Malformed: the first frame is of type Cancel"),
        (HELLO + frame(77), 1002, "UnknownType"),
        (HELLO + frame(5, 1)[:-1], 1002, "Truncated: a message ends within a frame"),
        (HELLO + frame(3, 1, [None, [["<f8", [1 << 40]]], []]), 1009, "TooLarge: an array of shape (1099511627776,)"),
        (HELLO + frame(3, 1, [[None], [], []]), 1002, "Malformed: an answer to call 1, which is not under way"),
        (HELLO + frame(1, 1, "waiter", "ping", [[], [], []]), 1002, "Malformed: a message to 'waiter', which the other side never asked"),
        (HELLO + frame(6, "", 1), 1002, "Malformed: credit for 1 messages"),
        (HELLO + frame(1, 1, "", "watch", [["waiter"], [], []]) * 2, 1002, "Malformed: call 1 was begun twice"),
    ],
)
async def test_the_connection_that_breaks_the_rules_is_closed_and_nothing_else(server, client, data, code, reason):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    async with connect(server.address, compression=None) as stranger:
        await stranger.send(data)
        with pytest.raises(ConnectionClosed) as closed:
            await drained(stranger)
    assert closed.value.rcvd.code == code
    assert closed.value.rcvd.reason.startswith(reason)
    assert await waiter.ping() == "pong"


async def test_overrunning_a_window_closes_the_connection(server):
    await server.spawn(Waiter, name="small", mailbox=2)
    waiter = WAITERS[-1]
    async with connect(server.address, compression=None) as stranger:
        await stranger.send(HELLO + frame(1, 1, "", "find", [["small"], [], []]))
        await stranger.send(b"".join(frame(2, "small", "wait", [["x"], [], []]) for _ in range(3)))
        with pytest.raises(ConnectionClosed) as closed:
            await drained(stranger)
    assert closed.value.rcvd.reason.startswith("Overrun: more than the 2 messages")
    assert await waiter.begun.get() == "x"


@pytest.mark.parametrize("body", [[], ["x", "y"], [3], [{"a": 1}]])
async def test_arguments_that_do_not_fit_are_answered_and_nothing_is_closed(server, body):
    async with connect(server.address, compression=None) as stranger:
        await stranger.send(HELLO + frame(1, 1, "", "watch", [body, [], []]))
        received = await stranger.recv()
        while b"MessageRejected" not in received:
            received += await stranger.recv()
        assert b"Directory.watch" in received


async def test_an_extension_that_stands_for_nothing(server):
    async with connect(server.address, compression=None) as stranger:
        body = msgspec.Raw(msgspec.msgpack.encode([msgspec.msgpack.Ext(1, b"\0\0\0\0")]))
        await stranger.send(HELLO + frame(1, 1, "", "find", [["waiter"], [], []]) + frame(1, 2, "waiter", "echo", [body, [], []]))
        received = await stranger.recv()
        while b"MessageRejected" not in received:
            received += await stranger.recv()
        assert b"stands for no array" in received


@pytest.mark.parametrize("data", [None, b""])
async def test_a_connection_that_never_greets_is_closed(server, monkeypatch, data):
    monkeypatch.setattr(websocket, "OPEN_WITHIN", 0.05)
    async with connect(server.address, compression=None) as stranger:
        if data is not None:
            await stranger.send(data)
        with pytest.raises(ConnectionClosed) as closed:
            await drained(stranger)
    assert closed.value.rcvd.reason.startswith("Malformed: no greeting, or no proof of who it is, came within")


async def test_empty_messages_are_nothing(server):
    async with connect(server.address, compression=None) as stranger:
        for data in (b"", HELLO, b"", frame(1, 1, "", "find", [["waiter"], [], []]), b""):
            await stranger.send(data)
        received = await stranger.recv()
        while b"Waiter" not in received:
            received += await stranger.recv()


async def test_somebody_who_asks_and_does_not_listen_fills_no_memory(server, client, monkeypatch):
    """Every answer is there when they listen again, and others are served meanwhile."""
    monkeypatch.setattr(websocket, "UNREAD", 1 << 20)
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    before = set(server._network._links)
    size, count = 1 << 18, 200
    async with connect(server.address, compression=None, max_queue=1, ping_interval=None) as stranger:
        await stranger.send(HELLO + frame(1, 0, "", "find", [["waiter"], [], []]))
        while b"Waiter" not in await stranger.recv():
            pass
        [task] = set(server._network._links) - before
        writer = server._network._links[task]._writer
        stranger.transport.pause_reading()
        body = msgspec.Raw(msgspec.msgpack.encode([msgspec.msgpack.Ext(1, struct.pack("<I", 0))]))

        async def ask() -> None:
            for number in range(1, count + 1):
                await stranger.send(frame(1, number, "waiter", "echo", [body, [["|u1", [size]]], []]) + bytes(size))

        asking = asyncio.create_task(ask())
        unsent = 0
        for _ in range(500):
            assert await waiter.ping() == "pong"
            unsent = max(unsent, sum(encoded.size for encoded, *_ in writer._queue))
        assert not asking.done()
        assert size < unsent < 4 << 20
        stranger.transport.resume_reading()
        received = 0
        while received < count * size:
            received += len(await stranger.recv())
        await asking


async def test_web_pages_may_not_connect(server):
    with pytest.raises(InvalidStatus, match="403"):
        await connect(server.address, origin="http://evil.example")


# A server that is none.


async def greeted_with(client, *data):
    async def handle(connection):
        for one in data:
            await connection.send(one)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None) as stranger:
        port = next(iter(stranger.sockets)).getsockname()[1]
        await client.connect(f"ws://127.0.0.1:{port}/waiter", Waiter)


async def test_a_server_of_another_version(client):
    with pytest.raises(VersionMismatch, match="version 2"):
        await greeted_with(client, frame(0, PROTOCOL, 2, 1))


async def test_a_server_that_speaks_something_else(client):
    with pytest.raises((ConnectFailed, ConnectionLost, VersionMismatch, Exception), match="first frame"):
        await greeted_with(client, frame(5, 1))


async def test_a_server_that_answers_with_garbage_fails_the_call(client):
    with pytest.raises(ConnectionLost, match="refused here: Malformed"):
        await greeted_with(client, HELLO, frame(4, 1, ["", 3, "", ""]))


async def test_nobody_listens(client):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, and not listening
        address = f"ws://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(ConnectFailed, match=f"nobody answers at {address}: "):
            await client.connect(f"{address}/waiter", Waiter)


# Losing a connection.


async def test_calls_under_way_fail_and_their_handlers_are_cancelled(server, client):
    waiter, actor = await client.connect(f"{server.address}/waiter", Waiter), WAITERS[-1]
    other = asyncio.create_task(waiter.wait("a"))
    await actor.begun.get()
    watching = asyncio.create_task(client.watch(waiter))
    await waiter.ping()
    await cut(client)
    with pytest.raises(ConnectionLost, match=rf"the connection to {server.address} was lost at 20\d\d-.*: ") as lost:
        await other
    assert lost.value.address == server.address
    assert lost.value.why
    assert await actor.ended.get() == "a"
    assert "was lost at" in (await watching).reason
    assert await waiter.ping() == "pong"  # dialed again


async def cut(system):
    """Ends the only connection of a system without a word."""
    [link] = system._network._links.values()
    link._socket.transport.abort()
    await link._socket.wait_closed()
    while system._network._links:
        await asyncio.sleep(0)


async def test_one_connection_is_shared_and_reopened_once(server, client):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    same = await client.connect(f"{server.address}/waiter", Waiter)
    assert len(client._network._links) == 1
    await cut(client)
    assert await asyncio.gather(waiter.ping(), same.ping(), waiter.ping()) == ["pong"] * 3
    assert len(client._network._links) == 1


async def test_handlers_of_others_go_on(server, client):
    async with ActorSystem() as third:
        waiter, actor = await client.connect(f"{server.address}/waiter", Waiter), WAITERS[-1]
        others = await third.connect(f"{server.address}/waiter", Waiter)
        call = asyncio.create_task(waiter.wait("kept"))
        with contextlib.suppress(ConnectionLost):
            lost = asyncio.create_task(others.wait("lost"))
            assert {await actor.begun.get(), await actor.begun.get()} == {"kept", "lost"}
            await cut(third)
            await lost
        assert await actor.ended.get() == "lost"
        assert not call.done()
        call.cancel()
        assert await actor.ended.get() == "kept"


async def test_a_server_that_goes_away_says_so(client):
    async with ActorSystem(listen="ws://127.0.0.1:0") as server:
        waiter = await client.connect(str(await server.spawn(Waiter, name="waiter")), Waiter)
        watching = asyncio.create_task(client.watch(waiter))
        await waiter.ping()
    assert (await watching).reason == "its system was closed"
    with pytest.raises((ConnectFailed, ConnectionLost)):
        await waiter.ping()


async def test_messages_without_reply_that_may_be_lost_are_reported(server):
    errors = asyncio.Queue()
    async with ActorSystem(on_error=errors.put_nowait) as client:
        waiter = await client.connect(f"{server.address}/waiter", Waiter)
        await waiter.with_options(one_way=True).ping()
        await waiter.ping()
        await cut(client)
        error = await errors.get()
    assert isinstance(error, OneWayFailed)
    assert "1 messages without reply to waiter" in str(error)
    assert isinstance(error.__cause__, ConnectionLost)


async def test_large_messages_without_reply_fail_when_the_connection_is_lost(server, client):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    [link] = client._network._links.values()
    link._socket.transport.pause_reading()
    [other_end] = server._network._links.values()
    other_end._socket.transport.pause_reading()
    x = np.zeros(LIMIT - 1000, np.uint8)
    sends = [asyncio.create_task(waiter.with_options(one_way=True).echo(x)) for _ in range(20)]
    await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
    assert not all(send.done() for send in sends)  # the socket is full
    link._socket.transport.abort()
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert isinstance(outcomes[-1], ConnectionLost)
    assert {type(outcome) for outcome in outcomes} <= {type(None), ConnectionLost}


async def test_an_error_of_our_own_closes_the_connection(server, client, monkeypatch, caplog):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    [link] = server._network._links.values()
    call = asyncio.create_task(waiter.wait("a"))
    await WAITERS[-1].begun.get()

    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setitem(link.peer._receivers, frames.Invocation, broken)
    with pytest.raises(ConnectionLost, match="1011 an internal error here"):
        await waiter.ping()
    with pytest.raises(ConnectionLost):
        await call
    assert "a bug" in caplog.text
    assert await waiter.ping() == "pong"


async def test_what_was_sent_is_written_before_the_system_closes(server):
    actor = WAITERS[-1]
    async with ActorSystem() as client:
        waiter = await client.connect(f"{server.address}/waiter", Waiter)
        await waiter.with_options(one_way=True).wait("last word")
    assert await actor.begun.get() == "last word"


# Limits, references over connections.


async def test_a_message_larger_than_the_other_side_takes(server, client):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    with pytest.raises(MessageRejected, match=r"Waiter.echo: a message of \d+ bytes; ws://.* takes at most 1048576"):
        await waiter.echo(np.zeros(LIMIT, np.uint8))
    x = np.arange(LIMIT // 2, dtype=np.uint8)
    np.testing.assert_array_equal(await waiter.echo(x), x)


async def test_bytes_too_long_for_a_header(server, client):
    class Keeper(Actor):
        @message
        async def keep(self, data: bytes) -> None: ...

    keeper = await client.connect(str(await server.spawn(Keeper)), Keeper)
    with pytest.raises(MessageRejected, match="uint8 array"):
        await keeper.keep(bytes(17 << 20))


async def test_an_actor_of_a_system_that_does_not_listen_is_reached_over_its_connection(server, client):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    mine = await client.spawn(Waiter)
    assert await waiter.call_back(mine) == "pong"
    await waiter.remember(mine)
    assert await waiter.ping_remembered() == "pong"
    async with ActorSystem(listen="ws://127.0.0.1:0") as third:
        with pytest.raises(MessageRejected, match="lives in a system that does not listen"):
            await waiter.forward_to(await client.connect(str(await third.spawn(Waiter)), Waiter))
    async with ActorSystem() as fourth:
        with pytest.raises(MessageRejected, match="lives in a system that does not listen"):
            await waiter.call_back(await fourth.spawn(Waiter))
    await cut(client)
    with pytest.raises(ConnectionLost):
        await waiter.ping_remembered()


async def test_an_actor_of_a_system_that_listens_can_be_passed_on(server, client):
    waiter = await client.connect(f"{server.address}/waiter", Waiter)
    async with ActorSystem(listen="ws://127.0.0.1:0") as third:
        theirs = await client.connect(str(await third.spawn(Waiter)), Waiter)
        await waiter.remember(theirs)
        assert await waiter.ping_remembered() == "pong"
        assert await waiter.call_back(await third.spawn(Waiter)) == "pong"  # a reference of another system in this process
        await waiter.forward_to(theirs)  # home again
        assert await theirs.ping_remembered() == "pong"


async def test_a_system_that_does_not_listen_shows_only_what_it_sent(server, client):
    waiter, actor = await client.connect(f"{server.address}/waiter", Waiter), WAITERS[-1]
    mine, secret = await client.spawn(Waiter), await client.spawn(Waiter, name="secret")
    await waiter.remember(mine)
    hidden = type(actor.other)(actor.other._transport, secret._name)
    with pytest.raises(ActorNotFound, match="no actor named 'secret' can be reached over this connection"):
        await hidden.ping()
    assert await actor.other.ping() == "pong"


async def test_all_addresses_at_once_cannot_be_sent(client):
    async with ActorSystem(listen="ws://0.0.0.0:0", allow_plaintext=True) as everywhere:
        port = everywhere.address.rpartition(":")[2]
        theirs = await everywhere.spawn(Waiter, name="waiter")
        waiter = await client.connect(f"ws://127.0.0.1:{port}/waiter", Waiter)
        assert str(theirs) == "waiter"
        assert await waiter.call_back(waiter) == "pong"
    async with ActorSystem(listen="ws://127.0.0.1:0", advertise="wss://example.org:1") as behind:
        assert str(await behind.spawn(Waiter, name="waiter")) == "wss://example.org:1/waiter"


# Addresses.


async def test_a_port_in_use(server):
    with pytest.raises(AddressInUse, match=f"{server.address} is in use by another process; choose another port, or 0"):
        async with ActorSystem(listen=server.address):
            pass


async def test_plaintext_stays_on_this_machine(client):
    with pytest.raises(InsecureAddress, match=r"ws://example.org:1 is not encrypted"):
        await client.connect("ws://example.org:1/waiter", Waiter)
    with pytest.raises(InsecureAddress, match="allow_plaintext=True"):
        ActorSystem(listen="ws://0.0.0.0:0")
    with pytest.raises(InsecureAddress, match="needs a certificate"):
        async with ActorSystem(listen="wss://127.0.0.1:0"):
            pass


async def test_an_address_that_is_none(client):
    with pytest.raises(BadAddress, match="expected 'ws://host:port/name'"):
        await client.connect("ws://127.0.0.1:4000", Waiter)
    with pytest.raises(BadAddress, match=r"cannot listen on ws://192.0.2.1:1"):
        async with ActorSystem(listen="ws://192.0.2.1:1", allow_plaintext=True):
            pass


async def test_a_system_that_is_closed(server):
    async with ActorSystem() as client:
        waiter = await client.connect(f"{server.address}/waiter", Waiter)
    with pytest.raises(SystemClosed, match="this system is not open"):
        await waiter.ping()
    with pytest.raises(SystemClosed, match="inside 'async with"):
        await client.spawn(Waiter)


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Contexts of a server whose certificate is its own authority, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin.replace(year=2120))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = certificate.public_bytes(serialization.Encoding.PEM)
    file.write_bytes(private + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=public.decode())


async def test_encrypted_connections(certificates):
    server_context, client_context = certificates
    async with ActorSystem(listen="wss://127.0.0.1:0", ssl=server_context) as server:
        where = str(await server.spawn(Waiter, name="waiter"))
        assert where.startswith("wss://")
        async with ActorSystem(connect_ssl=client_context) as client:
            waiter = await client.connect(where, Waiter)
            x = np.arange(500_000)
            np.testing.assert_array_equal(await waiter.echo(x), x)
        async with ActorSystem() as stranger:
            with pytest.raises(ConnectFailed, match="its certificate was refused: certificate verify failed: self-signed certificate"):
                await stranger.connect(where, Waiter)
