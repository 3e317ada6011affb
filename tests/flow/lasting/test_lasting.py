"""Models that stay: when their owner has gone, and when any of the three workers was started again."""

import asyncio
import contextlib

import keras
import msgspec
import numpy as np
import pytest

from actors import ActorError, ActorSystem, NotAllowed
from inner_workers import inner_workers
from protocols import connect, share
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import (
    BudgetSpent,
    ClusterError,
    KeepsNothing,
    NameTaken,
    NotOwner,
    QuotaSpent,
    Resuming,
    ServingError,
    UnknownModel,
    VaultError,
    WorkerLost,
)
from protocols.noisy_answers import NoisyAnswers
from protocols.owner.placing.managed import ManagedModel
from protocols.owner.placing.placing import Placing
from protocols.owner.placing.right import ModelRight
from protocols.serving.hosting import Terms
from protocols.storage.counts import UseCounts
from protocols.storage.kept_models import KeptModels
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.linked import Linked

TOLERANCE = 0.005
SECRET = new_secret()
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))


def two_weights(name="small", seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name=name)


X = np.random.default_rng(0).uniform(size=(20, 4)).astype(np.float32)


async def test_it_is_served_when_its_owner_has_gone_and_after_each_worker_was_started_again(model, images, expected, either):
    right = await either.share(model, 9)
    sessions = []
    async with connect(either.cluster, "small") as open_all_along:
        assert open_all_along.lasting
        for number, places in enumerate([(), (0,), (1,), (2,), (0, 1, 2)]):
            await either.restart(*places)
            async with connect(either.cluster, "small", timeout=30) as anew:
                assert anew.model == open_all_along.model
                np.testing.assert_allclose(await anew.query(images[:3]), expected[:3], atol=TOLERANCE)
                sessions.append(anew._session)
            if number < 4:
                np.testing.assert_allclose(await open_all_along.query(images[3:5]), expected[3:5], atol=TOLERANCE)
        assert len(set(sessions)) == 5
        for party in range(3):
            assert (either.kept(party).requests, either.kept(party).examples) == (9, 23)
        with pytest.raises(QuotaSpent):
            await open_all_along.query(images[:1])
    assert right.path.stat().st_mode & 0o777 == 0o600


async def test_a_worker_without_a_folder_refuses_and_nothing_is_left(tmp_path):
    model = two_weights()
    async with inner_workers() as (_, cluster):
        for _ in range(2):
            with pytest.raises(KeepsNothing, match=r"ws://127.* this worker keeps nothing: start it with a folder"):
                await share(model, cluster, name="small", durable=tmp_path)
        assert not list(tmp_path.iterdir())
        async with await share(model, cluster, name="small") as shared:
            serving = asyncio.create_task(shared.serve(1))
            async with connect(cluster, "small") as remote:
                assert not remote.lasting
            serving.cancel()


async def test_its_name_is_taken_and_its_right_is_its_owners_whether_it_is_served_or_not(three):
    right = await three.share(two_weights(), 5)
    await three.restart(2)
    await three.stop(1)
    async with contextlib.AsyncExitStack() as stack:
        system = await stack.enter_async_context(ActorSystem())
        addresses = three.cluster.addresses_for("small")
        first = await system.connect(f"{addresses.servers[0]}/server", ComputeServer)
        provider = await system.connect(f"{addresses.crypto_provider}/provider", CryptoProvider)
        own, other, third = right.at(range(3))
        for worker in (first, provider):
            for wrong in (bytes(16), other):
                with pytest.raises(NotOwner):
                    await worker.remove("small", wrong)
                with pytest.raises(NotOwner):
                    await worker.standing("small", wrong)
        with pytest.raises(NotOwner):
            await first.serve("small", other, Terms(1 << 20))
        with pytest.raises(NameTaken, match=r"hosted here already|kept here for its owner"):
            await first.claim("small", digest_at(SECRET, 0))
        assert "nobody answers" in (await provider.standing("small", third)).waits
        await three.start(1)
        async with connect(three.cluster, "small") as remote:
            assert (await remote.query(X[:1])).shape == (1, 3)
        assert await first.standing("small", own) == await first.standing("small", own)
        async with three.cluster as cluster:
            with pytest.raises(VaultError, match="it is the right to a model that was shared before"):
                await share(two_weights(), cluster, name="small", durable=three.folder)
            with pytest.raises(NameTaken):
                await share(two_weights(), cluster, name="small")


