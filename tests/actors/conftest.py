"""Two ways to the same actor, for the contract suite; and a check that no test leaves a task behind."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from actors import ActorSystem


@pytest.fixture(autouse=True)
async def no_task_is_left_behind():
    before = asyncio.all_tasks()
    yield
    for _ in range(3):  # callbacks that are due
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


@pytest.fixture(autouse=True)
def nobody_has_left_a_file(monkeypatch, tmp_path_factory):
    """A process that was killed leaves a file, and what listens at its address afterwards is asked for a proof."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))


class Place:
    """Where the actors of a test live (`home`), and where their callers are (`here`)."""

    def __init__(self, home, here, errors):
        self.home, self.here, self.errors = home, here, errors
        self.remote = home is not here

    async def spawn(self, cls, *args, **options):
        """Spawns at home; returns a reference for here."""
        ref = await self.home.spawn(cls, *args, **options)
        return await self.here.connect(str(ref), cls) if self.remote else ref


@contextlib.asynccontextmanager
async def opened(kind, **options):
    errors = asyncio.Queue()
    async with contextlib.AsyncExitStack() as stack:
        if kind == "memory":
            system = await stack.enter_async_context(ActorSystem(on_error=errors.put_nowait, **options))
            yield Place(system, system, errors)
        else:
            home = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0", **options))
            here = await stack.enter_async_context(ActorSystem(on_error=errors.put_nowait, **options))
            yield Place(home, here, errors)


@pytest.fixture(params=["memory", "websocket"])
async def place(request):
    async with opened(request.param) as opened_place:
        yield opened_place
