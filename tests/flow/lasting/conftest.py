"""Three workers with folders, any of which may be ended and started again where it was: as actors of this process."""

import contextlib

import pytest

from inner_workers import NAMES, Inner, inner_worker
from protocols import Cluster, Worker, share
from protocols.owner.placing.right import ModelRight


class Three:
    """Three workers with folders, by their places."""

    def __init__(self, folder, equals: bool) -> None:
        self.folder, self.equals = folder, equals
        self.stacks = [contextlib.AsyncExitStack() for _ in NAMES]
        self.inner: list[Inner | None] = [None] * 3
        self.addresses = ["127.0.0.1:0"] * 3

    async def start(self, place: int) -> None:
        name, address = NAMES[place], self.addresses[place]
        inner = self.inner[place] = await self.stacks[place].enter_async_context(inner_worker(self.folder / name, address=address))
        self.addresses[place] = inner.system.address.partition("://")[2]

    async def stop(self, place: int) -> None:
        await self.stacks[place].aclose()

    async def restart(self, *places: int) -> None:
        for place in places:
            await self.stop(place)
        for place in places:
            await self.start(place)

    @property
    def cluster(self) -> Cluster:
        workers = [Worker(address) for address in self.addresses]
        if self.equals:
            return Cluster(*workers, auto_managed=False)
        return Cluster(*workers[:2], crypto_provider=workers[2], auto_managed=False)

    def place(self, party: int, name: str = "small") -> int:
        return self.cluster.seats_for(name).all[party]

    def actor(self, party: int, name: str = "small"):
        return self.inner[self.place(party, name)].actor("server" if party < 2 else "provider")

    def kept(self, party: int, name: str = "small"):
        return self.actor(party, name)._lasting.get(name)

    def file(self, party: int, end: str, name: str = "small"):
        (path,) = (self.folder / NAMES[self.place(party, name)] / "model" / name).glob(f"*.{end}")
        return path

    async def share(self, model, requests: int, name: str = "small", terms=None, **settings) -> ModelRight:
        """Share a model that stays, as a process does that is gone when this returns."""
        async with self.cluster as cluster, await share(model, cluster, name=name, durable=self.folder, **settings) as made:
            if requests:
                await made.serve(requests, wait=False, **(terms or {}))
        return made.right


@pytest.fixture
async def three(tmp_path):
    """Two servers and a crypto provider."""
    async with three_workers(tmp_path) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["provider", "equals"])
async def either(tmp_path, request):
    """Both forms of a cluster."""
    async with three_workers(tmp_path, request.param) as made:
        yield made


@contextlib.asynccontextmanager
async def three_workers(folder, equals: bool = False):
    made = Three(folder, equals)
    for place in range(3):
        await made.start(place)
    try:
        yield made
    finally:
        for place in range(3):
            await made.stop(place)
