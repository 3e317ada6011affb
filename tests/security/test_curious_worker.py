"""What one worker alone can do with all that it knows, by calls that anybody may make: nothing. For each place, in both forms."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import keras
import msgspec
import numpy as np
import pytest

from actors import ActorError, NotAllowed
from curious import Curious, curious_workers
from protocols import Cluster, connect, share
from protocols.authority.presence import Presence
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.authority.seats import seats
from protocols.datasets.dataset import SharedDataset
from protocols.errors import Altered, NotServed, ProtocolError, QuotaSpent
from protocols.mpc.parties.keystream import derive
from protocols.serving.allowance import Allowance
from protocols.serving.hosting import Terms
from protocols.storage.vault import Label
from protocols.training.terms import ToldTerms
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.keeper import GrantedVersion, Keeper
from protocols.workers.sum_server import SumServer
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer

REFUSED = (ActorError, ProtocolError)
EVERY = pytest.mark.parametrize(("equals", "place"), list(itertools.product([False, True], [0, 1, 2])))
NAME = "patients"


async def nothing_opens(curious: Curious, attempt: Callable[[Any, bytes], Awaitable[object]]) -> int:
    """Try an action with every piece of what the worker knows, in every way in which it can call; returns how many were tried."""
    tried = 0
    async with curious.callers() as systems:
        for system in systems:
            for right in sorted(curious.known()):
                with pytest.raises(REFUSED):
                    await attempt(system, right)
                tried += 1
    return tried


def others(cluster: Cluster, place: int) -> list[str]:
    return [worker.url for number, worker in enumerate(cluster.workers) if number != place]


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name=NAME)


async def until_served(remote, x, **kind):
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotServed):
                return await remote.query(x, **kind)
            await asyncio.sleep(0)


@EVERY
async def test_quota_kinds_of_answer_and_the_model_stand(equals, place, monkeypatch):
    async with (
        curious_workers(equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster),
        await share(network(), cluster, name=NAME) as shared,
        connect(cluster, NAME) as remote,
    ):
        serving = asyncio.create_task(shared.serve(1, reveal={"label"}))
        await until_served(remote, np.full((1, 4), 0.5), reveal="label")
        await serving
        own = shared._rights[seats(equals, NAME).party(place)]
        assert own in curious.known()  # the kit does find what there is: the right that was shown to this worker
        terms = Terms(1 << 20)

        async def lift(system, right):
            results = []
            for url in others(cluster, place):
                server = await system.connect(f"{url}/server", ComputeServer)
                provider = await system.connect(f"{url}/provider", CryptoProvider)
                calls = (
                    server.serve(NAME, right, terms),
                    server.remove(NAME, right),
                    provider.serve(NAME, right, Allowance(terms)),
                    provider.remove(NAME, right),
                    provider.answered(NAME, right, -1),
                )
                results += await asyncio.gather(*calls, return_exceptions=True)
            assert len(results) == 10
            assert all(isinstance(result, REFUSED) for result in results), results
            raise results[0]

        assert await nothing_opens(curious, lift) > 10
        for kind in ("label", "logits"):
            with pytest.raises((QuotaSpent, NotServed)):
                await remote.query(np.full((1, 4), 0.5), reveal=kind)


@EVERY
async def test_a_ticket_that_a_server_was_shown_is_worth_nothing_at_the_other(equals, place, monkeypatch):
    """With its own share and that of the other server it would have the answer, or one for an input of its choice."""
    async with (
        curious_workers(equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster),
        await share(network(), cluster, name=NAME) as shared,
        connect(cluster, NAME) as remote,
    ):
        serving = asyncio.create_task(shared.serve(2))
        await until_served(remote, np.full((1, 4), 0.5))
        secret = new_secret()
        grants = await cluster.links_for(NAME).provider.request(
            NAME, remote.model, 1, "logits", (digest_at(secret, 0), digest_at(secret, 1))
        )
        ticket, m = grants.granted[0].ticket, grants.granted[0].input_mask
        where = seats(equals, NAME)
        if place == where.third:
            curious.seen.append(("all that it has", (ticket,)))
        else:
            curious.seen.append(("shown by the client", (ticket, right_at(secret, where.party(place)))))

        async def answered(system, right):
            for server_place in where.servers:
                if server_place != place:
                    server = await system.connect(f"{cluster.workers[server_place].url}/server", ComputeServer)
                    await server.answer(ticket, right, m)

        assert await nothing_opens(curious, answered) > 10
        servers = cluster.links_for(NAME).servers
        await asyncio.gather(*(server.answer(ticket, right_at(secret, party), m) for party, server in enumerate(servers)))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@EVERY
@pytest.mark.sample(2)
async def test_stored_data_and_weights_in_training_stay_shut(equals, place, monkeypatch):
    model = network()
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    async with curious_workers(equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster):
        x, y = await cluster.store("x", rng.uniform(size=(8, 4))), await cluster.store("y", rng.uniform(size=(8, 3)))
        async with await share(model, cluster, name=NAME) as shared:
            async for _ in shared.fit(x, y, epochs=1, batch_size=4, metrics=False, progress=False):
                pass
            run = next(arguments[0] for label, arguments in curious.seen if label.endswith(".begin")).terms
            handle = shared._training._handle
            assert right_at(x.secret, place) in curious.known()  # it was shown to this worker when the training began

            async def read(system, right):
                results = []
                presence = await system.spawn(Presence)
                for url in others(cluster, place):
                    server = await system.connect(f"{url}/training", TrainingServer)
                    dealer = await system.connect(f"{url}/training-dealer", TrainingDealer)
                    digest, again = (
                        digest_at(new_secret(), 0),
                        ToldTerms.of(msgspec.structs.replace(run, session=new_secret()[:16])),
                    )
                    calls = (
                        server.weights(handle, right),
                        server.begin(again, digest, handle, (right, right, right), presence),
                        server.epoch(run.session, right, 0, 0, 1, ["metric"]),
                        server.adopt(run.session, right),
                        dealer.begin(again, digest, (right, right), presence),
                        dealer.epoch(run.session, right, 0, 0, [1]),
                    )
                    results += await asyncio.gather(*calls, return_exceptions=True)
                await system.stop(presence)
                assert all(isinstance(result, REFUSED) for result in results), results
                raise results[0]

            assert await nothing_opens(curious, read) > 10
            with pytest.raises(ProtocolError):  # the public interface, with what the worker knows instead of the secret
                async for _ in shared.fit(SharedDataset(x.dataset, right_at(x.secret, place) * 2), y, progress=False):
                    pass
            assert len((await shared.reveal()).get_weights()) == 2


@EVERY
@pytest.mark.sample(2)
async def test_data_that_are_kept_are_neither_loaded_nor_removed(equals, place, monkeypatch, tmp_path):
    async with curious_workers(tmp_path, equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster):
        grant = await cluster.deposit("ward", np.arange(12.0).reshape(4, 3) / 10)
        await cluster.load("ward", grants=grant)
        label = next(arguments[1] for name, arguments in curious.seen if name == "Keeper.refresh")
        assert right_at(grant.right, place) in curious.known()
        fresh = itertools.count(100)

        async def use(system, right):
            results = []
            presence = await system.spawn(Presence)
            for url in others(cluster, place):
                keeper = await system.connect(f"{url}/keeper", Keeper)
                new = Label(label.kind, label.name, next(fresh), new_secret()[:16])
                calls = (
                    keeper.remove("data", "ward", right),
                    keeper.place([GrantedVersion(label, right)], 0, new_secret()[:16], digest_at(new_secret(), 0), equals, presence),
                    keeper.refresh(label, new, right, equals, ""),
                    keeper.commit(label, right, equals, ""),
                )
                results += await asyncio.gather(*calls, return_exceptions=True)
            await system.stop(presence)
            assert all(isinstance(result, REFUSED) for result in results), results
            raise results[0]

        assert await nothing_opens(curious, use) > 5
        assert (await cluster.load("ward", grants=grant)).shape == (4, 3)


@EVERY
async def test_a_sum_is_the_aggregator_s(equals, place, monkeypatch):
    from federated.aggregation.shared_aggregation import _SharedSession
    from federated.owners.hiding import Hiding

    async with curious_workers(equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster):
        session = await _SharedSession.begin(cluster, (3, 0), Hiding(8.0, 100), 3, 3)
        handle = session._session.handle

        async def take(system, right):
            results = []
            for url in others(cluster, place):
                sums = await system.connect(f"{url}/sums", SumServer)
                calls = (sums.open(handle, right), sums.discard(handle, right), sums.admit(handle, right, bytes(48), 1))
                results += await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, REFUSED) for result in results), results
            raise results[0]

        await nothing_opens(curious, take)


@EVERY
async def test_one_worker_is_not_taken_for_another(equals, place, monkeypatch, tmp_path):
    """Each message of a worker counts from that worker only: the wrong one of the three, and everybody else, is refused."""
    async with (
        curious_workers(tmp_path, equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster),
        await share(network(), cluster, name=NAME) as shared,
        connect(cluster, NAME) as remote,
    ):
        serving = asyncio.create_task(shared.serve(5))
        await until_served(remote, np.full((1, 4), 0.5))
        where, model = seats(equals, NAME), remote.model
        async with curious.callers() as systems:
            for system, target in itertools.product(systems, (one for one in range(3) if one != place)):
                server = await system.connect(f"{cluster.workers[target].url}/server", ComputeServer)
                provider = await system.connect(f"{cluster.workers[target].url}/provider", CryptoProvider)
                keeper = await system.connect(f"{cluster.workers[target].url}/keeper", Keeper)
                member = system is curious.inner.system
                party = where.party(target)
                is_third, is_server = member and place == where.third, member and place in where.servers
                calls: list[Awaitable[object]] = [
                    keeper.deliver(bytes([other]), bytes(16), 0, [np.zeros(2, np.uint64)])
                    for other in range(3)
                    if other != place or not member
                ]
                if party in (0, 1) and not is_third:
                    calls += [
                        server.deal(model, "logits", bytes(16), None, 1, None),
                        server.under_way(model, bytes(16)),
                        server.retire(model),
                        server.agree(NAME, bytes(16), equals, bytes(32) if equals else None),
                    ]
                if party in (0, 1) and not is_server:
                    calls += [server.deliver(model, bytes(16), 0, []), server.give_up(model, bytes(16))]
                if target == where.third:
                    own = where.party(place) if is_server else None
                    calls += [provider.settle(model, bytes(16), 0, wrong, True) for wrong in (0, 1) if wrong != own]
                for refused in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(refused, NotAllowed), refused
        assert (await remote.query(np.full((1, 4), 0.5))).shape == (1, 3)  # nothing of it did any harm
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_who_may_train_cannot_destroy(monkeypatch, tmp_path):
    """With what is in NAME.grant.json: versions that one party alone has, seeds of one's own, and commits that are not true."""
    rows = np.arange(12.0).reshape(4, 3) / 10
    async with curious_workers(tmp_path, equals=False, place=0, monkeypatch=monkeypatch) as (_, cluster):
        grant = (await cluster.deposit("ward", rows)).to_give()
        system = cluster.links.system
        keepers = [await system.connect(f"{worker.url}/keeper", Keeper) for worker in cluster.workers]
        old = (await keepers[0].versions("data", "ward"))[-1].label
        new = Label("data", "ward", old.serial + 1, new_secret()[:16])
        rights = grant.rights((0, 1, 2))
        for keeper in keepers:
            for other in range(3):
                with pytest.raises(NotAllowed):
                    await keeper.deliver(bytes([other]), derive(new.tag, "seeds"), 0, [np.zeros(2, np.uint64)])
        two = [keeper.refresh(old, new, right, False, "") for keeper, right in zip(keepers[:2], rights[:2], strict=True)]
        await asyncio.gather(*two)  # the third party is left out
        for keeper, right in zip(keepers[:2], rights[:2], strict=True):
            with pytest.raises(Altered, match="the old ones stand"):
                await keeper.commit(new, right, False, "")
        later = Label("data", "ward", new.serial + 1, new_secret()[:16])
        for keeper, right in zip(keepers, rights, strict=True):
            with pytest.raises(ProtocolError):  # a commit of a version that nobody has
                await keeper.commit(later, right, False, "")
            with pytest.raises(ProtocolError, match="only the owner"):
                await keeper.remove("data", "ward", right)
        x, y = await cluster.load("ward", grants=grant), await cluster.store("y", np.eye(4))
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4, use_bias=False, kernel_initializer="zeros")], name="read")
        model.compile(keras.optimizers.SGD(0.1), "mse")
        async with await share(model, cluster) as shared:
            async for _ in shared.fit(x, y, epochs=1, batch_size=1, shuffle=False, metrics=False, progress=False):
                pass
            trained = (await shared.reveal()).get_weights()[0]
        model.fit(rows, np.eye(4), batch_size=1, shuffle=False, verbose=0)
        np.testing.assert_allclose(trained, model.get_weights()[0], atol=0.001)


