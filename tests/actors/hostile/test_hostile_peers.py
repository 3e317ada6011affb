"""Strangers who speak the protocol, and not as they should: each is refused in its own way, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import threading
import tracemalloc
import weakref

import msgspec
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from actors import Actor, ActorRef, ActorSystem, ConnectFailed, ConnectionLost, MessageRejected, RemoteError, message
from actors.address import Address
from actors.connection import opening, websocket
from actors.connection.dialed import Dialed
from actors.connection.wire import encode, hello
from actors.errors import Malformed
from actors.guard import progress
from actors.guard.limited_log import BURST
from actors.identity.proofs import Identity
from actors.messages.frames import PROTOCOL, VERSION, FailureReport

LIMIT = 1 << 30
HELLO = encode(hello(LIMIT)).header


class Keeper(Actor):
    @message
    async def double(self, x: np.ndarray) -> np.ndarray:
        return x * 2

    @message(reentrant=True)
    def ping(self) -> str:
        return "pong"

    @message
    async def take(self, owners: list[ActorRef]) -> int:
        return len(owners)

    @message
    async def fail(self, text: str) -> None:
        raise ValueError(text)


@pytest.fixture
async def server():
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(Keeper, name="keeper")
        yield system


def frame(*fields):
    body = msgspec.msgpack.encode(fields)
    return struct.pack("<I", len(body)) + body


def call(number, target, method, *arguments, arrays=(), refs=(), body=None):
    return frame(1, number, target, method, [list(arguments) if body is None else msgspec.Raw(body), list(arrays), list(refs)])


FIND = call(1, "", "find", "keeper")
DOUBLE = msgspec.msgpack.encode([msgspec.msgpack.Ext(1, b"\0\0\0\0")])


def doubled(*arrays):
    return call(2, "keeper", "double", arrays=arrays, body=DOUBLE)


CLOSED = {
    "text": (["hello"], 1009, "TooLarge: a header of 1819043176"),
    "nothing but noise": ([HELLO, b"\xff" * 1000], 1009, "TooLarge"),
    "no greeting first": ([FIND], 1002, "Malformed: the first frame is of type Invocation"),
    "two greetings": ([HELLO, HELLO], 1002, "Malformed: a second greeting"),
    "another protocol": ([frame(0, "x" * 5000, 1, 1)], 1002, "VersionMismatch: the other side speaks 'xxxx"),
    "another version": ([frame(0, PROTOCOL, VERSION + 1, 1)], 1002, "VersionMismatch"),
    "a header of 4 GiB": ([HELLO, b"\xff\xff\xff\xff"], 1009, "TooLarge: a header of 4294967295 bytes"),
    "a header of 16 MiB": ([HELLO, struct.pack("<I", 16 << 20) + bytes(10)], 1009, "TooLarge: a header of 16777216 bytes"),
    "a frame that is cut": ([HELLO, FIND[:-3]], 1002, "Truncated"),
    "an unknown kind": ([HELLO, frame(99, 1)], 1002, "UnknownType"),
    "a kind that is text": ([HELLO, frame("\n2026\x1b[31m" + "x" * 100_000, 1)], 1002, "Malformed"),
    "an answer to no call": ([HELLO, frame(3, 7, [[1], [], []])], 1002, "Malformed: an answer to call 7"),
    "an error of no call": ([HELLO, frame(4, 7, ["a", [], "b", "c"])], 1002, "Malformed: an answer to call 7"),
    "credit that nobody is owed": ([HELLO, frame(6, "keeper", 5)], 1002, "Malformed: credit for 5"),
    "a report on nothing": ([HELLO, frame(7, "keeper", "x" * 1000, ["builtins.ValueError", ["a"], "b", "c"])], 1002, "Malformed: a report"),
    "an error with many arguments": ([HELLO, frame(4, 7, ["a", [None] * 17, "b"])], 1009, "TooLarge: an error with 17 arguments"),
    "a report with many arguments": ([HELLO, frame(7, "a", "b", ["a", [None] * 17, "b"])], 1009, "TooLarge: an error with 17 arguments"),
    "a call without a window": ([HELLO, call(1, "keeper", "ping")], 1002, "Malformed: a message to 'keeper'"),
    "a number used twice": ([HELLO, call(2, "", "watch", "keeper") * 2], 1002, "Malformed: call 2 was begun twice"),
    "a number that is none": ([HELLO, frame(1, 1.5, "", "find", [["a"], [], []])], 1002, "Malformed: a header that is none"),
    "a body nested without end": ([HELLO, FIND, call(2, "keeper", "fail", body=b"\x91" * 100_000 + b"\x90")], 1009, "TooLarge"),
    "a header nested without end": ([HELLO, struct.pack("<I", 4001) + b"\x91" * 4000 + b"\x90"], 1002, "Malformed"),
    "objects": ([HELLO, FIND, doubled(["|O", [1]])], 1002, "UnknownType: an array of dtype '|O'"),
    "a negative shape": ([HELLO, FIND, doubled(["<f4", [-1, -1]])], 1002, "Malformed"),
    "a huge shape of nothing": ([HELLO, FIND, doubled(["<f4", [1 << 40, 0]])], 1009, "TooLarge: an array of shape (1099511627776, 0)"),
    "a shape beyond all numbers": ([HELLO, FIND, doubled(["<f4", [1 << 63, 2]])], 1009, "TooLarge"),
    "33 axes": ([HELLO, FIND, doubled(["<f4", [1] * 33])], 1002, "Malformed: an array with 33 axes"),
    "many arrays": ([HELLO, FIND, doubled(*[["<f4", [0]]] * 9000)], 1009, "TooLarge: 9000 arrays"),
    "too many arrays to count": ([HELLO, FIND, doubled(*[["<f4", [0]]] * 70_000)], 1009, "TooLarge: a header with more than 32768 lists"),
    "many references": ([HELLO, FIND, call(2, "keeper", "ping", refs=[["", "a"]] * 1025)], 1009, "TooLarge: 1025 references"),
    "an array that does not come": (
        [HELLO, FIND, doubled(["<f4", [1 << 27]])],
        1002,
        "Truncated: a message ends within a frame: 536870912",
    ),
}


@contextlib.asynccontextmanager
async def stranger(server):
    async with connect(server.address, compression=None, max_size=None) as socket:
        yield socket


async def end_of(socket):
    """How the connection ended: code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code, socket.close_reason


