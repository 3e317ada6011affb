"""What holds for every message, in process and over a connection alike."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from actors import (
    Actor,
    ActorNotFound,
    ActorRef,
    ActorStopped,
    CallCancelled,
    CallTimeout,
    Crash,
    MessageRejected,
    OneWayFailed,
    RemoteError,
    Restart,
    message,
    portable_error,
)


class Point(msgspec.Struct, frozen=True):
    x: int
    weights: npt.NDArray[np.float64] | None = None
    owner: Counter | None = None


@dataclass(frozen=True)
class Pair:
    first: str
    second: tuple[int, ...]


@portable_error
class OutOfStock(Exception):
    pass


class Unregistered(Exception):
    pass


class Counter(Actor):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    @message
    async def add(self, n: int, *, times: int = 1) -> int:
        self.total += n * times
        return self.total

    @message
    def add_now(self, n: int = 1) -> int:
        self.total += n
        return self.total

    @message(reentrant=True)
    def peek(self) -> int:
        return self.total

    @message
    async def wrong_result(self) -> int:
        return "text"  # type: ignore[return-value]

    @message
    async def unsendable_result(self) -> Any:
        return object()


class Mirror(Actor):
    def __init__(self) -> None:
        self.kept = np.zeros(3)

    @message
    async def value(self, x: Any) -> Any:
        return x

    @message
    async def double(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        x *= 2  # what arrives is ours to change
        return x

    @message
    async def any_array(self, x: np.ndarray) -> np.ndarray:
        return x

    @message
    async def keep(self) -> npt.NDArray[np.float64]:
        return self.kept

    @message
    async def point(self, p: Point) -> Point:
        return p

    @message
    async def pair(self, p: Pair, mode: Literal["a", "b"] = "a") -> list[Pair]:
        return [p, Pair(mode, ())]

    @message
    async def numbers(self, x: set[int]) -> dict[str, set[int]]:
        return {"x": x}


class Faulty(Actor):
    @message
    async def fail(self, kind: str) -> None:
        raise {
            "value": ValueError("bad value"),
            "key": KeyError("k"),
            "stock": OutOfStock("apples", 3),
            "other": Unregistered("what happened"),
            "timeout": TimeoutError("its own"),
        }[kind]

    @message(reentrant=True)
    def fail_now(self) -> None:
        raise OutOfStock("pears")


class Gate(Actor):
    """Handlers that wait until the test lets them go on."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.open = asyncio.Event()
        GATES.append(self)

    async def _pass(self, name: str) -> str:
        self.entered.put_nowait(name)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.left.put_nowait(f"{name} cancelled")
            raise
        self.left.put_nowait(name)
        return name

    @message
    async def one_by_one(self, name: str) -> str:
        return await self._pass(name)

    @message(reentrant=True)
    async def overlapping(self, name: str) -> str:
        return await self._pass(name)

    @message
    def at_once(self, name: str) -> str:
        self.left.put_nowait(name)
        return name

    @message(reentrant=True)
    def release(self) -> None:
        self.open.set()


GATES: list[Gate] = []


async def gate(place, **options):
    ref = await place.spawn(Gate, **options)
    return ref, GATES.pop()


# Calls.


async def test_call(place):
    counter = await place.spawn(Counter, 1)
    assert await counter.add(3) == 4
    assert await counter.add(n=1, times=2) == 6
    assert await counter.add_now() == 7
    assert await counter.peek() == 7


async def test_wrong_number_of_arguments_is_said_before_anything_is_sent(place):
    counter = await place.spawn(Counter)
    with pytest.raises(TypeError, match=r"Counter.add\(n: .*missing a required argument: 'n'"):
        counter.add()
    with pytest.raises(TypeError, match="unexpected keyword argument 'm'"):
        counter.add(1, m=2)


