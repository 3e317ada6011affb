"""What one owner could do to another, or to a worker, with messages that an owner may send."""

from __future__ import annotations

import asyncio
import math

import keras
import msgspec
import numpy as np
import pytest

from actors import ActorSystem
from inner_workers import inner_workers
from protocols import Cluster, Worker, connect, share
from protocols.authority.pending import CLAIMS_OF_ONE
from protocols.authority.presence import Presence
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import AggregationError, InputError, NameTaken, ServingError, TooLarge, WorkerUnreachable
from protocols.owner.compiled import plan
from protocols.owner.stored import SharedExamples
from protocols.secure_aggregation.shared_sums import SumTerms
from protocols.serving.allowance import Allowance
from protocols.serving.hosting import Terms
from protocols.training.terms import ToldTerms
from protocols.workers.compute_server import ComputeServer
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer


async def test_whoever_places_something_under_the_handle_of_another_owner_takes_nothing_away_by_leaving():
    async with inner_workers() as (inner, cluster):
        stored = await cluster.store("a", np.ones((3, 2)))
        handle, dataset = stored.dataset.handle, stored.dataset
        async with ActorSystem() as other:
            presence, digest = await other.spawn(Presence), digest_at(new_secret(), 0)
            server = await other.connect(f"{inner[0].system.address}/training", TrainingServer)
            dealer = await other.connect(f"{inner[2].system.address}/training-dealer", TrainingDealer)
            with pytest.raises(NameTaken):
                await server.store(dataset, digest, np.zeros((3, 2), np.uint64), bytes(16), presence)
            with pytest.raises(NameTaken):
                await dealer.store(dataset, digest, (bytes(16), bytes(16)), presence)
            own = msgspec.structs.replace(dataset, handle=new_secret()[:16])
            await server.store(own, digest, np.zeros((3, 2), np.uint64), bytes(16), presence)
            await dealer.store(own, digest, (bytes(16), bytes(16)), presence)
        async with asyncio.timeout(10):  # until the workers have noticed that it has left
            while own.handle in inner[0].holdings.datasets or own.handle in inner[2].holdings.masks:
                await asyncio.sleep(0)
        assert handle in inner[0].holdings.datasets
        assert handle in inner[2].holdings.masks


async def test_strangers_at_the_ports_of_three_workers_are_given_nothing(monkeypatch):
    async with inner_workers() as (inner, _):
        for one in inner:
            one.system.identity.withdraw()  # they are of another user: their files are not among ours
        first, second, third = (Worker(one.system.address) for one in inner)
        with pytest.raises(WorkerUnreachable, match="has not proven to run for the same user"):
            async with Cluster(first, second, crypto_provider=third, auto_managed=False):
                pass


async def test_a_client_shows_nothing_to_strangers_at_the_ports_unless_it_says_so():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    async with inner_workers() as (inner, cluster), await share(model, cluster):
        async with connect(cluster, "net") as remote:
            assert remote.name == "net"
        for one in inner:
            one.system.identity.withdraw()  # they are of another user: their files are not among ours
        with pytest.raises(WorkerUnreachable, match="has not proven to run for the same user"):
            async with connect(cluster, "net"):
                pass
        async with connect(cluster, "net", strangers=True) as remote:
            assert remote.name == "net"


async def test_a_run_is_on_arrays_of_the_shapes_that_are_held_and_on_the_plan_of_its_model():
    """What a worker allocates for an epoch depends on what the run says of them: 2^40 examples would be 8 TiB."""
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    async with inner_workers() as (inner, cluster), await share(model, cluster, "m") as shared:
        x, y = await cluster.store("x", np.ones((4, 2))), await cluster.store("y", np.ones((4, 1)))
        async for _ in shared.fit(x, y, epochs=1, batch_size=2, progress=False):
            pass
        training = shared._training
        terms = training._terms(SharedExamples((x,), (y,)), training._plan, 1, 1 << 28)
        wide = msgspec.structs.replace(terms.x, shape=(1 << 40, 2))
        larger = msgspec.structs.replace(terms, x=wide, y=msgspec.structs.replace(terms.y, shape=(1 << 40, 1)))
        system = cluster.links.system
        server = await system.connect(f"{inner[0].system.address}/training", TrainingServer)
        dealer = await system.connect(f"{inner[2].system.address}/training-dealer", TrainingDealer)
        at = [[right_at(one.secret, place) for one in (x, y)] for place in (0, 2)]
        digest, right = digest_at(new_secret(), 0), right_at(training._secret, 0)
        with pytest.raises(InputError, match="were named, and are"):
            await server.begin(ToldTerms(larger, b""), digest, training._handle, (*at[0], right), cluster.presence)
        with pytest.raises(InputError, match="were named, and are"):
            await dealer.begin(ToldTerms(larger, b""), digest, tuple(at[1]), cluster.presence)
        layers = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(9), keras.layers.Dense(1)])
        layers.compile(keras.optimizers.SGD(0.1), "mse")
        other = msgspec.structs.replace(terms, plan=plan(layers))
        with pytest.raises(InputError, match="is not that of the model"):
            await server.begin(ToldTerms.of(other), digest, training._handle, (*at[0], right), cluster.presence)


@pytest.mark.parametrize("lifetime", [math.nan, math.inf, -1.0, 0.0])
async def test_tickets_live_for_a_time_that_is_one(lifetime):
    async with inner_workers() as (_, cluster), await share(_linear(), cluster, "m") as shared:
        allowance = Allowance(Terms(1), ticket_lifetime=lifetime)
        with pytest.raises(ServingError, match="tickets live"):
            await cluster.links.provider.serve("m", shared._rights[2], allowance)


async def test_randomness_ahead_has_a_limit_whatever_an_owner_allows(monkeypatch):
    monkeypatch.setattr("protocols.serving.memory.MOST_MEMORY", 1 << 12)
    async with inner_workers() as (inner, cluster), await share(_linear(), cluster, "m") as shared:
        await cluster.links.provider.serve("m", shared._rights[2], Allowance(Terms(1, ("logits",)), memory=1 << 60, ahead=1 << 40))
        pool = inner[2].actor("provider")._models["m"].pools["logits"]
        assert pool._capacity * 8 <= 1 << 12


def _linear():
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])


async def test_one_owner_does_not_claim_all_names():
    async with inner_workers() as (inner, cluster):
        server = await cluster.links.system.connect(f"{inner[0].system.address}/server", ComputeServer)
        for number in range(CLAIMS_OF_ONE):
            await server.claim(f"m{number}", digest_at(new_secret(), 0))
        with pytest.raises(TooLarge, match=f"has claimed {CLAIMS_OF_ONE} names"):
            await server.claim("one more", digest_at(new_secret(), 0))


def test_a_sum_has_a_largest_length():
    with pytest.raises(AggregationError, match="are summed"):
        SumTerms(1 << 40, 1, 64, 2)