async def answers_of(socket, count):
    """The next frames, greeting included, as msgspec reads them."""
    data, found = b"", []
    while len(found) < count:
        data += await socket.recv()
        while len(data) >= 4 and len(data) >= (end := 4 + struct.unpack_from("<I", data)[0]):
            found.append(msgspec.msgpack.decode(data[4:end]))
            data = data[end:]
    return found


@pytest.mark.parametrize("name", CLOSED)
async def test_what_breaks_the_rules_ends_the_connection_with_one_line(server, name, caplog):
    sent, code, reason = CLOSED[name]
    async with ActorSystem() as honest, stranger(server) as socket:
        keeper = await honest.connect(f"{server.address}/keeper", Keeper)
        for data in sent:
            await socket.send(data)
        ended = await end_of(socket)
        assert ended[0] == code
        assert ended[1].startswith(reason)
        assert await keeper.ping() == "pong"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().isprintable()
    assert len(warnings[0].getMessage()) < 1000
    assert warnings[0].exc_info is None


ANSWERED = {
    "an unknown actor": (call(2, "", "find", "nobody"), "actors.errors.ActorNotFound"),
    "a name of 200 kB": (call(2, "", "find", "n" * 200_000), "actors.errors.ActorNotFound"),
    "a method of Python's": (call(2, "keeper", "__class__"), "actors.errors.MessageRejected"),
    "an argument of another type": (call(2, "keeper", "fail", {"a": 1}), "actors.errors.MessageRejected"),
    "too many arguments": (call(2, "keeper", "ping", 1, 2, 3), "actors.errors.MessageRejected"),
    "a body that is no list": (call(2, "keeper", "ping", body=b"\xc0"), "actors.errors.MessageRejected"),
    "a body nested deeply": (call(2, "keeper", "fail", body=b"\x91" * 500 + b"\x90"), "actors.errors.MessageRejected"),
    "a file for an address": (call(2, "keeper", "ping", refs=[["file:///etc/passwd", "a"]]), "actors.errors.BadAddress"),
    "another machine in the clear": (call(2, "keeper", "ping", refs=[["ws://169.254.169.254:80", "a"]]), "actors.errors.InsecureAddress"),
    "an error of the handler": (call(2, "keeper", "fail", "SECRET"), "ValueError"),
}