async def test_unknown_message_lists_the_known_ones(place):
    counter = await place.spawn(Counter)
    with pytest.raises(AttributeError, match="no message 'nope'; it answers: add, add_now, peek"):
        counter.nope  # noqa: B018
    with pytest.raises(AttributeError):
        counter.total  # noqa: B018
    with pytest.raises(AttributeError):
        counter.started  # noqa: B018


@pytest.mark.parametrize("bad", ["3", 3.5, None, [3], np.zeros(2)])
async def test_wrong_argument_names_message_and_argument(place, bad):
    counter = await place.spawn(Counter)
    with pytest.raises(MessageRejected, match=r"Counter.add: argument 'n': Expected `int`"):
        await counter.add(bad)
    assert await counter.peek() == 0


async def test_wrong_result_is_said(place):
    counter = await place.spawn(Counter)
    with pytest.raises(MessageRejected, match=r"Counter.wrong_result: result: Expected `int`, got `str`"):
        await counter.wrong_result()
    with pytest.raises(MessageRejected, match=r"a builtins.object cannot be sent"):
        await counter.unsendable_result()
    assert await counter.add(1) == 1


@pytest.mark.parametrize("bad", [object(), 1 << 64, -(1 << 63) - 1, np.array([object()]), np.array(["text"]), 1j, np.ma.masked_array([1])])
async def test_what_cannot_be_sent_is_refused_at_the_sender(place, bad):
    mirror = await place.spawn(Mirror)
    with pytest.raises(MessageRejected, match=r"Mirror.value"):
        await mirror.value([bad])


async def test_a_value_nested_too_deeply_is_refused(place):
    mirror = await place.spawn(Mirror)
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(MessageRejected):
        await mirror.value(value)
    while value:  # so that it can be freed without recursion
        value = value[0]


# Values.


@pytest.mark.parametrize("value", [None, True, 0, -(1 << 63), (1 << 64) - 1, 1.5, "ü", b"\x00", [], [1, ["a"]], {"a": {1: [2.0]}}])
async def test_plain_values_arrive_equal(place, value):
    mirror = await place.spawn(Mirror)
    arrived = await mirror.value(value)
    assert arrived == value
    assert type(arrived) is type(value)


async def test_numpy_scalars_arrive_as_plain_numbers(place):
    mirror, counter = await place.spawn(Mirror), await place.spawn(Counter)
    assert await mirror.value([np.int64(3), np.float32(0.5), np.bool_(True)]) == [3, 0.5, True]
    assert await counter.add(np.uint8(3)) == 3


async def test_structs_dataclasses_and_sets_come_back_as_declared(place):
    mirror = await place.spawn(Mirror)
    assert await mirror.pair(Pair("p", (1, 2)), "b") == [Pair("p", (1, 2)), Pair("b", ())]
    assert await mirror.numbers({1, 2}) == {"x": {1, 2}}
    with pytest.raises(MessageRejected, match="argument 'mode': a value that is none of those allowed"):
        await mirror.pair(Pair("p", ()), "c")
    with pytest.raises(MessageRejected, match=r"argument 'p'\.second\[0\]: Expected `int`, got `str`"):
        await mirror.pair(Pair("p", ("x",)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 3)),
        np.zeros((2, 0), np.int8),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array([1.5], np.float16),
        np.array([1 + 2j], np.complex64),
        np.arange(70_000, dtype=np.uint16),
        np.arange(1_000_000, dtype=np.float32).reshape(1000, 1000).T,
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
async def test_arrays_arrive_equal(place, array):
    mirror = await place.spawn(Mirror)
    arrived = await mirror.any_array(array)
    assert arrived.shape == array.shape
    assert arrived.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(arrived, array)
    assert arrived.flags.writeable
    assert arrived.flags.c_contiguous


async def test_the_dtype_of_an_array_is_checked(place):
    mirror = await place.spawn(Mirror)
    with pytest.raises(MessageRejected, match="argument 'x': Expected an array of float64, got one of float32"):
        await mirror.double(np.zeros(2, np.float32))
    with pytest.raises(MessageRejected, match="Expected an array, got `int`"):
        await mirror.double(3)


