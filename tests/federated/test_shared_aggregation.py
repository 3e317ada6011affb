"""The two-server aggregation over real worker processes: the plain mean, asynchronous rounds, and servers and owners that fail."""

import asyncio
import contextlib

import keras
import numpy as np
import pytest

from actors import ActorSystem
from federated import (
    DataOwner,
    FedAvg,
    FedBuff,
    Federation,
    OwnGiver,
    PlainMean,
    SettingError,
    SharedAggregation,
    Update,
    partition,
    simulated_owners,
)
from protocols import Cluster, Worker


@contextlib.asynccontextmanager
async def cluster():
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2]) as one:
        yield one


def model(build):
    def make():
        keras.utils.set_random_seed(1)
        return build()

    return make


async def played(build, owners, rounds=3, strategy=None, **settings):
    federation = Federation(model=model(build), owners=owners, strategy=strategy or FedAvg(batch_size=5), **settings)
    async with federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation.model


def close(one, other, atol):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.long
async def test_a_simulated_federation_learns_what_the_plain_one_learns(build, examples):
    parts = partition(*examples, owners=6, by="quantity")

    def owners():
        return simulated_owners(parts, dropout=0.2, seed=4, evaluation=[examples] * 6)

    plain, one = await played(build, owners())
    async with cluster() as servers:
        shared, other = await played(build, owners(), aggregation=SharedAggregation(servers))
    for a, b in zip(plain, shared, strict=True):
        assert b.failure is None
        assert (a.reported, a.examples) == (b.reported, b.examples)
        assert a.metrics == pytest.approx(dict(b.metrics), abs=1e-3)
    close(one, other, 1e-5)


async def test_stale_updates_are_discounted_as_in_the_plain_form(build):
    """Owners a, b and c are asked in round 1; c answers in round 2, when the others have been asked anew, and counts for half."""
    moves = []
    async with cluster() as servers:
        for aggregation in (PlainMean(), SharedAggregation(servers)):
            go = asyncio.Event()
            owners = [Scripted("a", 1.0), Scripted("b", 2.0), Scripted("c", 6.0, waits=go), Scripted("d", 3.0)]
            strategy = FedBuff(buffer=3, concurrency=4, staleness=1.0)
            federation = Federation(model=model(build), owners=owners, strategy=strategy, aggregation=aggregation)
            async with federation:
                first = await anext(federation.rounds(1))
                for owner in owners[:2]:
                    owner.go = asyncio.Event()  # only c and d answer at once from now on
                go.set()
                playing = asyncio.ensure_future(anext(federation.rounds(1)))
                while "c" not in [owner.name for owner in owners if owner.answered and owner.go is go]:
                    await asyncio.sleep(0)
                owners[0].go.set()
                second = await playing
            assert set(first.reported) == {"a", "b", "d"}
            assert set(second.reported) == {"a", "c", "d"}
            start = model(build)().get_weights()
            moves.append(federation.model.get_weights()[0].ravel()[0] - start[0].ravel()[0])
    assert moves[0] == pytest.approx(2.0 + (1.0 + 6.0 / 2 + 3.0) / 3, abs=1e-5)
    assert moves[1] == pytest.approx(moves[0], abs=1e-5)


async def test_owners_over_websockets_and_two_federations_at_once(build, examples):
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for part in partition(*examples, owners=4):
            system = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0"))
            await system.spawn(DataOwner, part, part, name="owner")
            urls.append(f"{system.address}/owner")
        servers = await stack.enter_async_context(cluster())
        others = simulated_owners(partition(*examples, owners=3))
        (remote, _), (local, _) = await asyncio.gather(
            played(build, urls, aggregation=SharedAggregation(servers)), played(build, others, aggregation=SharedAggregation(servers))
        )
    assert all(outcome.failure is None and len(outcome.reported) == 4 for outcome in remote)
    assert all(outcome.failure is None and len(outcome.reported) == 3 for outcome in local)
    assert remote[0].metrics.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}


