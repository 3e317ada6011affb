"""Actors: the same counter in this process, and behind a websocket."""

import asyncio

from actors import Actor, ActorSystem, message


class Counter(Actor):
    """Adds up what it is told."""

    def __init__(self, start: int = 0) -> None:
        self.total = start

    @message
    async def add(self, n: int) -> int:
        """The total after adding n."""
        self.total += n
        return self.total


async def main() -> None:
    """Spawns the counter, talks to it here, then from another system over a websocket."""
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        counter = await system.spawn(Counter, start=1, name="counter")
        print("here:", await counter.add(3))
        async with ActorSystem() as elsewhere:
            remote = await elsewhere.connect(f"{system.address}/counter", Counter)
            print("over a websocket:", await remote.with_options(timeout=2.0).add(38))


if __name__ == "__main__":
    asyncio.run(main())