@pytest.mark.parametrize("size", [3, 500_000])
async def test_no_memory_is_shared(place, size):
    mirror = await place.spawn(Mirror)
    array, nested = np.ones(size), [[1]]
    doubled = await mirror.double(array)
    assert array[0] == 1
    assert doubled[0] == 2
    back = await mirror.value(nested)
    back[0].append(2)
    assert nested == [[1]]
    kept = await mirror.keep()
    kept[:] = 9
    assert (await mirror.keep() == 0).all()


async def test_structs_with_arrays_and_references(place):
    mirror, counter = await place.spawn(Mirror), await place.spawn(Counter, 5)
    back = await mirror.point(Point(3, np.arange(3.0), counter))
    assert isinstance(back, Point)
    assert back.x == 3
    assert back.weights.tolist() == [0, 1, 2]
    assert back.owner == counter
    assert await back.owner.add(1) == 6


# Errors.


async def test_portable_errors_keep_their_class_and_arguments(place):
    faulty = await place.spawn(Faulty)
    with pytest.raises(OutOfStock) as caught:
        await faulty.fail("stock")
    assert caught.value.args == ("apples", 3)
    with pytest.raises(OutOfStock, match="pears"):
        await faulty.fail_now()


FOREIGN = {"value": (ValueError, "bad value"), "key": (KeyError, "'k'"), "other": (Unregistered, "what happened")}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_of_other_errors_the_class_crosses_and_the_rest_stays_in_the_log(place, kind, caplog):
    cls, text = FOREIGN[kind]
    faulty = await place.spawn(Faulty)
    with pytest.raises(RemoteError if place.remote else cls) as caught:
        await faulty.fail(kind)
    if place.remote:
        assert str(caught.value) == f"{cls.__name__}: failed inside the handler; the log of its own system says why"
        [note] = caught.value.__notes__
        assert note.startswith("raised by Faulty.fail at ws://127.0.0.1:")
        assert text not in note
        assert "in fail" not in note
        assert text in caplog.text
        assert "in fail" in caplog.text
    else:
        assert str(caught.value) == text
        assert caught.traceback[-1].name == "fail"


async def test_an_error_does_not_end_the_actor(place):
    faulty = await place.spawn(Faulty)
    for _ in range(2):
        with pytest.raises(OutOfStock):
            await faulty.fail("stock")


async def test_a_timeout_of_the_handler_is_not_the_deadline_of_the_call(place):
    faulty = await place.spawn(Faulty)
    with pytest.raises(RemoteError if place.remote else TimeoutError) as caught:
        await faulty.fail("timeout")
    assert not isinstance(caught.value, CallTimeout)


# Order and overlap.


async def test_one_message_at_a_time_in_order(place):
    ref, actor = await gate(place)
    calls = [asyncio.create_task(ref.one_by_one(name)) for name in "abc"] + [asyncio.create_task(ref.at_once("d"))]
    assert await actor.entered.get() == "a"
    assert actor.entered.empty()
    await ref.release()
    assert await asyncio.gather(*calls) == ["a", "b", "c", "d"]
    assert [actor.left.get_nowait() for _ in range(4)] == ["a", "b", "c", "d"]


async def test_reentrant_messages_overlap_and_do_not_wait(place):
    ref, actor = await gate(place)
    calls = [asyncio.create_task(ref.one_by_one("a")), *(asyncio.create_task(ref.overlapping(name)) for name in "bc")]
    assert {await actor.entered.get() for _ in range(3)} == {"a", "b", "c"}
    await ref.release()
    assert await asyncio.gather(*calls) == ["a", "b", "c"]


async def test_many_one_way_messages_keep_their_order(place):
    ref, actor = await gate(place, mailbox=3)
    for number in range(200):
        await ref.with_options(one_way=True).at_once(str(number))
    assert [await actor.left.get() for _ in range(200)] == [str(number) for number in range(200)]