@pytest.mark.parametrize("name", ANSWERED)
async def test_what_cannot_be_done_is_answered_and_the_connection_goes_on(server, name):
    data, cls = ANSWERED[name]
    async with stranger(server) as socket:
        await socket.send(HELLO + FIND)
        await answers_of(socket, 2)
        await socket.send(data)
        [[kind, number, failure]] = await answers_of(socket, 1)
        assert (kind, number, failure[0]) == (4, 2, cls)
        assert b"SECRET" not in msgspec.msgpack.encode(failure)
        await socket.send(call(3, "keeper", "ping"))
        [[kind, number, [[answer], *_]]] = await answers_of(socket, 1)
        assert (kind, number, answer) == (3, 3, "pong")


@pytest.mark.parametrize("limit", [-1, 0, (1 << 64) - 1])
async def test_odd_limits_in_a_greeting(server, limit):
    async with stranger(server) as socket:
        await socket.send(frame(0, PROTOCOL, VERSION, limit) + FIND + call(2, "keeper", "ping"))
        kinds = [answer[0] for answer in await answers_of(socket, 3)]
        assert kinds == ([0, 3, 3] if limit > 0 else [0, 4, 4])


@pytest.mark.parametrize("number", [-5, (1 << 63) - 1])
async def test_odd_numbers_of_calls_are_numbers(server, number):
    async with stranger(server) as socket:
        await socket.send(HELLO + frame(5, 77) + call(number, "", "find", "keeper"))
        answers = await answers_of(socket, 2)
        assert answers[1][:2] == [3, number]


async def test_a_frame_in_fragments_of_one_byte_and_of_none(server):
    async with stranger(server) as socket:
        await socket.send(HELLO)

        async def pieces():
            data = call(2, "", "find", "keeper")
            for index in range(len(data)):
                yield b""
                yield data[index : index + 1]

        await socket.send(pieces())
        assert [answer[0] for answer in await answers_of(socket, 2)] == [0, 3]


async def test_no_extension_is_negotiated(server):
    async with connect(server.address) as socket:
        assert socket.protocol.extensions == []


async def test_no_other_http_is_answered(server):
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
        writer.write(data)
        status = (await reader.readline()).split()[1]
        assert status in (b"426", b"431")
        writer.close()
        await writer.wait_closed()
    with pytest.raises(InvalidStatus, match="403"):
        await connect(server.address, origin="http://evil.example")


# Time.


async def stalled(server, monkeypatch, *pieces):
    monkeypatch.setattr(progress, "STALLED_AFTER", 0.05)
    async with stranger(server) as socket:
        await socket.send(HELLO + FIND)
        await answers_of(socket, 2)
        gone = asyncio.Event()

        async def slowly():
            for piece in pieces:
                yield piece
            await gone.wait()

        sending = asyncio.create_task(socket.send(slowly()))
        ended = await end_of(socket)
        sending.cancel()
        await asyncio.wait([sending])
        return ended