async def test_nothing_of_one_session_serves_in_another(either):
    """Keys of weights, tickets, seals and masked weights are others; a ticket of before is refused."""
    await either.share(two_weights(), 9)
    seen = []
    for _ in range(3):
        async with connect(either.cluster, "small", timeout=30) as remote:
            await remote.query(X[:1])
            grants = await remote._provider.request("small", remote._session, 1, "logits", HOLDERS)
            entries = [either.actor(party)._entries["small"] for party in (0, 1)]
            seen.append(
                {
                    "model": [entry.model.hosting.model for entry in entries][:1],
                    "weights": [entry.model._weight_key for entry in entries],
                    "tickets": [entry.model.ticket_key for entry in entries],
                    "seals": [entries[0].seal_key],
                    "masked": [entries[0].model._masked[0].tobytes()],
                    "chunk": [grants.granted[0].ticket.ticket.chunk],
                }
            )
            await either.restart(0, 2)
            async with connect(either.cluster, "small", timeout=30) as anew:
                granted = grants.granted[0]
                for party, server in enumerate(anew._servers):
                    with pytest.raises(UnknownModel):
                        await server.answer(granted.ticket, right_at(SECRET, party), granted.input_mask)
    for what in seen[0]:
        values = [value for session in seen for value in session[what]]
        assert len(set(values)) == len(values), what
    first, second = (either.actor(party)._entries["small"].model for party in (0, 1))
    weights = [(a + b).astype(np.int64) for a, b in zip(first.weights.share, second.weights.share, strict=True)]
    scale = weights[0] / two_weights().get_weights()[0]
    np.testing.assert_allclose(scale, np.full_like(scale, np.median(scale)), rtol=1e-3)


async def test_budgets_of_noisy_answers_stay_spent(three):
    await three.share(two_weights(), 100, answers=NoisyAnswers(clip=4.0, noise_multiplier=2.0, max_epsilon=8.0), check=X, tolerance=None)
    async with connect(three.cluster, "small") as remote:
        await remote.query(X[:7])
    for places in ((2,), (0, 1)):
        await three.restart(*places)
        async with connect(three.cluster, "small", timeout=30) as remote:
            assert await until(remote.answers_left) == 2
            with pytest.raises(BudgetSpent, match=r"3 noisy answers .* 2 of 9 are left"):
                await remote.query(X[:3])
            for party in (0, 1):
                assert three.actor(party)._entries["small"].model.budget.left("") == 2
    async with connect(three.cluster, "small") as remote:
        await remote.query(X[:2])
    for party in range(3):
        assert three.kept(party)._spent == {"": 9}