# Deadlines and cancelling.


async def test_the_deadline_stops_the_handler(place):
    ref, actor = await gate(place)
    with pytest.raises(CallTimeout, match=r"Gate.one_by_one of .*gate-1 did not answer within 0.01 s"):
        await ref.with_options(timeout=0.01).one_by_one("a")
    assert await actor.left.get() == "a cancelled"
    actor.open.set()
    assert await ref.one_by_one("b") == "b"


async def test_cancelling_the_awaiting_task_stops_the_handler(place):
    ref, actor = await gate(place)
    call = asyncio.create_task(ref.one_by_one("a"))
    await actor.entered.get()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await actor.left.get() == "a cancelled"


async def test_cancelling_a_message_that_waits_for_its_turn(place):
    ref, actor = await gate(place)
    first, second, third = (asyncio.create_task(ref.one_by_one(name)) for name in "abc")
    await actor.entered.get()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await ref.release()
    assert [await first, await third] == ["a", "c"]


async def test_a_deadline_of_one_call_does_not_affect_another(place):
    ref, actor = await gate(place)
    other = asyncio.create_task(ref.overlapping("b"))
    await actor.entered.get()
    with pytest.raises(CallTimeout):
        await ref.with_options(timeout=0.01).overlapping("a")
    actor.open.set()
    assert await other == "b"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
async def test_a_deadline_is_positive(place, timeout):
    ref, _ = await gate(place)
    with pytest.raises(ValueError, match="a deadline is a positive number"):
        ref.with_options(timeout=timeout)


class Canceller(Actor):
    @message
    async def give_up(self) -> None:
        raise asyncio.CancelledError


async def test_a_handler_that_cancels_itself(place):
    ref = await place.spawn(Canceller)
    with pytest.raises(CallCancelled, match=r"Canceller.give_up"):
        await ref.give_up()


# Messages without reply.


async def test_one_way_does_not_wait_for_the_handler(place):
    ref, actor = await gate(place)
    assert await ref.with_options(one_way=True).one_by_one("a") is None
    assert await actor.entered.get() == "a"
    actor.open.set()
    assert await actor.left.get() == "a"


async def test_a_failure_of_a_one_way_message_is_reported(place):
    faulty = await place.spawn(Faulty)
    await faulty.with_options(one_way=True).fail("stock")
    error = await place.errors.get()
    assert isinstance(error, OneWayFailed)
    assert isinstance(error.__cause__, OutOfStock)
    assert "fail" in str(error)
    assert "apples" in str(error)


async def test_a_wrong_argument_of_a_one_way_message_does_not_vanish(place):
    counter = await place.spawn(Counter)
    if place.remote:
        await counter.with_options(one_way=True).add("x")
        assert isinstance((await place.errors.get()).__cause__, MessageRejected)
    else:
        with pytest.raises(MessageRejected):
            await counter.with_options(one_way=True).add("x")


async def test_large_one_way_messages_may_be_overwritten_afterwards(place):
    class Keeper(Actor):
        def __init__(self) -> None:
            self.sums: list[float] = []

        @message
        def take(self, x: np.ndarray) -> None:
            self.sums.append(float(x.sum()))

        @message
        def total(self) -> list[float]:
            return self.sums

    keeper = await place.spawn(Keeper)
    buffer = np.zeros(400_000)
    for number in range(4):
        buffer[:] = number
        await keeper.with_options(one_way=True).take(buffer)
    assert await keeper.total() == [0, 400_000, 800_000, 1_200_000]


# Back-pressure.


async def test_a_full_mailbox_makes_the_sender_wait_and_nobody_else(place):
    ref, actor = await gate(place, mailbox=2)
    counter = await place.spawn(Counter)
    send = ref.with_options(one_way=True)
    await send.one_by_one("a")
    await send.one_by_one("b")
    third = asyncio.create_task(send.one_by_one("c"))
    assert await actor.entered.get() == "a"
    assert await counter.add(1) == 1  # another actor over the same connection
    assert not third.done()
    actor.open.set()
    await third
    assert [await actor.left.get() for _ in range(3)] == ["a", "b", "c"]