@pytest.mark.sample(2)
@EVERY
async def test_a_model_that_stays_is_its_owner_s(equals, place, monkeypatch, tmp_path):
    """With its memory, its folder and the key of that, one worker lifts nothing at the others, removes nothing, and begins no session."""
    async with curious_workers(tmp_path, equals=equals, place=place, monkeypatch=monkeypatch) as (curious, cluster):
        async with await share(network(), cluster, name=NAME, durable=tmp_path / "rights") as shared:
            await shared.serve(1, reveal={"label"}, wait=False)
        async with connect(cluster, NAME) as remote:
            await remote.query(np.full((1, 4), 0.5), reveal="label")
            session = remote._session
        party = seats(equals, NAME).party(place)
        own = shared._rights[party]
        await (*cluster.links_for(NAME).servers, cluster.links_for(NAME).provider)[party].standing(NAME, own)
        assert own in curious.known()
        part = curious.inner.actor("provider" if party == 2 else "server")
        tag = part._lasting.get(NAME).label.tag
        hosting = part._models[NAME].hostings[0] if party == 2 else part._entries[NAME].model.hosting
        terms = Terms(1 << 20)

        async def lift(system, right):
            calls = []
            for url in others(cluster, place):
                server = await system.connect(f"{url}/server", ComputeServer)
                provider = await system.connect(f"{url}/provider", CryptoProvider)
                calls += [worker.remove(NAME, right) for worker in (server, provider)]
                calls += [worker.standing(NAME, right) for worker in (server, provider)]
                calls += [worker.keep(NAME, right, tag) for worker in (server, provider)]
                calls += [server.serve(NAME, right, terms), provider.serve(NAME, right, Allowance(terms))]
                if party != 2:  # the third party may begin a session, with what the servers keep
                    calls += [server.resume(hosting, tag), server.open_kept(session)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, REFUSED) for result in results), results
            raise results[0]

        assert await nothing_opens(curious, lift) > 10
        async with connect(cluster, NAME) as remote:
            with pytest.raises(QuotaSpent):
                await remote.query(np.full((1, 4), 0.5), reveal="label")
            with pytest.raises(NotServed):
                await remote.query(np.full((1, 4), 0.5))
