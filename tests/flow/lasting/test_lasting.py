"""Models that stay: when their owner has gone, and when any of the three workers was started again. Workers in this process, with folders."""

import asyncio
import contextlib

import numpy as np
import pytest

from actors import ActorError
from inner_workers import NAMES, Inner, inner_worker, inner_workers
from protocols import Cluster, Worker, connect, share
from protocols.authority.rights import right_at
from protocols.errors import BudgetSpent, KeepsNothing, NameTaken, NotOwner, ProtocolError, QuotaSpent, Resuming, ServingError, UnknownModel
from protocols.noisy_answers import NoisyAnswers
from protocols.owner.placing.right import ModelRight
from protocols.serving.hosting import Terms

TOLERANCE = 0.005
FORMS = pytest.mark.parametrize("equals", [False, True])


class Three:
    """Three workers with folders, any of which may be ended and started again where it was."""

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

    def actor(self, place: int, name: str):
        return self.inner[place].actor(name)

    def entry(self, name: str, party: int):
        place = self.cluster.seats_for(name).all[party]
        return self.actor(place, "server" if party < 2 else "provider")._lasting.get(name)


@contextlib.asynccontextmanager
async def three(folder, equals: bool = False):
    made = Three(folder, equals)
    for place in range(3):
        await made.start(place)
    try:
        yield made
    finally:
        for place in range(3):
            await made.stop(place)


async def shared(workers: Three, model, requests: int, folder, name: str = "small", **settings) -> ModelRight:
    """Share a model that stays, as a process does that is gone when this returns."""
    async with workers.cluster as cluster, await share(model, cluster, name=name, durable=folder, **settings) as made:
        await made.serve(requests, wait=False)
    return made.right


@FORMS
async def test_it_is_served_when_its_owner_has_gone_and_after_each_worker_was_started_again(model, images, expected, tmp_path, equals):
    async with three(tmp_path, equals) as workers:
        right = await shared(workers, model, 9, tmp_path)
        sessions = []
        async with connect(workers.cluster, "small") as open_all_along:
            assert open_all_along.lasting
            for number, places in enumerate([(), (0,), (1,), (2,), (0, 1, 2)]):
                await workers.restart(*places)
                async with connect(workers.cluster, "small", timeout=30) as anew:
                    assert anew.model == open_all_along.model
                    np.testing.assert_allclose(await anew.query(images[:3]), expected[:3], atol=TOLERANCE)
                    sessions.append(anew._session)
                if number < 4:
                    np.testing.assert_allclose(await open_all_along.query(images[3:5]), expected[3:5], atol=TOLERANCE)
            assert len(set(sessions)) == 5
            for party in range(3):
                assert (workers.entry("small", party).requests, workers.entry("small", party).examples) == (9, 23)
            with pytest.raises(QuotaSpent):
                await open_all_along.query(images[:1])
        assert right.path.stat().st_mode & 0o777 == 0o600


async def test_a_worker_without_a_folder_refuses_and_nothing_is_left(model, tmp_path):
    async with inner_workers() as (_, cluster):
        for _ in range(2):
            with pytest.raises(KeepsNothing, match=r"ws://127.* this worker keeps nothing: start it with a folder"):
                await share(model, cluster, name="small", durable=tmp_path)
        assert not list(tmp_path.iterdir())
        async with await share(model, cluster, name="small"):
            pass


async def test_its_name_is_taken_and_its_right_is_its_owners_whether_it_is_served_or_not(model, images, tmp_path):
    async with three(tmp_path) as workers:
        right = await shared(workers, model, 5, tmp_path)
        await workers.restart(2)
        async with workers.cluster as cluster:
            links = cluster.links_for("small")
            with pytest.raises(NameTaken):
                await share(model, cluster, name="small")
            for worker in (*links.servers, links.provider):
                with pytest.raises(NotOwner):
                    await worker.remove("small", bytes(16))
                with pytest.raises(NotOwner):
                    await worker.standing("small", bytes(16))
            for party, server in enumerate(links.servers):
                with pytest.raises(NotOwner):
                    await server.serve("small", right.at(range(3))[1 - party], Terms(1 << 20))