async def test_the_deadline_holds_while_waiting_for_room(place):
    ref, actor = await gate(place, mailbox=1)
    send = ref.with_options(one_way=True)
    await send.one_by_one("a")
    with pytest.raises(CallTimeout, match=r"was not accepted within 0.01 s"):
        await send.with_options(timeout=0.01).one_by_one("b")
    with pytest.raises(CallTimeout, match="did not answer"):
        await ref.with_options(timeout=0.01).one_by_one("c")
    actor.open.set()
    assert await ref.one_by_one("d") == "d"
    assert [await actor.left.get() for _ in range(2)] == ["a", "d"]


async def test_cancels_pass_a_full_mailbox(place):
    ref, actor = await gate(place, mailbox=1)
    call = asyncio.create_task(ref.one_by_one("a"))
    await actor.entered.get()
    waiting = asyncio.create_task(ref.one_by_one("b"))
    await (await place.spawn(Counter)).add(1)
    call.cancel()
    assert await actor.left.get() == "a cancelled"
    assert await actor.entered.get() == "b"
    actor.open.set()
    assert await waiting == "b"


# References.


class Forwarder(Actor):
    @message
    async def add_through(self, counter: Counter, n: int) -> int:
        return await counter.add(n)

    @message
    async def add_through_all(self, counters: dict[str, list[Counter]], n: int) -> list[int]:
        return [await counter.add(n) for group in counters.values() for counter in group]

    @message
    async def same(self, ref: ActorRef) -> ActorRef:
        return ref

    @message
    async def myself(self) -> Forwarder:
        return self.me

    @message
    async def new_counter(self, start: int) -> Counter:
        return await self.system.spawn(Counter, start)

    @message
    async def messages(self, value: Any) -> str:
        try:
            value.anything  # noqa: B018
        except AttributeError as error:
            return str(error)
        return "none"


async def test_references_work_from_where_they_arrive(place):
    forwarder, counter = await place.spawn(Forwarder), await place.spawn(Counter)
    assert await forwarder.add_through(counter, 2) == 2
    assert await forwarder.add_through_all({"a": [counter, counter]}, 1) == [3, 4]
    assert await forwarder.same(counter) == counter
    assert await (await forwarder.myself()).add_through(counter, 1) == 5
    assert await (await forwarder.new_counter(7)).add(1) == 8


async def test_a_reference_to_an_actor_of_the_caller(place):
    forwarder = await place.spawn(Forwarder)
    mine = await place.here.spawn(Counter, 10)
    assert await forwarder.add_through(mine, 1) == 11
    assert await forwarder.same(mine) == mine


async def test_a_reference_is_no_other_value(place):
    forwarder = await place.spawn(Forwarder)
    with pytest.raises(MessageRejected, match="argument 'counter': Expected a reference to `Counter`, got `int`"):
        await forwarder.add_through(3, 1)
    assert "has no known class" in await forwarder.messages(forwarder)


async def test_references_are_equal_by_actor(place):
    first, second = await place.spawn(Counter), await place.spawn(Counter)
    assert first == first.with_options(timeout=1.0)
    assert first != second
    assert len({first, first.with_options(one_way=True), second}) == 2
    assert isinstance(first, Counter)
    assert isinstance(first, ActorRef)
    assert "counter-1" in repr(first)


# Supervision.


class Fragile(Actor):
    """Records its lives in a list of the test."""

    def __init__(self, lives: list[str], *, fails_at: int = 0) -> None:
        self.lives, self.fails_at = lives, fails_at
        self.value = 0

    async def started(self) -> None:
        self.lives.append("started")
        if self.lives.count("started") == self.fails_at:
            raise RuntimeError("cannot start")

    async def stopped(self) -> None:
        self.lives.append("stopped")

    @message
    async def crash(self) -> None:
        raise Crash("it broke")

    @message
    def crash_now(self) -> None:
        raise Crash("it broke at once")

    @message
    async def count(self) -> int:
        self.value += 1
        return self.value


