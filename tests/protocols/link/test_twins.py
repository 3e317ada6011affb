"""Two servers in one process: steps in threads, giving up, errors, and that neither threads nor their order change what is sent."""

import asyncio
import threading

import numpy as np
import pytest

from protocols.concurrency import Background
from protocols.errors import WorkerLost
from protocols.link import threads as link_threads
from protocols.link.seal import Seal
from protocols.link.threads import LONG, VERY_LONG, Precedence, Threads
from protocols.link.twins import Twins
from protocols.mpc.parties.exchange import Party, exchange

LIMIT = 60
"""Seconds after which a thread of a test goes on by itself, so that a test that fails ends."""


class Pair:
    """Both servers; what one sends is in the inbox of the other at once. Both compute in one pool of threads."""

    def __init__(self):
        self.precedence = Precedence()
        self.precedence.expected = lambda beside: True  # somebody is always about to ask for something short
        self.threads, self.background = Threads("test", 2, precedence=self.precedence), Background()
        self.sent = []
        self.twins = [self._twin(index) for index in (0, 1)]

    def _twin(self, index):
        async def deliver(name, channel, number, arrays):
            assert name == b"model"
            self.sent.append((index, channel, number, [array.copy() for array in arrays]))
            self.twins[1 - index].inboxes.put(channel, number, arrays)

        async def give_up(name, channel):
            self.twins[1 - index].given_up(channel)

        return Twins(
            b"model",
            Party(index),
            deliver=deliver,
            give_up=give_up,
            threads=self.threads,
            background=self.background,
            patience=LIMIT,
        )

    def compute(self, index, protocol, *, words=LONG, channel=b"channel", received=None, who=b"somebody"):
        seal = Seal(bytes(32), channel)
        return asyncio.create_task(self._sealed(self.twins[index], protocol, channel, seal, words, received, who))

    async def _sealed(self, twins, protocol, channel, seal, words, received, who):
        result, cost = await twins.compute(protocol, channel, seal, words=words, dealt=0, received=received, who=who)
        return result, cost, seal.close()


@pytest.fixture
async def pair():
    made = Pair()
    yield made
    await made.background.ended()
    made.threads.close()


class Held:
    """A protocol whose second step lasts until it is let go, and the marks that it leaves."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.released = self.finished = self.closed = False

    async def protocol(self, me):
        try:
            await exchange({me.other: np.arange(4, dtype=np.uint64)}, awaiting={me.other})
            self.begun.set()
            self.released = self.go.wait(LIMIT)
            self.finished = True
            received = await exchange({me.other: np.ones(2, np.uint64)}, awaiting={me.other})
            return received[me.other]
        finally:
            self.closed = True


async def plain(me):
    await exchange({me.other: np.arange(4, dtype=np.uint64)}, awaiting={me.other})
    return (await exchange({me.other: np.full(2, 7, np.uint64)}, awaiting={me.other}))[me.other]


async def listening(me):
    """The same rounds, but it sends nothing in the second."""
    await exchange({me.other: np.arange(4, dtype=np.uint64)}, awaiting={me.other})
    await exchange({}, awaiting={me.other})


async def until(condition):
    """Let the loop go on until something is so that a thread brings about."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0)


async def test_the_loop_goes_on_while_a_long_step_runs(pair):
    held = Held()
    first, second = pair.compute(0, held.protocol(Party(0))), pair.compute(1, plain(Party(1)))
    await until(held.begun.is_set)
    short = [pair.compute(index, plain(Party(index)), words=1, channel=b"short") for index in (0, 1)]
    assert [result[0].tolist() for result in await asyncio.gather(*short)] == [[7, 7]] * 2
    assert not held.finished
    held.go.set()  # by the loop, which the step has not stopped
    assert [result[0].tolist() for result in await asyncio.gather(first, second)] == [[7, 7], [1, 1]]
    assert held.released


@pytest.mark.parametrize("words", [1, LONG, VERY_LONG - 1, VERY_LONG, 1 << 30])
@pytest.mark.parametrize("recently", [None, b"somebody", b"somebody else"])
async def test_long_steps_leave_the_loop_for_somebody_else_with_a_short_one_and_very_long_ones_always(pair, monkeypatch, words, recently):
    monkeypatch.setattr(link_threads, "RECENTLY", 1e9)
    del pair.precedence.expected
    if recently:
        await asyncio.gather(*(pair.compute(index, plain(Party(index)), words=1, channel=b"short", who=recently) for index in (0, 1)))
    ran = []

    async def noted(me):
        ran.append(threading.current_thread() is threading.main_thread())
        return await plain(me)

    await asyncio.gather(*(pair.compute(index, noted(Party(index)), words=words) for index in (0, 1)))
    assert ran == [words == 1 or (words < VERY_LONG and recently != b"somebody else")] * 2


