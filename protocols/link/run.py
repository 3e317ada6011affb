"""One computation between two servers in life: sends each round to the other server, waits for its answer, counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import msgspec

from protocols.errors import WorkerLost
from protocols.link import agreement
from protocols.link.seal import Seal
from protocols.mpc.parties.exchange import Protocol, Ring, Round

T = TypeVar("T")
Send = Callable[[bytes, int, list[Ring]], Awaitable[None]]


class Cost(msgspec.Struct, frozen=True):
    """What one computation cost one server: rounds, and bytes of payload to and from the other server; bytes dealt ahead."""

    rounds: int
    sent: int
    received: int
    dealt: int


class Inbox:
    """The rounds that have arrived from the other server for one computation, in any order, each once."""

    def __init__(self) -> None:
        self._arrived: dict[int, list[Ring]] = {}
        self._awaited: tuple[int, asyncio.Future[list[Ring]]] | None = None
        self._failure: Exception | None = None

    def put(self, number: int, arrays: list[Ring]) -> None:
        """A round has arrived."""
        if self._awaited is not None and self._awaited[0] == number:
            if not self._awaited[1].done():
                self._awaited[1].set_result(arrays)
        else:
            self._arrived[number] = arrays

    def fail(self, error: Exception) -> None:
        """No more rounds will arrive."""
        self._failure = error
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[1].set_exception(error)

    async def get(self, number: int) -> list[Ring]:
        """Waits for a round."""
        if number in self._arrived:
            return self._arrived.pop(number)
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[list[Ring]] = asyncio.get_running_loop().create_future()
        self._awaited = (number, future)
        try:
            return await future
        finally:
            self._awaited = None


class Inboxes:
    """The inboxes of all computations of one server. The other server may be first; what nobody claims in time is thrown away."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._open: dict[bytes, Inbox] = {}
        self._unclaimed: dict[bytes, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._open)

    def put(self, channel: bytes, number: int, arrays: list[Ring]) -> None:
        """A round has arrived from the other server, perhaps before the client has reached this one."""
        if channel not in self._open:
            self._open[channel] = Inbox()
            self._unclaimed[channel] = asyncio.get_running_loop().call_later(self._patience, self._discard, channel)
        self._open[channel].put(number, arrays)

    def fail(self, channel: bytes, error: Exception) -> None:
        """The other server has given one computation up."""
        if channel in self._open:
            self._open[channel].fail(error)

    def fail_all(self, error: Exception) -> None:
        """The other server is gone."""
        for inbox in self._open.values():
            inbox.fail(error)

    @contextlib.contextmanager
    def claimed(self, channel: bytes) -> Iterator[Inbox]:
        """The inbox of a computation while it runs."""
        timer = self._unclaimed.pop(channel, None)
        if timer is not None:
            timer.cancel()
        try:
            yield self._open.setdefault(channel, Inbox())
        finally:
            del self._open[channel]

    def _discard(self, channel: bytes) -> None:
        del self._open[channel], self._unclaimed[channel]

    def close(self) -> None:
        """Forgets everything."""
        for timer in self._unclaimed.values():
            timer.cancel()


async def drive(
    protocol: Protocol[T],
    channel: bytes,
    inbox: Inbox,
    send: Send,
    *,
    other: int,
    seal: Seal,
    dealt: int,
    patience: float,
    received: Ring | None = None,
) -> tuple[T, Cost]:
    """Runs a protocol to its end: one message each way a round.

    Args:
        protocol: what to run.
        channel: the name of the computation at the other server.
        inbox: where its messages arrive.
        send: delivers (channel, round, arrays) to the other server.
        other: the number of the other server.
        seal: takes each round in: the message of server 0, then that of server 1.
        dealt: bytes that were dealt ahead for this computation.
        patience: seconds to wait for each round.
        received: what a client sent to both servers: its digest goes in front of the first message, and is compared before the message is
            used. None: there is no such thing.

    Raises:
        Altered: the other server received something else from the client.
        WorkerLost: the other server gave up, went away, or was silent for too long.
    """
    number, sent, arrived = 0, 0, 0
    digest = None if received is None else agreement.digest(received)
    answer = None
    try:
        while True:
            try:
                request: Round = protocol.send(answer)
            except StopIteration as stop:
                return stop.value, Cost(number, sent, arrived, dealt)
            if other in request.messages:
                front = [] if digest is None or number else [digest]
                await send(channel, number, [*front, *request.messages[other]])
                sent += request.bytes_sent
            answer = {other: await _in_time(inbox, number, patience)} if request.awaiting else {}
            if digest is not None and number == 0:
                answer[other] = agreement.checked(digest, answer.get(other, []))
            arrived += sum(array.nbytes for array in answer.get(other, []))
            for party in (0, 1):
                seal.add(answer.get(other, []) if party == other else request.messages.get(other, []))
            number += 1
    finally:
        protocol.close()


async def _in_time(inbox: Inbox, number: int, patience: float) -> list[Ring]:
    try:
        async with asyncio.timeout(patience):
            return await inbox.get(number)
    except TimeoutError:
        raise WorkerLost(f"the other server did not send round {number + 1} within {patience:g} s") from None