class Scripted:
    """An owner that hands in a fixed update, or does something else."""

    def __init__(self, name, update, fault=None, waits=None):
        self.name, self.update, self.fault = name, update, fault
        self.go, self.answered = waits or asyncio.Event(), False
        if waits is None:
            self.go.set()
        self.own = OwnGiver(self.train)

    async def train(self, task):
        await self.go.wait()
        self.answered = True
        return Update(task.round, [np.full_like(w, self.update) for w in task.weights], 2, {"loss": 1.0})

    async def evaluate(self, task):
        raise AssertionError

    async def giver(self):
        return self if self.fault else self.own

    async def give(self, task, hiding, drop, vectors, seeds):
        return await self.fault(self.own, task, hiding, drop, vectors, seeds)


async def vanishes(own, task, hiding, drop, vectors, seeds):
    raise ConnectionError("gone")


async def seed_only(own, task, hiding, drop, vectors, seeds):
    from federated.owners.giver import HandedIn

    await seeds.hold_seed(drop.handle, drop.ticket, bytes(32))
    return HandedIn(("loss",), False)


async def vector_only(own, task, hiding, drop, vectors, seeds):
    from federated.owners.giver import HandedIn

    size = sum(w.size for w in task.weights) + 16 + 1
    await vectors.hold_vector(drop.handle, drop.ticket, np.zeros(size, np.uint64))
    return HandedIn(("loss",), False)


async def another_shape(own, task, hiding, drop, vectors, seeds):
    await vectors.hold_vector(drop.handle, drop.ticket, np.zeros(3, np.uint64))


async def twice(own, task, hiding, drop, vectors, seeds):
    await own.give(task, hiding, drop, vectors, seeds)
    return await own.give(task, hiding, drop, vectors, seeds)


FAULTS = [vanishes, seed_only, vector_only, another_shape, twice]


async def test_each_bad_owner_is_named_and_costs_itself_only(build):
    owners = [Scripted(f"good-{i}", float(i)) for i in range(4)] + [Scripted(fault.__name__, 100.0 / 16, fault) for fault in FAULTS]
    async with cluster() as servers:
        settings = {"aggregation": SharedAggregation(servers), "quorum": 0.3}
        (first, second), found = await played(build, owners, 2, **settings)
    for outcome in (first, second):
        assert outcome.failure is None
        assert sorted(outcome.reported) == [f"good-{i}" for i in range(4)]
        lost = {**outcome.dropped, **outcome.rejected}
        assert lost.keys() == {fault.__name__ for fault in FAULTS}
        assert "has not handed in both halves" in lost["seed_only"] + lost["vector_only"]
        assert "used before" in lost["twice"]
    for weights, start in zip(found.get_weights(), model(build)().get_weights(), strict=True):
        np.testing.assert_allclose(weights, start + 2 * 1.5, atol=1e-5)


async def test_too_large_updates_are_held_back_and_small_cohorts_open_nothing(build):
    owners = [Scripted("a", 1.0), Scripted("b", 1.0), Scripted("large", 8.5)]
    async with cluster() as servers:
        (outcome,), found = await played(build, owners, 1, aggregation=SharedAggregation(servers), quorum=0.5)
    assert "of 3 owners reported and 3 are needed" in outcome.failure
    assert "larger than clip=8: raise clip" in outcome.dropped["large"]
    assert "8.5" not in str(outcome.dropped)
    close(found, model(build)(), 0)


async def test_a_server_that_dies_costs_the_round_and_not_the_run(build):
    owners = [Scripted(f"owner-{i}", 1.0) for i in range(3)]
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2]) as servers:
        federation = Federation(model=model(build), owners=owners, aggregation=SharedAggregation(servers), deadline=30)
        async with federation:
            assert (await anext(federation.rounds(1))).failure is None
            await servers.children[1].stop()
            outcome = await anext(federation.rounds(1))
            assert outcome.failure
            again = await anext(federation.rounds(1))
            assert "the servers could not sum" in again.failure
            close(federation.model, model(build)(), 1.1)


async def test_settings_that_make_no_sense():
    async with cluster() as servers:
        for settings in ({"cohort": 2}, {"clip": 0.0}, {"most_examples": 0}):
            (name, value), *_ = settings.items()
            with pytest.raises(SettingError, match=f"{name}={value}"):
                SharedAggregation(servers, **settings)


def test_plain_mean_stays_what_others_are_measured_by():
    assert not PlainMean().hides_updates
    assert SharedAggregation.hides_updates
    assert SharedAggregation.asynchronous
