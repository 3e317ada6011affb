"""What is counted of models that stay when a worker ends, a model is removed, or a disk is full, in the middle of requests."""

import asyncio
import logging
import time

import keras
import numpy as np
import pytest

from protocols import connect
from protocols.errors import ServingError, UnknownModel, VaultError, WorkerLost
from protocols.owner.placing.managed import ManagedModel
from protocols.owner.placing.right import ModelRight
from protocols.storage.counts import UseCounts
from protocols.workers.compute_server import ComputeServer

X = np.random.default_rng(0).uniform(size=(20, 4)).astype(np.float32)


@pytest.fixture
def slow_disk(monkeypatch):
    """Each count takes 0.2 s to be written."""
    write = UseCounts.write

    def slow(self, counted):
        time.sleep(0.2)
        write(self, counted)

    monkeypatch.setattr(UseCounts, "write", slow)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(3)], name="small")


async def writing(lasting) -> None:
    """Return when something of a model is being written."""
    while not lasting._writing.locked():
        await asyncio.sleep(0)


async def test_a_server_that_ends_while_it_writes_gives_back_what_it_interrupted(three, slow_disk, monkeypatch):
    begun = asyncio.Event()

    async def never(self, entry, *_):
        begun.set()
        await asyncio.Event().wait()

    await three.share(network(), 5)
    with monkeypatch.context() as patch:
        patch.setattr(ComputeServer, "_evaluate", never)
        async with connect(three.cluster, "small") as remote:
            asking = asyncio.create_task(remote.query(X[:2]))
            await begun.wait()
            await writing(three.kept(0))
            await three.restart(0)
            assert (three.kept(0).requests, three.kept(0).examples) == (0, 0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def test_a_model_that_is_removed_while_it_is_asked_leaves_no_complaint_about_the_disk(three, slow_disk, caplog):
    right = await three.share(network(), 5)
    async with three.cluster as cluster, connect(cluster, "small") as remote:
        asking = [asyncio.create_task(remote.query(X[:2])) for _ in range(3)]
        await writing(three.kept(2))
        await ManagedModel(cluster, ModelRight.read(right.path)).stop()
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(one, (np.ndarray, UnknownModel, WorkerLost)) for one in found), found
    for place in range(3):
        await three.stop(place)
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("party", [0, 1])
async def test_who_asks_again_while_the_disk_of_a_server_is_full_spends_one_request_at_most(three, monkeypatch, party):
    await three.share(network(), 3, terms={"ticket_lifetime": 0.5})
    full, write = three.kept(party)._counts, UseCounts.write

    def written(self, counted):
        if self is full:
            raise VaultError("no space left")
        write(self, counted)

    async with connect(three.cluster, "small") as remote:
        with monkeypatch.context() as patch:
            patch.setattr(UseCounts, "write", written)
            for _ in range(6):
                with pytest.raises((ServingError, WorkerLost), match=r"cannot write down what it counts|gave this computation up"):
                    await remote.query(X[:2])
        for _ in range(2):
            np.testing.assert_allclose(await remote.query(X[:2]), network().predict(X[:2], verbose=0), atol=0.005)
    assert three.kept(party).requests == 2
    assert all(2 <= three.kept(one).requests <= 3 for one in range(3))