@pytest.mark.parametrize(
    "pieces",
    [(FIND[:3],), (FIND[:10],), (doubled(["|u1", [1 << 29]]), b"x" * 100), (FIND + FIND[:7],)],
    ids=["in its length", "in its header", "in its arrays", "after another one"],
)
async def test_a_frame_that_has_begun_and_stops_ends_the_connection(server, monkeypatch, pieces):
    code, reason = await stalled(server, monkeypatch, *pieces)
    assert (code, reason) == (1002, "Malformed: a frame that has begun did not go on in time")


async def test_a_piece_that_does_not_end_ends_the_connection(server, monkeypatch):
    monkeypatch.setattr(progress, "WHOLE_WITHIN", 0.02)
    async with stranger(server) as socket:
        await socket.send(HELLO + FIND)
        await answers_of(socket, 2)
        socket.transport.write(b"\x82\xfe\xff\xff1234only a few bytes of it")
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_who_asks_for_nothing_is_sent_away(server, monkeypatch):
    monkeypatch.setattr(websocket, "ASK_WITHIN", 0.05)
    async with stranger(server) as silent, stranger(server) as asking:
        await asking.send(HELLO + FIND)
        await answers_of(asking, 2)
        await silent.send(HELLO)
        assert await end_of(silent) == (1001, "nothing was asked within 0.05 s")
        await asking.send(call(3, "keeper", "ping"))
        assert (await answers_of(asking, 1))[0][:2] == [3, 3]


async def test_patience_counts_the_time_of_the_other_side_and_grows_with_what_arrives():
    patience = progress.Patience()
    assert patience.left(of=1) == progress.STALLED_AFTER

    def arrived(size, waited):
        patience._since = 0.0
        patience.came(size, waited)

    patience.waits(0.0, of=1)
    for _ in range(10):
        arrived(0, 1.0)
    assert patience.left(of=1) == progress.STALLED_AFTER - 10
    for _ in range(1000):
        arrived(progress.SLOWEST, 1.0)
    assert patience.left(of=1) == progress.STALLED_AFTER - 10
    arrived(progress.SLOWEST, 500.0)  # for most of that time this side was busy: nobody looked at what arrived
    assert patience.left(of=1) == progress.STALLED_AFTER - 10
    for _ in range(100):
        arrived(1, 1.0)
    assert patience.left(of=1) == 0
    assert patience.left(of=2) == progress.STALLED_AFTER
    patience._timer.cancel()


async def test_others_are_served_between_the_frames_of_one_message(server, monkeypatch):
    """A megabyte of small calls that take long to read is not read at one go."""
    monkeypatch.setattr(websocket, "TURN", 0.0)
    async with stranger(server) as socket:
        await socket.send(HELLO + FIND)
        await answers_of(socket, 2)
        [link] = server._network._links.values()
        turns, received = [], 0
        receive = link.peer.receive

        def counted(packet):
            nonlocal received
            received += 1
            asyncio.get_running_loop().call_soon(lambda: turns.append(received))
            receive(packet)

        link.peer.receive = counted
        await socket.send(b"".join(call(number, "keeper", "ping") for number in range(2, 102)))
        await answers_of(socket, 100)
        assert len(set(turns)) > 50


# Memory.


async def test_addresses_that_are_only_named_leave_nothing_behind(server):
    made = weakref.WeakSet()

    class Watched(Dialed):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.add(self)

    body = msgspec.msgpack.encode([[msgspec.msgpack.Ext(2, struct.pack(">I", index)) for index in range(500)]])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("actors.connection.network.Dialed", Watched)
        async with stranger(server) as socket:
            await socket.send(HELLO + FIND)
            await answers_of(socket, 2)
            for number in range(10):
                refs = [[f"wss://h{number}-{index}:1", "a"] for index in range(500)]
                await socket.send(call(2 + number, "keeper", "take", refs=refs, body=body))
                [[kind, _, [[count], *_]]] = await answers_of(socket, 1)
                assert (kind, count) == (3, 500)
                assert len(made) <= 1000
            assert len(server._network._dialed) <= 500
    assert len(server._network._dialed) <= 500


