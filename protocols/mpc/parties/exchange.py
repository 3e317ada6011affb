"""Protocols as coroutines without I/O: one await of `exchange` is one round.

A protocol is an `async def` that awaits only `exchange`, `together`, `until`, or another protocol. It never touches an event loop: whoever
runs it (the simulator of the tests, or a compute server) receives a `Round`, delivers its messages, and sends the answers back in.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]
Received = dict[int, list[Ring]]
T = TypeVar("T")
Protocol = Coroutine[Any, Any, T]


@dataclass(frozen=True)
class Round:
    """What a protocol wants from the network: arrays to send to each party, and how many it awaits from each."""

    messages: Mapping[int, list[Ring]] = field(repr=False)
    awaiting: Mapping[int, int]

    @property
    def bytes_sent(self) -> int:
        """The payload of the round in bytes, all receivers together."""
        return sum(array.nbytes for arrays in self.messages.values() for array in arrays)


@dataclass(frozen=True)
class Until:
    """What a protocol waits for beside the network: whoever runs it awaits `ready`, and sends what comes of it back in."""

    ready: Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Party:
    """One of the two servers, as its own protocol sees itself: party 0 adds the public constants."""

    index: int

    @property
    def other(self) -> int:
        """The number of the other server."""
        return 1 - self.index


@types.coroutine
def _ask(request: Round) -> Generator[Round, Received, Received]:
    return (yield request)


@types.coroutine
def _wait(request: Until) -> Generator[Until, Any, Any]:
    return (yield request)


async def until(ready: Callable[[], Awaitable[T]]) -> T:
    """Wait for something that is not a message of another party, between two rounds; not inside of `together`. **Rounds**: 0."""
    result: T = await _wait(Until(ready))
    return result


async def exchange(messages: Mapping[int, Ring], *, awaiting: set[int]) -> dict[int, Ring]:
    """Send one array to each party named in `messages` and receive one from each party in `awaiting`.

    **Rounds**: 1. **Bytes**: those of the arrays.
    """
    received = await _ask(Round({to: [array] for to, array in messages.items()}, dict.fromkeys(awaiting, 1)))
    return {sender: arrays[0] for sender, arrays in received.items()}


async def together(*protocols: Protocol[T]) -> list[T]:
    """Run protocols side by side, each round of one in the same message as a round of the others; return their results in order.

    All parties must name the same protocols in the same order. **Rounds**: the largest of theirs. **Bytes**: the sum.
    """
    results: dict[int, T] = {}
    to_begin = dict(enumerate(protocols))

    def ready() -> dict[int, Protocol[T]]:
        begun = dict(to_begin)
        to_begin.clear()
        return begun

    await as_ready(ready, results.__setitem__)
    return [results[i] for i in range(len(protocols))]


async def as_ready(ready: Callable[[], Mapping[int, Protocol[T]]], done: Callable[[int, T], None]) -> None:
    """Run protocols side by side, each from the round on in which it can begin, until none runs and none is ready.

    All parties must do the same in the same order. **Rounds**: those of the longest chain of protocols that wait for each other.

    Args:
        ready: by number the protocols that can begin now, each once; asked again whenever one has ended.
        done: is told the result of each.
    """
    running: dict[int, Protocol[T]] = {}
    answers: dict[int, Received | None] = {}
    waiting: dict[int, Round] = {}
    try:
        while True:
            begun = ready()
            running.update(begun)
            answers.update(dict.fromkeys(begun))
            for i, answer in answers.items():
                try:
                    waiting[i] = running[i].send(answer)
                except StopIteration as stop:
                    del running[i]
                    done(i, stop.value)
            ended = answers.keys() - waiting.keys()
            answers = {}
            if ended:
                continue  # others may be ready for the same round
            if not waiting:
                return
            answers = dict(_apart(waiting, await _ask(_merged(waiting))))
            waiting.clear()
    finally:
        for protocol in running.values():
            protocol.close()


def _merged(waiting: Mapping[int, Round]) -> Round:
    messages: dict[int, list[Ring]] = {}
    awaiting: dict[int, int] = {}
    for request in waiting.values():
        for to, arrays in request.messages.items():
            messages.setdefault(to, []).extend(arrays)
        for sender, count in request.awaiting.items():
            awaiting[sender] = awaiting.get(sender, 0) + count
    return Round(messages, awaiting)


def _apart(waiting: Mapping[int, Round], received: Received) -> Generator[tuple[int, Received], None, None]:
    used = dict.fromkeys(received, 0)
    for i, request in waiting.items():
        share: Received = {}
        for sender, count in request.awaiting.items():
            share[sender] = received[sender][used[sender] : used[sender] + count]
            used[sender] += count
        yield i, share


async def open_sum(me: Party, share: Ring) -> Ring:
    """X = x_0 + x_1 modulo 2^64, known to both. **Rounds**: 1. **Bytes**: 8 an element and direction. **Leaks**: x, to both servers."""
    received = await exchange({me.other: share}, awaiting={me.other})
    return share + received[me.other]


async def open_bits(me: Party, share: Ring) -> Ring:
    """Open the XOR of two packed bit shares to both. **Rounds**: 1. **Bytes**: those of the array. **Leaks**: the bits, to both."""
    received = await exchange({me.other: share}, awaiting={me.other})
    return share ^ received[me.other]