@pytest.mark.parametrize("crash", ["crash", "crash_now"])
async def test_a_crash_restarts_the_actor_and_keeps_its_name_and_mailbox(place, crash):
    lives: list[str] = []
    ref = await place.spawn(Fragile, lives, restart=Restart(max=1, within=60))
    assert await ref.count() == 1
    crashed = asyncio.create_task(getattr(ref, crash)())
    waiting = asyncio.create_task(ref.count())
    with pytest.raises(Crash, match="it broke"):
        await crashed
    assert await waiting == 1
    assert lives == ["started", "stopped", "started"]


async def test_past_the_limit_the_actor_ends(place):
    lives: list[str] = []
    ref = await place.spawn(Fragile, lives, restart=Restart(max=1, within=60))
    watching = asyncio.create_task(place.here.watch(ref))
    for _ in range(2):
        with pytest.raises(Crash):
            await ref.crash()
    ended = await watching
    assert ended.ref == ref
    assert "it crashed: Crash: it broke" in ended.reason
    with pytest.raises(ActorStopped, match="it crashed: Crash: it broke"):
        await ref.count()
    assert lives == ["started", "stopped"] * 2
    assert "it crashed" in (await place.here.watch(ref)).reason


async def test_without_a_policy_the_first_crash_ends_the_actor(place):
    ref = await place.spawn(Fragile, [])
    with pytest.raises(Crash):
        await ref.crash()
    assert "it crashed" in (await place.here.watch(ref)).reason


async def test_a_restart_that_fails_ends_the_actor(place, caplog):
    lives: list[str] = []
    ref = await place.spawn(Fragile, lives, fails_at=2, restart=Restart(max=1, within=60))
    with pytest.raises(Crash):
        await ref.crash()
    reason = (await place.here.watch(ref)).reason
    assert reason.endswith("it crashed: RuntimeError: failed inside the handler; the log of its own system says why")
    assert "RuntimeError: cannot start" in caplog.text
    assert lives == ["started", "stopped", "started"]


async def test_stop_fails_what_is_under_way(place):
    ref, actor = await gate(place)
    calls = [asyncio.create_task(ref.one_by_one(name)) for name in "ab"]
    await actor.entered.get()
    await (await place.spawn(Counter)).add(1)
    watching = asyncio.create_task(place.here.watch(ref))
    local = actor.me
    await place.home.stop(local)
    for call in calls:
        with pytest.raises(ActorStopped, match="it was stopped"):
            await call
    assert actor.left.get_nowait() == "a cancelled"
    assert "it was stopped" in (await watching).reason
    await place.home.spawn(Counter, name=local._name)  # the name is free again


async def test_watching_an_actor_that_is_not_there(place):
    ref = await place.spawn(Counter)
    await place.home.stop(await place.home.connect(str(ref), Counter) if place.remote else ref)
    assert "it was stopped" in (await place.here.watch(ref)).reason


async def test_connecting_to_nobody(place):
    if place.remote:
        with pytest.raises(ActorNotFound, match=r"no actor named 'nobody' lives at ws://127.0.0.1:"):
            await place.here.connect(f"{place.home.address}/nobody", Counter)
        counter = await place.spawn(Counter)
        with pytest.raises(ActorNotFound, match=r"is a Counter, which answers add, .*; Gate needs at_once, one_by_one"):
            await place.here.connect(str(counter), Gate)


class Suicidal(Actor):
    @message
    async def end(self) -> str:
        await self.system.stop(self.me)
        return "ended"


async def test_a_handler_may_stop_its_own_actor(place):
    ref = await place.spawn(Suicidal)
    assert await ref.end() == "ended"
    with pytest.raises((ActorStopped, ActorNotFound)):
        await ref.end()
