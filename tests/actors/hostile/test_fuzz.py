"""Frames of a real conversation, damaged: whatever comes is refused in order, and an honest client is served all along."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import struct

import msgspec
import numpy as np
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from actors import Actor, ActorRef, ActorSystem, RemoteError, WireError, message
from actors.connection import websocket
from actors.connection.wire import FrameReader, encode, hello
from actors.guard.limited_log import BURST

HELLO = encode(hello(1 << 30)).header
MARKS = b"\x00\x01\x7f\x80\x90\xa0\xc0\xc4\xc6\xc7\xca\xcb\xcc\xcf\xd3\xd9\xdc\xdd\xde\xdf\xff"
FRAMES = int(os.environ.get("FUZZED_FRAMES", "100000"))
"""Of the long runs."""


class Mirror(Actor):
    @message
    async def show(self, value: dict[str, list[int]], arrays: list[np.ndarray], *, note: str | None = None) -> list[np.ndarray]:
        return arrays

    @message(reentrant=True)
    def ping(self) -> str:
        return "pong"

    @message
    async def call(self, other: ActorRef) -> str:
        return str(other)

    @message
    async def fail(self) -> None:
        raise ValueError("no")


async def conversation(system, client):
    """One of each kind of frame, and more."""
    mirror = await client.connect(f"{system.address}/mirror", Mirror)
    await mirror.show({"a": [1, -2, 1 << 60]}, [np.arange(5.0), np.zeros((2, 3), np.uint8), np.array(1)], note="text")
    await mirror.call(await client.spawn(Mirror))
    with pytest.raises(RemoteError):
        await mirror.fail()
    for _ in range(300):  # credit comes in batches
        await mirror.with_options(one_way=True).ping()
    await mirror.with_options(one_way=True).fail()
    watching = asyncio.create_task(client.watch(mirror))
    await mirror.ping()
    watching.cancel()
    await asyncio.wait([watching])
    await mirror.ping()


@pytest.fixture
async def recorded(monkeypatch):
    frames = []
    add = websocket.FrameWriter._add

    def recording(self, encoded, written, answer):
        frames.append(encoded.joined().header)
        add(self, encoded, written, answer)

    with monkeypatch.context() as patched:
        patched.setattr(websocket.FrameWriter, "_add", recording)
        async with ActorSystem(listen="ws://127.0.0.1:0") as system, ActorSystem(on_error=lambda error: None) as client:
            await system.spawn(Mirror, name="mirror")
            await conversation(system, client)
    kinds = {frame[5] for frame in frames}
    assert kinds == set(range(9)), kinds
    return sorted(set(frames))


def damaged(frame, frames, chance):
    """The frame with some of its bytes changed, left out, added, or taken from another; its length often repaired."""
    data = bytearray(frame)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.randrange(1, 9)]
            case 2:
                data[place:place] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                data[place : place + 1] = bytes([chance.choice(MARKS)])
            case 4:
                other = chance.choice(frames)
                start = chance.randrange(len(other))
                data[place : place + chance.randrange(1, 40)] = other[start : start + chance.randrange(1, 40)]
            case 5:
                data[place : place + 8] = struct.pack(chance.choice(("<q", ">q")), chance.choice((-1, 0, 1, 1 << 31, 1 << 62, -(1 << 63))))
            case 6:
                del data[place:]
    if chance.random() < 0.8 and len(data) > 4:
        data[:4] = struct.pack("<I", len(data) - 4)
    return bytes(data)


def read_damaged(frames, count, seed):
    """Feeds damaged frames in random pieces; returns how many were taken as frames all the same."""
    chance, taken = random.Random(seed), 0
    for _ in range(count):
        reader = FrameReader(1 << 20)
        stream = HELLO + b"".join(damaged(chance.choice(frames), frames, chance) for _ in range(chance.randrange(1, 4)))
        try:
            while stream:
                size = chance.choice((1, 7, 100, 100_000))
                taken += len(list(reader.feed(stream[:size])))
                stream = stream[size:]
            reader.end()
        except WireError:
            pass
    return taken


async def send_damaged(frames, count, seed):
    """Sends them to a system over connections that are closed again and again; an honest client goes on meanwhile."""
    chance = random.Random(seed)
    async with ActorSystem(listen="ws://127.0.0.1:0") as system, ActorSystem() as honest:
        await system.spawn(Mirror, name="mirror")
        mirror = await honest.connect(f"{system.address}/mirror", Mirror)
        process = psutil.Process()
        files = process.num_fds()
        body = msgspec.msgpack.encode([1, 1 << 40, "", "find", [["mirror"], [], []]])
        find = struct.pack("<I", len(body)) + body
        sent = 0
        while sent < count:
            async with connect(system.address, compression=None, max_size=None, close_timeout=1) as stranger:
                try:
                    await stranger.send(HELLO + find)
                    for _ in range(12):  # more would wait unread while the connection is closed, and hold that up
                        await stranger.send(damaged(chance.choice(frames), frames, chance))
                        sent += 1
                        if sent % 10 == 0:
                            await asyncio.sleep(0)
                except ConnectionClosed:
                    pass
                stranger.transport.abort()
            assert await mirror.ping() == "pong"
        while len(system._network._links) > 1:
            await asyncio.sleep(0)
        assert process.num_fds() <= files
        assert not system._network._in_use


def nothing_unexpected(caplog):
    """No error of ours, and no flood of lines; what a handler of the test raises is written down as always."""
    for record in caplog.records:
        assert "could not be handled" not in record.getMessage()
        assert record.exc_info is None
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) <= 4 * BURST


async def test_damaged_frames_are_read_or_refused(recorded):
    assert read_damaged(recorded, 20_000, seed=1) > 0


async def test_damaged_frames_over_sockets(recorded, caplog):
    await send_damaged(recorded, 5000, seed=2)
    nothing_unexpected(caplog)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_many_damaged_frames_are_read_or_refused(recorded):
    assert read_damaged(recorded, 10 * FRAMES, seed=3) > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_many_damaged_frames_over_sockets(recorded, caplog):
    await send_damaged(recorded, FRAMES, seed=4)
    nothing_unexpected(caplog)