async def until(ask):
    """What is answered when the workers have come together."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Resuming, ActorError, WorkerLost):
                return await ask()
            await asyncio.sleep(0.01)


@pytest.mark.sample(2)
@pytest.mark.parametrize("party", [0, 1, 2])
async def test_what_cannot_be_written_is_not_given_away(three, monkeypatch, party):
    await three.share(two_weights(), 5)
    async with connect(three.cluster, "small") as remote:
        await remote.query(X[:1])
        counts, write = three.kept(party)._counts, UseCounts.write

        def full(self, counted):
            if self is counts:
                raise VaultError("no space left")
            write(self, counted)

        monkeypatch.setattr(UseCounts, "write", full)
        with pytest.raises((ServingError, WorkerLost), match=r"cannot write down what it counts|gave this computation up|other server"):
            await remote.query(X[:1])
        monkeypatch.undo()
        await remote.query(X[:1])
    assert all(2 <= three.kept(party).requests <= 3 for party in range(3))


@pytest.mark.sample(2)
@pytest.mark.parametrize("end", ["share", "counts"])
@pytest.mark.parametrize("party", [0, 2])
async def test_a_damaged_file_ends_its_model_by_name_and_no_other(three, caplog, end, party):
    for number, name in enumerate(("small", "other")):
        await three.share(two_weights(name, number), 5, name)
    for place in range(3):
        await three.stop(place)
    path = three.file(party, end)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if end == "share" else content[:2000])
    for place in range(3):
        await three.start(place)
    async with connect(three.cluster, "other", timeout=30) as remote:
        np.testing.assert_allclose(await remote.query(X[:2]), two_weights("other", 1).predict(X[:2], verbose=0), atol=TOLERANCE)
    assert any("'small' cannot be served" in line and path.name in line for line in caplog.messages)
    with pytest.raises((UnknownModel, Resuming), match="small"):
        async with connect(three.cluster, "small", timeout=1):
            pass
    async with three.cluster as cluster:
        with pytest.raises(NameTaken):
            await share(two_weights(), cluster, name="small")


async def test_a_bit_of_the_weights_that_is_altered_is_found_and_named(three):
    right = await three.share(two_weights(), 5)
    path = three.file(1, "share")
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    await three.restart(1)
    async with three.cluster as cluster:
        provider = cluster.links_for("small").provider

        async def named():
            waits = (await provider.standing("small", right.at(range(3))[2])).waits
            assert "is damaged" in waits or not waits.startswith("VaultError")
            return waits if "is damaged" in waits else await asyncio.sleep(0.01)

        async with asyncio.timeout(30):
            while not await named():
                pass
        with pytest.raises(Resuming, match=r"is not served yet: a worker refuses it, and its log says why \(VaultError\)"):
            await provider.request("small", bytes(16), 1, "logits", HOLDERS)
    with pytest.raises(Resuming, match="come together again"):
        async with connect(three.cluster, "small", timeout=0):
            pass


async def test_servers_host_what_they_keep_whatever_the_third_party_says(three):
    """Another program, promise, part or identifier is refused; and nobody else begins a session."""
    await three.share(two_weights(), 5)
    await three.share(two_weights("other", 1), 5, "other")
    provider, server = three.actor(2), three.actor(0)
    mine, other = provider._models["small"], provider._models["other"]
    tag = three.kept(0).label.tag

    async def asked(name="small", model=None, identifier=tag, **changed):
        shared = await provider._agreed("small", mine.program, mine.seats, mine.claim, None)
        hosting = msgspec.structs.replace(shared.hostings[0], name=name, **changed)
        await shared.servers[0].resume(hosting, identifier)

    longer = type(mine.program)(**{field: getattr(mine.program, field) for field in mine.program.__struct_fields__} | {"output_scale": 9.0})
    for refused in ({"program": longer}, {"party": 1}, {"identifier": bytes(16)}, {"name": "other"}):
        with pytest.raises((ServingError, ClusterError), match=r"another program|is asked to be|not kept here"):
            await asked(**refused)
    async with ActorSystem() as user, ActorSystem(for_user=False) as stranger:
        for system in (user, stranger, three.inner[1].system):
            reached = await system.connect(f"{three.inner[0].system.address}/server", ComputeServer)
            for attempt in (reached.resume(mine.hostings[0], tag), reached.open_kept(mine.model)):
                with pytest.raises(NotAllowed):
                    await attempt
    assert server._entries["other"].model.hosting.model == other.model
    async with connect(three.cluster, "small") as remote:
        assert (await remote.query(X[:1])).shape == (1, 3)


async def test_what_is_on_the_disks_of_one_worker_is_no_weight(three):
    await three.share(two_weights(), 5)
    async with connect(three.cluster, "small") as remote:
        await remote.query(X[:1])
    shares = [await three.actor(party)._lasting.arrays(three.kept(party)) for party in range(3)]
    whole = (shares[0]["0"] + shares[1]["0"]).view(np.int64)
    assert abs(whole).max() < 1 << 40 < min(np.median(abs(one["0"].view(np.int64).astype(float))) for one in shares[:2])
    for party in (0, 1):
        assert shares[party]["0"].tobytes() not in three.file(party, "share").read_bytes()
    assert set(shares[2]) == {"program"}


async def test_stopped_it_is_gone_everywhere_and_its_name_is_free(three):
    async with three.cluster as cluster:
        async with await share(two_weights(), cluster, name="small", durable=three.folder) as shared:
            await shared.serve(3, wait=False)
        assert shared.right.path.exists()
        await three.stop(1)
        with pytest.raises(WorkerLost, match="could not be removed"):
            await shared.stop()
        assert shared.right.path.exists()
        await three.start(1)
        await cluster.enrol()
        await shared.stop()
        assert not shared.right.path.exists()
        assert not [path for path in three.folder.rglob("*") if "model" in path.parts and path.is_file()]
        async with await share(two_weights(), cluster, name="small", durable=three.folder) as again:
            await again.stop()
    await three.restart(0, 1, 2)
    with pytest.raises(UnknownModel):
        async with connect(three.cluster, "small", timeout=5):
            pass


async def test_what_was_trained_on_shares_stays_as_it_lies(either):
    model = two_weights()
    model.compile(keras.optimizers.SGD(0.3), "mse")
    y = (X @ np.arange(12).reshape(4, 3)).astype(np.float32) / 16
    async with either.cluster as cluster, await share(model, cluster, name="small") as shared:
        async for _ in shared.fit(X, y, epochs=2, batch_size=10, progress=False):
            pass
        trained = await shared.predict(X)
        await shared.serve(5, durable=either.folder, wait=False)
    assert np.abs(trained - model.predict(X, verbose=0)).max() > 0.05
    for places in ((), (0, 1, 2)):
        await either.restart(*places)
        async with connect(either.cluster, "small", timeout=30) as remote:
            np.testing.assert_allclose(await remote.query(X), trained, atol=0.01)
    async with either.cluster as cluster, await share(model, cluster, name="other") as shared:
        await shared.serve(1, wait=False)
        with pytest.raises(ServingError, match="was served already"):
            await shared.serve(1, durable=either.folder, wait=False)
        async with connect(cluster, "other") as remote:
            assert (await remote.query(X[:1])).shape == (1, 3)


async def test_weights_that_are_altered_while_they_are_opened_are_not_served(three, monkeypatch, caplog):
    """By whoever alters one message between the servers: the third party sees that their seals differ, and they begin again."""
    await three.share(two_weights(), 5)
    arrived, altered = Linked._arrived, []

    def flipped(self, name, channel, number, arrays):
        if isinstance(self, ComputeServer) and not altered:
            altered.append(channel)
            arrays = [array.copy() for array in arrays]
            arrays[0].reshape(-1)[0] ^= np.uint64(1 << 40)
        arrived(self, name, channel, number, arrays)

    monkeypatch.setattr(Linked, "_arrived", flipped)
    await three.restart(0)
    async with connect(three.cluster, "small", timeout=30) as remote:
        found = await remote.query(X)
    np.testing.assert_allclose(found, two_weights().predict(X, verbose=0), atol=TOLERANCE)
    assert altered
    assert any("model waits" in line and "Altered" in line for line in caplog.messages)


@pytest.mark.parametrize("party", [1, 2])
async def test_a_worker_that_cannot_keep_it_leaves_nothing_behind(three, monkeypatch, party):
    def full(self, label, about, arrays):
        if about.party == party:
            raise VaultError("no space left")
        return keep(self, label, about, arrays)

    keep = KeptModels.keep
    monkeypatch.setattr(KeptModels, "keep", full)
    with pytest.raises(VaultError, match="no space left"):
        await three.share(two_weights(), 5)
    assert not [path for path in three.folder.rglob("*") if path.suffix in (".share", ".counts", ".json")]
    monkeypatch.undo()
    await three.share(two_weights(), 5)
    await three.restart(0, 1, 2)
    async with connect(three.cluster, "small", timeout=30) as remote:
        assert (await remote.query(X[:1])).shape == (1, 3)


async def test_an_owner_that_is_killed_before_all_keep_it_removes_the_rest_by_its_right(three, monkeypatch):
    async def left(self, right):
        right.write()
        for server, own in self._servers():
            await server.keep(self._name, own, bytes(16))

    monkeypatch.setattr(Placing, "keep", left)
    right = await three.share(two_weights(), 0)
    monkeypatch.undo()
    await three.restart(2)
    with pytest.raises(Resuming):
        async with connect(three.cluster, "small", timeout=1):
            pass
    async with three.cluster as cluster:
        with pytest.raises(NameTaken):
            await share(two_weights(), cluster, name="small")
        await ManagedModel(cluster, ModelRight.read(right.path)).stop()
        async with await share(two_weights(), cluster, name="small"):
            pass
    assert not right.path.exists()
