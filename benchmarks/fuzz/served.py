"""Frames at a worker: one in this process, with all its actors, that anybody may ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from actors import ActorSystem, limits
from actors.connection.peer import Peer
from actors.connection.wire import Encoded, FrameReader, Packet, encode, hello
from actors.errors import LinkError
from actors.messages.frames import Proof
from benchmarks.fuzz.wire import GREETING, frame_seeds
from protocols.authority.membership import Membership
from protocols.workers.worker_process import Encryption, opened

TURNS = 20
"""Turns of the event loop that a worker gets to answer."""


class Served:
    """A worker in this process, and connections to it without a socket."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self._system: ActorSystem = self._do(self._open())

    async def _open(self) -> ActorSystem:
        system, _ = await self._stack.enter_async_context(opened("127.0.0.1:0", Encryption(), Membership()))
        return system

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """End the worker."""
        self._do(self._stack.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def connected(self, data: bytes) -> None:
        """Send this over a new connection, and end it."""
        self._do(self._connected(data))

    async def _connected(self, data: bytes) -> None:
        peer = Peer(self._system, self._written, address="", label="somebody", host="127.0.0.1")
        await peer.start()
        reader = FrameReader(limits.MESSAGE_LIMIT)
        try:
            for packet in reader.feed(data):
                peer.receive(packet)
            reader.end()
        except LinkError:
            pass
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await peer.lost("the input is over", orderly=False)

    @staticmethod
    def _written(encoded: Encoded, written: asyncio.Future[None] | None) -> None:
        if written is not None and not written.done():
            written.set_result(None)


@contextlib.contextmanager
def handshake() -> Iterator[Callable[[bytes], None]]:
    """Everything that somebody sends who connects."""
    with contextlib.closing(Served()) as served:
        yield served.connected


def handshake_seeds() -> list[bytes]:
    """Greetings, with proofs and without."""
    plain, nonced = GREETING, encode(hello(limits.MESSAGE_LIMIT, bytes(32), 60)).header
    proof = encode(Packet(Proof("ws://127.0.0.1:1", bytes(32), bytes(32)), [])).header
    return [plain, nonced, nonced + proof, nonced + proof + frame_seeds()[0]]


@contextlib.contextmanager
def worker() -> Iterator[Callable[[bytes], None]]:
    """What arrives at a worker after a greeting: calls of all its actors among it."""
    with contextlib.closing(Served()) as served:
        yield lambda data: served.connected(GREETING + data)
