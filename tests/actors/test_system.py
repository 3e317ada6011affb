"""A system and its actors' lives, in process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import signal

import pytest

from actors import (
    Actor,
    ActorNotFound,
    ActorStopped,
    ActorSystem,
    Crash,
    MessageRejected,
    NameTaken,
    Restart,
    message,
)
from actors.running import cell as cell_module
from actors.supervision import RestartBudget


class Diary(Actor):
    def __init__(self, lines: list[str], name: str = "it") -> None:
        self.lines, self.name = lines, name
        assert self.system.listens is False
        assert str(self.me).startswith("diary")

    async def started(self) -> None:
        self.lines.append(f"{self.name} started")

    async def stopped(self) -> None:
        self.lines.append(f"{self.name} stopped")

    @message
    async def write(self, line: str) -> None:
        self.lines.append(line)

    @message
    async def wait(self) -> None:
        self.lines.append("waiting")
        try:
            await asyncio.Event().wait()
        finally:
            self.lines.append("cancelled")


async def test_leaving_the_block_ends_actors_in_reverse_order():
    lines: list[str] = []
    async with ActorSystem() as system:
        first = await system.spawn(Diary, lines, "first")
        await system.spawn(Diary, lines, name="diary.second")
        call = asyncio.create_task(first.wait())
        while "waiting" not in lines:
            await asyncio.sleep(0)
    with pytest.raises(ActorStopped, match="diary-1' has ended: its system was closed"):
        await call
    assert lines == ["first started", "it started", "waiting", "it stopped", "cancelled", "first stopped"]
    with pytest.raises(ActorStopped):
        await first.write("too late")


async def test_names():
    async with ActorSystem() as system:
        lines: list[str] = []
        await system.spawn(Diary, lines, name="diary-1")
        other = await system.spawn(Diary, lines)
        assert str(other) == "diary-2"
        with pytest.raises(NameTaken, match="'diary-1' lives in this system already; choose another name or stop it first"):
            await system.spawn(Diary, lines, name="diary-1")
        for bad in ("", "a/b", "-a", "ä", "x" * 300):
            with pytest.raises(ValueError, match="cannot be the name of an actor"):
                await system.spawn(Diary, lines, name=bad)
        await system.stop(other)
        assert lines[-1] == "it stopped"
        again = await system.spawn(Diary, lines, name="diary-2")
        await other.write("to whoever has the name")
        assert again == other
        with pytest.raises(ActorNotFound, match="no actor named 'nobody' lives in this system"):
            system.cell("nobody")


class Picky(Actor):
    tries = 0

    def __init__(self, succeed_at: int) -> None:
        self.succeed_at = succeed_at

    async def started(self) -> None:
        type(self).tries += 1
        if self.tries < self.succeed_at:
            raise ValueError(f"try {self.tries}")

    @message
    async def ok(self) -> bool:
        return True


async def test_an_actor_that_does_not_start(monkeypatch):
    monkeypatch.setattr(Picky, "tries", 0)
    async with ActorSystem() as system:
        with pytest.raises(ValueError, match="try 1"):
            await system.spawn(Picky, 2, name="picky")
        with pytest.raises(ActorStopped, match="it did not start: ValueError: failed inside the handler"):
            system.cell("picky")
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            await system.spawn(Picky)
        monkeypatch.setattr(Picky, "tries", 0)
        picky = await system.spawn(Picky, 3, name="picky", restart=Restart(max=2, within=60))
        assert await picky.ok()


async def test_a_spawn_that_is_cancelled_leaves_nothing():
    class Slow(Actor):
        async def started(self) -> None:
            await asyncio.Event().wait()

    async with ActorSystem() as system:
        spawning = asyncio.create_task(system.spawn(Slow, name="slow"))
        await asyncio.sleep(0)
        spawning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawning
        with pytest.raises(ActorStopped):
            system.cell("slow")


async def test_messages_wait_while_an_actor_starts():
    class Slow(Actor):
        def __init__(self) -> None:
            self.go = GO

        async def started(self) -> None:
            await self.go.wait()

        @message
        async def value(self) -> int:
            return 1

        @message(reentrant=True)
        def now(self) -> int:
            return 2

    GO = asyncio.Event()
    async with ActorSystem() as system:
        spawning = asyncio.create_task(system.spawn(Slow, name="slow"))
        await asyncio.sleep(0)
        early = asyncio.create_task((await connected_ref(system, Slow)).value())
        earlier = asyncio.create_task((await connected_ref(system, Slow)).now())
        await asyncio.sleep(0)
        assert not early.done()
        assert not earlier.done()
        GO.set()
        await spawning
        assert await asyncio.gather(early, earlier) == [1, 2]


async def connected_ref(system, cls):
    from actors.messages.schema import reference_type

    return reference_type(cls)(system.memory, "slow")


async def test_restarts_during_which_messages_wait():
    """Reentrant messages that came during a restart start at once afterwards, not behind a handler that waits for them."""

    class Pair(Actor):
        def __init__(self) -> None:
            self.arrived = asyncio.Event()

        async def stopped(self) -> None:
            await HOLD.wait()

        @message
        async def crash(self) -> None:
            raise Crash("now")

        @message
        async def wait_for_it(self) -> str:
            await self.arrived.wait()
            return "waited"

        @message(reentrant=True)
        async def arrive(self) -> None:
            self.arrived.set()

    HOLD = asyncio.Event()
    async with ActorSystem() as system:
        ref = await system.spawn(Pair, restart=Restart(max=1, within=60))
        with pytest.raises(Crash):
            await ref.crash()
        waiting, arriving = asyncio.create_task(ref.wait_for_it()), asyncio.create_task(ref.arrive())
        await asyncio.sleep(0)
        HOLD.set()
        assert await waiting == "waited"
        await arriving


async def test_stopping_an_actor_that_is_being_restarted():
    lines: list[str] = []

    class Slow(Diary):
        def __init__(self) -> None:
            self.lines, self.name = lines, "slow"

        async def started(self) -> None:
            await super().started()
            if len(lines) > 1:
                await asyncio.Event().wait()

        @message
        async def crash(self) -> None:
            raise Crash("now")

    async with ActorSystem() as system:
        ref = await system.spawn(Slow, restart=Restart(max=5, within=60))
        with pytest.raises(Crash):
            await ref.crash()
        waiting = asyncio.create_task(ref.write("x"))
        while lines.count("slow started") < 2:
            await asyncio.sleep(0)
        await system.stop(ref)
        with pytest.raises(ActorStopped, match="it was stopped"):
            await waiting


async def test_a_hook_that_fails_is_logged(caplog):
    class Bad(Actor):
        async def stopped(self) -> None:
            raise RuntimeError("in the hook")

    async with ActorSystem() as system:
        await system.spawn(Bad)
    assert "its hook `stopped` failed" in caplog.text
    assert "in the hook" in caplog.text


async def test_failures_without_reply_are_logged_by_default(caplog):
    async with ActorSystem() as system:
        ref = await system.spawn(Picky, 0)
        await system.stop(ref)

        class Failing(Actor):
            @message
            async def fail(self) -> None:
                raise ValueError("unheard")

        await (await system.spawn(Failing)).with_options(one_way=True).fail()
        while not caplog.records:
            await asyncio.sleep(0)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "Failing.fail of Failing 'failing-1' failed: ValueError: unheard" in record.message


async def test_an_on_error_that_fails_is_logged(caplog):
    def broken(error):
        raise RuntimeError("cannot tell anybody")

    class Failing(Actor):
        @message
        def fail(self) -> None:
            raise ValueError("unheard")

    async with ActorSystem(on_error=broken) as system:
        await (await system.spawn(Failing)).with_options(one_way=True).fail()
    assert "cannot tell anybody" in caplog.text


async def test_a_handler_that_raises_stop_iteration():
    class Ending(Actor):
        @message
        def end(self) -> None:
            raise StopIteration

    async with ActorSystem() as system:
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await (await system.spawn(Ending)).end()


async def test_references_are_not_pickled_and_not_actors():
    async with ActorSystem() as system:
        ref = await system.spawn(Picky, 0)
        with pytest.raises(TypeError, match="cannot be pickled; send it in a message"):
            pickle.dumps(ref)
        with pytest.raises(TypeError, match=r"is not a reference to an actor; within an actor use self.me"):
            await system.stop(Picky(0))


async def test_a_reference_to_a_base_class_reaches_the_messages_of_the_actor():
    class Base(Actor):
        @message
        async def value(self) -> int:
            raise NotImplementedError

    class Derived(Base):
        @message
        async def value(self) -> int:
            return 3

    class Other(Actor):
        pass

    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        ref = await system.connect(str(await system.spawn(Derived)), Base)
        assert await ref.value() == 3
        name = ref._name
        await system.stop(ref)
        await system.spawn(Other, name=name)
        with pytest.raises(MessageRejected, match="answers no message 'value'"):
            await ref.value()


async def test_serve_forever_returns_when_the_process_is_told_to_end():
    async with ActorSystem() as system:
        for number in (signal.SIGTERM, signal.SIGINT):
            serving = asyncio.create_task(system.serve_forever())
            await asyncio.sleep(0)
            os.kill(os.getpid(), number)
            await serving


async def test_serve_forever_can_be_cancelled():
    before = signal.getsignal(signal.SIGTERM)
    async with ActorSystem() as system:
        serving = asyncio.create_task(system.serve_forever())
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_is_left_when_a_program_ends(recwarn):
    async def program():
        async with ActorSystem(listen="ws://127.0.0.1:0") as server, ActorSystem() as client:
            ref = await client.connect(str(await server.spawn(Picky, 0, name="picky")), Picky)
            assert await ref.ok()

    asyncio.run(program(), debug=True)
    gc.collect()
    assert not recwarn.list


@pytest.mark.parametrize(("max_", "within"), [(-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_restart_policies_that_make_no_sense(max_, within):
    with pytest.raises(ValueError, match="max is at least 0 and within is positive"):
        Restart(max=max_, within=within)


def test_restarts_are_counted_in_a_sliding_window():
    budget = RestartBudget(Restart(max=2, within=10))
    assert [budget.spend(now) for now in (0, 1, 2, 10, 10.5, 11)] == [True, True, False, True, False, True]


def test_secrets_are_long():
    with pytest.raises(ValueError, match="at least 32 random bytes"):
        ActorSystem(trust=[b"short"])


class Deaf(Actor):
    """A handler that does not end when it is cancelled, until it is let go."""

    def __init__(self, go: asyncio.Event) -> None:
        self.go = go

    @message
    async def wait(self) -> str:
        while not self.go.is_set():
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                CANCELS.append("cancel")
        return "late"

    @message
    async def next(self) -> int:
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()


CANCELS: list[str] = []


async def test_a_handler_that_swallows_its_cancel_does_not_hand_it_on():
    go = asyncio.Event()
    async with ActorSystem() as system:
        deaf = await system.spawn(Deaf, go)
        waiting, following = asyncio.create_task(deaf.wait()), asyncio.create_task(deaf.next())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        assert await following == 0
        assert CANCELS.pop() == "cancel"


async def test_a_handler_that_does_not_end_is_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(cell_module, "STOP_WITHIN", 0.01)
    go = asyncio.Event()
    async with ActorSystem() as system:
        deaf = await system.spawn(Deaf, go)
        waiting = asyncio.create_task(deaf.wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(system.stop(deaf), system.stop(deaf))
        assert "1 handlers did not end within 0.01 s" in caplog.text
        go.set()
        assert await waiting == "late"


async def test_many_messages_in_turn_let_others_run():
    class Quick(Actor):
        def __init__(self) -> None:
            self.done = 0

        @message
        async def step(self) -> int:
            self.done += 1
            return self.done

        @message
        def peek(self) -> int:
            return self.done

    async with ActorSystem() as system:
        quick = await system.spawn(Quick)
        steps = [asyncio.create_task(quick.step()) for _ in range(200)]
        last = asyncio.create_task(quick.peek())
        others = 0
        while not steps[-1].done():
            await asyncio.sleep(0)
            others += 1
        assert await asyncio.gather(*steps) == list(range(1, 201))
        assert await last == 200
        assert others >= 200 // cell_module.TURNS


async def test_stopping_an_actor_that_is_still_starting():
    lines: list[str] = []

    class Slow(Actor):
        async def started(self) -> None:
            await go.wait()

        async def stopped(self) -> None:
            lines.append("stopped")

    go = asyncio.Event()
    async with ActorSystem() as system:
        spawning = asyncio.create_task(system.spawn(Slow, name="slow"))
        await asyncio.sleep(0)
        await system.stop(await connected_ref(system, Slow))
        go.set()
        with pytest.raises(ActorStopped, match="it was stopped"):
            await spawning
        assert lines == ["stopped"]


async def test_giving_up_messages_that_came_during_a_restart():
    class Slow(Actor):
        async def stopped(self) -> None:
            await go.wait()

        @message
        async def crash(self) -> None:
            raise Crash("now")

        @message(reentrant=True)
        def now(self) -> int:
            return 1

        @message(reentrant=True)
        async def soon(self) -> int:
            return 2

    go = asyncio.Event()
    async with ActorSystem() as system:
        slow = await system.spawn(Slow, restart=Restart(max=1, within=60))
        with pytest.raises(Crash):
            await slow.crash()
        given_up = [asyncio.create_task(call()) for call in (slow.now, slow.soon)]
        kept = [asyncio.create_task(call()) for call in (slow.now, slow.soon)]
        await asyncio.sleep(0)
        for call in given_up:
            call.cancel()
        await asyncio.wait(given_up)
        go.set()
        assert await asyncio.gather(*kept) == [1, 2]
        assert all(call.cancelled() for call in given_up)


def test_a_loop_that_is_closed_without_leaving_the_block():
    """Handlers end with the loop; none goes on with the next message."""
    begun: list[int] = []

    class Patient(Actor):
        @message
        async def wait(self, n: int) -> None:
            begun.append(n)
            await asyncio.Event().wait()

    async def program():
        system = await ActorSystem().__aenter__()
        ref = await system.spawn(Patient)
        for n in range(3):
            await ref.with_options(one_way=True).wait(n)
        await asyncio.sleep(0)

    asyncio.run(program())
    assert begun == [0]