async def test_memory_is_flat_over_many_made_up_addresses(server):
    async with stranger(server) as socket:
        await socket.send(HELLO + FIND)
        await answers_of(socket, 2)

        async def name(number):
            refs = [[f"wss://h{number}-{index}:1", "a"] for index in range(1000)]
            await socket.send(call(2 + number, "keeper", "ping", refs=refs))
            await answers_of(socket, 1)

        await name(0)
        tracemalloc.start()
        try:
            await name(1)
            before, _ = tracemalloc.get_traced_memory()
            for number in range(2, 22):
                await name(number)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 1 << 20


async def test_an_address_that_is_used_is_dialed_once():
    async with ActorSystem(listen="ws://127.0.0.1:0") as there, ActorSystem() as here:
        where = str(await there.spawn(Keeper, name="keeper"))
        for _ in range(3):
            assert await (await here.connect(where, Keeper)).ping() == "pong"
        assert len(here._network._links) == 1
        assert len(here._network._dialed) == 1
    assert not here._network._in_use


# A server that lies to its client.


@contextlib.asynccontextmanager
async def liar(answer):
    async def handle(connection):
        with contextlib.suppress(ConnectionClosed):
            await connection.send(HELLO)
            async for data in connection:
                for reply in answer(data):
                    await connection.send(reply)

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/keeper"


CONTROL = "\n2026-11-29 INFO everything is fine\x1b[31m"


def found(number=1, name="Keeper" + CONTROL, window=10):
    return frame(3, number, [[{"class_name": name, "messages": ["ping", "double", "take", "fail"], "window": window}], [], []])


def is_call(data, method):
    return method.encode() in data


async def test_reports_are_believed_only_of_messages_that_are_under_way(caplog):
    """Once for each; what they say is one line, and a flood of them is a few lines."""
    failure = ["builtins.ValueError", [], "b", CONTROL + "A" * (1 << 18)]

    def answer(data):
        if is_call(data, "find"):
            return [found()]
        if data.count(b"ping"):
            return [frame(7, "keeper", "ping", failure)] * data.count(b"ping")
        return []

    async with liar(answer) as where, ActorSystem() as client:
        keeper = await client.connect(where, Keeper)
        [link] = client._network._links.values()
        for _ in range(10):
            await keeper.with_options(one_way=True).ping()
        while link.peer.outgoing._reported.get("keeper", 0) < 10:
            await asyncio.sleep(0)
        assert len(caplog.messages) <= BURST
        assert CONTROL not in caplog.text
        assert "\x1b" not in caplog.text
        assert "AAAA" not in caplog.text
        for report in (("keeper", "ping"), ("keeper", "fail"), ("other", "ping")):
            with pytest.raises(Malformed, match="a report on"):
                link.peer.outgoing.on_report(msgspec.convert([7, *report, failure[:3]], type=FailureReport))


async def test_a_report_without_a_message_ends_the_connection_and_writes_nothing_of_it(server, caplog):
    report = frame(7, "keeper", "x", ["builtins.ValueError", [], "b", CONTROL + "A" * (1 << 19)])
    for _ in range(100):
        async with stranger(server) as socket:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(HELLO)
                await socket.send(report)
            await end_of(socket)
    assert len(caplog.text) < 64 << 10
    assert len(caplog.messages) <= BURST
    assert "\x1b" not in caplog.text


async def test_what_a_server_says_of_itself_and_of_errors_is_harmless():
    def answer(data):
        if is_call(data, "find"):
            return [found()]
        text = CONTROL + 'File "/home/me/secret.py", line 1'
        if is_call(data, "watch"):
            return [frame(3, 3, [[text], [], []])]
        return [frame(4, 2, ["no.such.Class", [text], text, text])] if is_call(data, "ping") else []

    async with liar(answer) as where, ActorSystem() as client:
        keeper = await client.connect(where, Keeper)
        with pytest.raises(RemoteError) as caught:
            await keeper.ping()
        assert str(caught.value) == "no.such.Class: failed inside the handler; the log of its own system says why"
        assert "/home/me" not in str(caught.value.__notes__)
        assert (await client.watch(keeper)).reason.isprintable()