@pytest.mark.parametrize("words", [1, LONG])
async def test_what_waits_for_material_computes_in_threads_and_does_not_give_way_to_itself(pair, monkeypatch, words):
    monkeypatch.setattr(link_threads, "GIVE_WAY", float(LIMIT))
    ran = []

    async def noted(me):
        ran.append((threading.current_thread() is threading.main_thread(), dict(pair.precedence._short)))
        return await plain(me)

    protocols = [twins.compute(noted(twins.me), b"channel", None, words=words, dealt=0, who=b"one", delay=1.0) for twins in pair.twins]
    async with asyncio.timeout(LIMIT / 2):
        await asyncio.gather(*protocols)
    assert ran == [(False, {})] * 2


async def test_steps_in_threads_send_and_seal_what_steps_on_the_loop_do(pair):
    found = []
    for words in (LONG - 1, LONG):
        pair.sent.clear()
        m = np.arange(12, dtype=np.uint64)
        both = [pair.compute(index, plain(Party(index)), words=words, received=m) for index in (0, 1)]
        results = await asyncio.gather(*both)
        assert results[0][2] == results[1][2]
        messages = sorted((sender, number, [array.tolist() for array in arrays]) for sender, _, number, arrays in pair.sent)
        found.append((messages, [(result.tolist(), cost, seal) for result, cost, seal in results]))
    assert found[0] == found[1]


async def test_a_computation_that_is_given_up_by_the_other_server_ends_after_its_step(pair):
    held = Held()
    first = pair.compute(0, held.protocol(Party(0)))
    second = pair.compute(1, listening(Party(1)))
    await until(held.begun.is_set)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not first.done()
    held.go.set()
    with pytest.raises(WorkerLost, match="gave this computation up"):
        await first
    assert held.finished
    assert held.closed


@pytest.mark.parametrize("times", [1, 3])
async def test_whoever_is_cancelled_during_a_step_leaves_no_thread_behind(pair, times):
    held = Held()
    first, second = pair.compute(0, held.protocol(Party(0))), pair.compute(1, plain(Party(1)))
    await until(held.begun.is_set)
    for _ in range(times):
        first.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not first.done(), "the step still computes with the material of this computation"
    assert not held.closed
    held.go.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert held.finished
    assert held.closed
    with pytest.raises(WorkerLost, match="gave this computation up"):
        await second
    assert not pair.twins[0].inboxes


async def test_a_step_that_waits_for_a_thread_never_begins_once_it_is_cancelled():
    pool, go, ran = Threads("one", 1), threading.Event(), []
    begun = threading.Event()
    busy = asyncio.create_task(pool.run(lambda: (begun.set(), go.wait(LIMIT))))
    await until(begun.is_set)
    waiting = asyncio.create_task(pool.run(lambda: ran.append(1)))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    await busy
    await pool.run(lambda: None)
    assert not ran
    pool.close()


@pytest.mark.parametrize("words", [1, LONG])
@pytest.mark.parametrize("rounds", [0, 1])
async def test_an_error_of_a_step_is_raised_here_and_ends_the_other_side(pair, words, rounds):
    async def broken(me):
        for _ in range(rounds):
            await exchange({me.other: np.arange(4, dtype=np.uint64)}, awaiting={me.other})
        raise ZeroDivisionError("of a step")

    first, second = pair.compute(0, broken(Party(0)), words=words), pair.compute(1, plain(Party(1)), words=words)
    with pytest.raises(ZeroDivisionError, match="of a step"):
        await first
    with pytest.raises(WorkerLost, match="gave this computation up"):
        await second


async def test_when_a_link_is_closed_its_computations_fail(pair):
    waiting = pair.compute(0, plain(Party(0)))
    await until(lambda: pair.sent)
    pair.twins[0].close(WorkerLost("the owner is gone"))
    with pytest.raises(WorkerLost, match="the owner is gone"):
        await waiting


async def test_long_work_waits_while_something_short_is_under_way(monkeypatch):
    monkeypatch.setattr(link_threads, "GIVE_WAY", LIMIT)
    precedence = Precedence()
    pool = Threads("one", 1, precedence=precedence)
    ran = threading.Event()
    with precedence.short(b"one"):
        with precedence.short(b"other"):
            work = asyncio.create_task(pool.run(ran.set))
            for _ in range(20):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not ran.is_set()
    await work
    assert ran.is_set()
    pool.close()


async def test_short_computations_do_not_keep_long_work_waiting_for_ever(monkeypatch):
    monkeypatch.setattr(link_threads, "GIVE_WAY", 0.0)
    precedence = Precedence()
    pool = Threads("one", 1, precedence=precedence)
    with precedence.short(b"one"):
        assert await pool.run(lambda: 5) == 5
    pool.close()
