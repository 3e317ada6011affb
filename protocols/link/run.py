"""One computation between two servers in life: sends each round to the other server, waits for its answer, counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from protocols.errors import WorkerLost
from protocols.link import agreement
from protocols.link.seal import Seal
from protocols.link.threads import Runner
from protocols.mpc.parties.exchange import Protocol, Received, Ring, Round, Until

T = TypeVar("T")
Send = Callable[[bytes, int, list[Ring]], Awaitable[None]]


class Cost(msgspec.Struct, frozen=True):
    """What one computation cost one server: rounds, and bytes of payload to and from the other server; bytes dealt ahead."""

    rounds: int
    sent: int
    received: int
    dealt: int


class Spent:
    """What all computations of one worker with another have cost, for its figures: see `Cost`.

    Attributes:
        computations: that have ended, with a result.
        rounds, sent, received, dealt: of them.
    """

    def __init__(self) -> None:
        self.computations = self.rounds = self.sent = self.received = self.dealt = 0

    def add(self, cost: Cost) -> None:
        """Count one more."""
        self.computations += 1
        self.rounds += cost.rounds
        self.sent += cost.sent
        self.received += cost.received
        self.dealt += cost.dealt


class Inbox:
    """The rounds that have arrived from the other server for one computation, in any order, each once."""

    def __init__(self) -> None:
        self._arrived: dict[int, list[Ring]] = {}
        self._awaited: tuple[int, asyncio.Future[list[Ring]]] | None = None
        self._failure: Exception | None = None

    def put(self, number: int, arrays: list[Ring]) -> None:
        """Take in a round that has arrived."""
        if self._awaited is not None and self._awaited[0] == number:
            if not self._awaited[1].done():
                self._awaited[1].set_result(arrays)
        else:
            self._arrived[number] = arrays

    def fail(self, error: Exception) -> None:
        """Have whoever waits fail: no more rounds will arrive."""
        self._failure = error
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[1].set_exception(error)

    async def get(self, number: int, patience: float) -> list[Ring]:
        """Wait for a round.

        Raises:
            TimeoutError: it did not arrive within `patience` seconds.
        """
        if number in self._arrived:
            return self._arrived.pop(number)
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Ring]] = loop.create_future()
        self._awaited = (number, future)
        timer = loop.call_later(patience, _late, future)  # cheaper than a `timeout` block, and there is one in every round
        try:
            return await future
        finally:
            timer.cancel()
            self._awaited = None


def _late(future: asyncio.Future[list[Ring]]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class Inboxes:
    """The inboxes of all computations of one server. The other server may be first; what nobody claims in time is thrown away."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._open: dict[bytes, Inbox] = {}
        self._unclaimed: dict[bytes, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._open)

    def put(self, channel: bytes, number: int, arrays: list[Ring]) -> None:
        """Take in a round that has arrived from the other server, perhaps before the client has reached this one."""
        if channel not in self._open:
            self._open[channel] = Inbox()
            self._unclaimed[channel] = asyncio.get_running_loop().call_later(self._patience, self._discard, channel)
        self._open[channel].put(number, arrays)

    def fail(self, channel: bytes, error: Exception) -> None:
        """Have one computation fail, which the other server has given up."""
        if channel in self._open:
            self._open[channel].fail(error)

    def fail_all(self, error: Exception) -> None:
        """Have all computations fail: the other server is gone."""
        for inbox in self._open.values():
            inbox.fail(error)

    @contextlib.contextmanager
    def claimed(self, channel: bytes) -> Iterator[Inbox]:
        """Hold the inbox of a computation while it runs."""
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
        """Forget everything."""
        for timer in self._unclaimed.values():
            timer.cancel()


async def drive(
    protocol: Protocol[T],
    channel: bytes,
    inbox: Inbox,
    send: Send,
    *,
    other: int,
    seal: Seal | None,
    dealt: int,
    patience: float,
    received: Ring | None = None,
    run: Runner | None = None,
) -> tuple[T, Cost]:
    """Run a protocol to its end: one message each way a round.

    A step is what a server computes between two rounds: it checks and seals the round that has ended, and goes on with the protocol. The
    steps of one computation run one after the other, each in whatever thread; which rounds they make does not depend on that.

    Args:
        protocol: what to run.
        channel: the name of the computation at the other server.
        inbox: where its messages arrive.
        send: delivers (channel, round, arrays) to the other server, and returns when the arrays may change.
        other: the number of the other server.
        seal: takes what a client sent in, and each round: the message of server 0, then that of server 1. None: whoever computes compares
            what came of it.
        dealt: bytes that were dealt ahead for this computation.
        patience: seconds to wait for each round.
        received: what a client sent to both servers: its digest goes in front of the first message, and is compared before the message is
            used. None: there is no such thing.
        run: runs a step, perhaps in a thread, see `protocols/link/threads.py`; None: on the event loop, which is right for what is short.

    Raises:
        Altered: the other server received something else from the client.
        WorkerLost: the other server gave up, went away, or was silent for too long.
    """
    steps = _Steps(protocol, other, seal, received)
    number, sent, arrived = 0, 0, 0
    answer: Any = None
    try:
        while True:
            step = partial(steps.next, answer)
            request = step() if run is None else await run(step)
            if isinstance(request, Until):
                step, answer = partial(steps.next, None), None  # what was there before may be freed
                answer = await request.ready()
                continue
            if isinstance(request, _Result):
                return request.value, Cost(number, sent, arrived, dealt)
            if other in request.messages:
                await send(channel, number, [*steps.front, *request.messages[other]])
                sent += request.bytes_sent
            answer = {other: await _in_time(inbox, number, patience)} if request.awaiting else {}
            arrived += sum(array.nbytes for array in answer.get(other, [])) - sum(array.nbytes for array in steps.front)
            number += 1
    finally:
        protocol.close()


@dataclass(frozen=True)
class _Result(Generic[T]):
    """What a protocol has returned."""

    value: T = field(repr=False)


class _Steps(Generic[T]):
    """The steps of one computation at one server, each called once, in order.

    Attributes:
        front: what goes in front of the message of the round that is under way: in the first one the digest of what a client has sent.
    """

    def __init__(self, protocol: Protocol[T], other: int, seal: Seal | None, received: Ring | None) -> None:
        self._protocol, self._other, self._seal, self._received = protocol, other, seal, received
        self._request: Round | Until | None = None
        self.front: list[Ring] = []

    def next(self, answer: Any) -> Round | Until | _Result[T]:
        """Return what comes next, given what the other server has sent in the last round, or what was waited for; None before the first.

        Raises:
            Altered: the other server received something else from the client.
        """
        if self._request is None:
            self._begin()
        elif isinstance(self._request, Round):
            answer = self._end_round(self._request, answer)
        try:
            self._request = self._protocol.send(answer)
        except StopIteration as stop:
            return _Result(stop.value)
        return self._request

    def _begin(self) -> None:
        if self._received is not None:
            if self._seal is not None:
                self._seal.add([self._received])
            self.front = [agreement.digest(self._received)]

    def _end_round(self, request: Round, answer: Received) -> Received:
        if self.front:
            answer = {self._other: agreement.checked(self.front[0], answer.get(self._other, []))}
            self.front = []
        if self._seal is not None:
            for party in (0, 1):
                self._seal.add(answer.get(party, []) if party == self._other else request.messages.get(self._other, []))
        return answer


async def _in_time(inbox: Inbox, number: int, patience: float) -> list[Ring]:
    try:
        return await inbox.get(number, patience)
    except TimeoutError:
        raise WorkerLost(f"the other server did not send round {number + 1} within {patience:g} s") from None