@pytest.mark.parametrize("window", [0, -1, -(1 << 62)])
async def test_a_window_that_no_actor_has(window):
    async with liar(lambda data: [found(window=window)] if is_call(data, "find") else []) as where, ActorSystem() as client:
        with pytest.raises(MessageRejected, match=f"a window of {window} messages"):
            await client.connect(where, Keeper)


async def test_a_server_that_is_another_actor_than_it_was_asked_for():
    class Other(Actor):
        @message
        async def something_else(self) -> None:
            pass

    async with liar(lambda data: [found()] if is_call(data, "find") else []) as where, ActorSystem() as client:
        with pytest.raises(Exception, match=r"is a Keeper\\n2026") as caught:
            await client.connect(where, Other)
        assert "\x1b" not in str(caught.value)


async def test_names_that_are_not_found_do_not_pile_up():
    async with ActorSystem(listen="ws://127.0.0.1:0") as there, ActorSystem() as here:
        for number in range(50):
            with contextlib.suppress(Exception):
                await here.connect(f"{there.address}/made-up-{number}", Keeper)
        [link] = here._network._links.values()
        assert not link.peer.outgoing._asking
        assert len(link.peer.outgoing._windows) == 1


async def test_a_reason_for_closing_is_shown_in_one_line():
    async def handle(connection):
        await connection.send(HELLO)
        await connection.recv()
        await connection.close(1002, "bad\n2026\x1b[31m")

    async with serve(handle, "127.0.0.1", 0, compression=None) as server, ActorSystem() as client:
        with pytest.raises((ConnectionLost, ConnectFailed)) as caught:
            await client.connect(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/keeper", Keeper)
    assert str(caught.value).isprintable()


async def test_errors_of_handlers_do_not_fill_the_log(server, caplog):
    async with ActorSystem() as client:
        keeper = await client.connect(f"{server.address}/keeper", Keeper)
        for _ in range(200):
            with pytest.raises(RemoteError):
                await keeper.fail(CONTROL + "A" * 100_000)
    assert len(caplog.messages) <= BURST
    assert len(caplog.text) < 100 << 10
    assert "\x1b" not in caplog.text
    assert "in fail" in caplog.text


async def test_who_greets_and_proves_nothing_at_an_address_that_is_known_is_told_from_who_does_not_greet(monkeypatch):
    """A process that was killed leaves its file, and its port goes to another program."""
    monkeypatch.setattr(opening, "OPEN_WITHIN", 0.5)
    async with liar(lambda data: []) as where, ActorSystem() as client:
        killed = Identity(Address.parse(where.removesuffix("/keeper")))
        try:
            with pytest.raises(ConnectFailed, match=r"does not prove to be the process that wrote .*remove that file"):
                await client.connect(where, Keeper)
        finally:
            killed.withdraw()
        with pytest.raises(TimeoutError):  # greeted; that it does not answer is another matter
            await asyncio.wait_for(client.connect(where, Keeper), 0.2)


async def test_a_loop_that_was_busy_does_not_miss_a_greeting(monkeypatch):
    monkeypatch.setattr(opening, "OPEN_WITHIN", 0.5)
    monkeypatch.setattr(websocket, "OPEN_WITHIN", 0.5)

    async def handle(connection):
        asyncio.get_running_loop().call_soon(threading.Event().wait, 1.5)
        await asyncio.sleep(0)
        await connection.send(HELLO)
        async for data in connection:
            if is_call(data, "find"):
                await connection.send(found())

    async with serve(handle, "127.0.0.1", 0, compression=None) as server, ActorSystem() as client:
        assert await client.connect(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/keeper", Keeper)
