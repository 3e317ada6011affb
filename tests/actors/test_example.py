"""The script that users read first (section 1 of the interface), as three processes would run it."""

from __future__ import annotations

import asyncio

from actors import Actor, ActorSystem, ChildProcess, message


class Counter(Actor):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    @message
    async def add(self, n: int) -> int:
        self.total += n
        return self.total


async def test_in_this_process(capsys):
    async with ActorSystem() as system:  # in this process
        counter = await system.spawn(Counter, start=1, name="counter")
        print(await counter.add(3))  # 4
    assert capsys.readouterr().out == "4\n"


async def test_the_same_actor_reachable_from_elsewhere(capsys):
    ready = asyncio.get_running_loop().create_future()

    async def serve():
        async with ActorSystem(listen="ws://127.0.0.1:0") as system:  # the same actor, reachable from elsewhere
            await system.spawn(Counter, name="counter")
            ready.set_result(system.address)
            await system.serve_forever()

    serving = asyncio.create_task(serve())
    address = await ready
    async with ActorSystem() as system:  # elsewhere
        counter = await system.connect(f"{address}/counter", Counter)
        print(await counter.with_options(timeout=2.0).add(3))
    assert capsys.readouterr().out == "3\n"
    serving.cancel()
    await asyncio.wait([serving])


async def test_as_processes(tmp_path, monkeypatch):
    (tmp_path / "serve_counter.py").write_text(SERVE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    async with await ChildProcess.start("serve_counter") as child, ActorSystem() as system:
        counter = await system.connect(f"{child.address}/counter", Counter)
        assert await counter.add(3) == 3
        calls = [counter.add(1) for _ in range(100)]
        assert await asyncio.gather(*calls) == list(range(4, 104))


SERVE = """
import asyncio
from actors import Actor, ActorSystem, exit_with_parent, message

class Counter(Actor):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    @message
    async def add(self, n: int) -> int:
        self.total += n
        return self.total

async def main() -> None:
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(Counter, name="counter")
        print("ready", system.address, flush=True)
        await exit_with_parent()

asyncio.run(main())
"""
