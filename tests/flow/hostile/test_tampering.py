"""Messages that are altered on their way to or between the servers give an error and no answer, and the next request is answered."""

import asyncio
import contextlib
import copy
import sys
from types import SimpleNamespace

import keras
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from actors import message
from inner_workers import inner_workers
from protocols import LinearRegression, connect, share
from protocols.authority.membership import OTHER_SERVER, OWNER
from protocols.authority.presence import Presence
from protocols.client.remote_model import RemoteModel
from protocols.errors import Altered, ClusterError
from protocols.link.seal import Seal
from protocols.mpc.circuit import Circuit
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.training.circuits import StepCircuits
from protocols.training.terms import ToldTerms
from protocols.workers.compute_server import ComputeServer
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer


class Altering(ComputeServer):
    """A server whose incoming messages have one bit flipped: in the round `alter`, if it is not None."""

    alter: int | None = None

    @message(reentrant=True, by=OTHER_SERVER)
    def deliver(self, model: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        if number == self.alter:
            arrays = [array.copy() for array in arrays]
            arrays[-1].reshape(-1)[-1] ^= np.uint64(1)
        super().deliver(model, channel, number, arrays)


class AlteringTrainer(TrainingServer):
    """The same for training."""

    alter: int | None = None

    @message(reentrant=True, by=OTHER_SERVER)
    def deliver(self, run: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        if number == self.alter:
            arrays = [array.copy() for array in arrays]
            arrays[0].reshape(-1)[0] ^= np.uint64(1 << 12)
        for session in self._sessions.values():
            session.twins.inboxes.put(channel, number, arrays)


@contextlib.asynccontextmanager
async def trained_by():
    """A cluster in this process, of which the second server can be told to alter what arrives in training."""
    altering = type("Told", (AlteringTrainer,), {})
    async with inner_workers(parts=[None, {"training": altering}, None]) as (_, cluster):
        yield altering, cluster


async def test_an_epoch_of_training_that_was_altered_is_thrown_away():
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    async with trained_by() as (altering, cluster):
        x = await cluster.store("x", rng.uniform(size=(20, 4)).astype(np.float32))
        y = await cluster.store("y", rng.integers(0, 3, 20))
        async with await share(model, cluster) as shared:
            assert [epoch.number async for epoch in shared.fit(x, y, epochs=1, batch_size=10)] == [1]
            before = (await shared.reveal()).get_weights()
            altering.alter = 2
            with pytest.raises(Altered, match="in epoch 1"):
                await anext(shared.fit(x, y, epochs=1, batch_size=10))
            altering.alter = None
            for old, new in zip(before, (await shared.reveal()).get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)
            assert [epoch.number async for epoch in shared.fit(x, y, epochs=1, batch_size=10)] == [1]


class RoundingTrainer(TrainingServer):
    """A server on a processor that rounds otherwise: one number of its steps is another one in the last digit."""

    rounds = True

    async def _micro_batch(self, session, micro, rows, seal):
        steps = session.steps
        circuit = steps.at(micro, session.terms.made + session.done)
        place = max(at for at, op in enumerate(circuit.ops) if isinstance(op, Combine))
        op = circuit.ops[place]
        other = msgspec.structs.replace(op, factors=(op.factors[0] + 1, *op.factors[1:]))
        changed = Circuit((*circuit.ops[:place], other, *circuit.ops[place + 1 :]), circuit.values, circuit.outputs).arranged_as(circuit)
        if self.rounds:
            session.steps = SimpleNamespace(at=lambda *args, **kwargs: changed, like=steps.like, bytes=steps.bytes)
        try:
            return await super()._micro_batch(session, micro, rows, seal)
        finally:
            session.steps = steps


@pytest.mark.parametrize("rounds", [True, False])
async def test_servers_that_fit_their_curves_differently_are_found_and_train_nothing(rounds):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    server = type("Told", (RoundingTrainer,), {"rounds": rounds})
    async with inner_workers(parts=[None, {"training": server}, None]) as (_, cluster):
        x = await cluster.store("x", np.zeros((20, 4), np.float32))
        y = await cluster.store("y", np.zeros((20, 3), np.float32))
        async with await share(model, cluster) as shared:
            if not rounds:
                assert [epoch.number async for epoch in shared.fit(x, y, epochs=1, batch_size=10)] == [1]
                return
            with pytest.raises(Altered, match=r"or on what they compute: .* round differently"):
                await anext(shared.fit(x, y, epochs=1, batch_size=10))
            for old, new in zip(model.get_weights(), (await shared.reveal()).get_weights(), strict=True):
                np.testing.assert_allclose(old, new, atol=1e-3)


@pytest.mark.parametrize("other", [0, 1, 2], ids=["server 0", "server 1", "crypto provider"])
async def test_a_worker_whose_circuit_has_another_window_is_found_before_anything_is_computed(other, monkeypatch):
    """What is dealt depends on windows: a provider that finds others dealt what gives wrong numbers, and nobody could tell."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    made, before, changed = [], StepCircuits.__init__, []

    def init(self, terms):
        before(self, terms)
        if sys._getframe(1).f_code.co_qualname.startswith("_DealtTraining") == (other == 2):
            made.append(self)
            if other == 2 or len(made) == other + 1:
                changed.append(self)
                for kind, one in self._circuits.items():
                    place = next(at for at, op in enumerate(one.ops) if isinstance(op, Truncate))
                    ops = list(one.ops)
                    ops[place] = msgspec.structs.replace(ops[place], drop=ops[place].drop - 1)
                    self._circuits[kind] = Circuit(tuple(ops), one.values, one.outputs)

    monkeypatch.setattr(StepCircuits, "__init__", init)
    async with inner_workers() as (_, cluster):
        x = await cluster.store("x", np.zeros((20, 4), np.float32))
        y = await cluster.store("y", np.zeros((20, 3), np.float32))
        async with await share(model, cluster) as shared:
            with pytest.raises(
                ClusterError, match=r"for another circuit than server . computes: .* round differently; nothing was computed"
            ):
                await anext(shared.fit(x, y, epochs=1, batch_size=10))
            assert changed
            monkeypatch.setattr(StepCircuits, "__init__", before)
            for old, new in zip(model.get_weights(), (await shared.reveal()).get_weights(), strict=True):
                np.testing.assert_allclose(old, new, atol=1e-3)


@pytest.mark.parametrize("equals", [False, True], ids=["crypto provider", "three equals"])
@pytest.mark.parametrize("server", [0, 1])
async def test_a_stored_array_that_arrived_otherwise_at_one_server_gives_no_coefficients(server, equals):
    """Sums of products need no message between the servers: each computes with the masked values that it was sent."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (20, 3)), rng.uniform(-1, 1, (20, 1))
    async with inner_workers(equals=equals) as (inner, cluster):
        seats = cluster.seats_for("LinearRegression")
        stored = await cluster.store("x", x), await cluster.store("y", y)
        held = inner[seats.servers[server]].holdings.datasets
        right = held[stored[0].dataset.handle]
        wrong = copy.deepcopy(right)
        m = wrong.masked if seats.helper is None else wrong._components[seats.helper]
        m.flags.writeable = True
        m[0, 0] ^= np.uint64(1)
        held[stored[0].dataset.handle] = wrong
        with pytest.raises(Altered, match="do not agree"):
            await LinearRegression(cluster).fit(*stored)
        held[stored[0].dataset.handle] = right
        found = await LinearRegression(cluster).fit(*stored)
    np.testing.assert_allclose(found.coef_, np.linalg.lstsq(np.c_[x, np.ones(20)], y, rcond=None)[0][:-1, 0], atol=1e-3)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["server 0", "server 1", "crypto provider"])
async def test_a_worker_that_reads_other_terms_than_their_owner_is_found_before_anything_is_computed(place):
    """A field that an older version does not know is left out when it arrives; all three may leave out the same."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")

    def read(told):
        plan = msgspec.structs.replace(told.terms.plan, summed=True)
        return ToldTerms(msgspec.structs.replace(told.terms, plan=plan), told.fingerprint)

    class Server(TrainingServer):
        @message(reentrant=True, by=OWNER)
        async def begin(self, told: ToldTerms, digest: bytes, model: bytes, rights: tuple[bytes, ...], presence: Presence) -> bytes:
            return await super().begin(read(told), digest, model, rights, presence)

    class Dealer(TrainingDealer):
        @message(reentrant=True, by=OWNER)
        async def begin(self, told: ToldTerms, digest: bytes, rights: tuple[bytes, ...], presence: Presence) -> None:
            await super().begin(read(told), digest, rights, presence)

    parts = [{"training": Server, "training-dealer": Dealer} if at == place else None for at in range(3)]
    async with inner_workers(parts=parts) as (_, cluster):
        x, y = await cluster.store("x", np.zeros((20, 4), np.float32)), await cluster.store("y", np.zeros((20, 3), np.float32))
        async with await share(model, cluster) as shared:
            with pytest.raises(ClusterError, match=r"does not read all .*other versions of confide; .*Nothing was computed"):
                await anext(shared.fit(x, y, epochs=1, batch_size=10))


@contextlib.asynccontextmanager
async def served(model):
    """A cluster in this process, of which the second server can be told to alter what arrives."""
    altering = type("Told", (Altering,), {})
    async with (
        inner_workers(parts=[None, {"server": altering}, None]) as (_, cluster),
        await share(model, cluster, name="small") as shared,
    ):
        serving = asyncio.create_task(shared.serve(1000))
        try:
            async with connect(cluster, "small") as remote:
                yield altering, remote, shared
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("reveal", ["logits", "label"])
async def test_a_bit_that_is_flipped_in_any_round(model, images, expected, reveal):
    async with served(model) as (altering, remote, _):
        await asyncio.sleep(0.05)
        first = await remote.query(images[:3], reveal=reveal)
        rounds = remote.last.rounds
        for number in range(rounds):
            altering.alter = number
            with pytest.raises(Altered, match="do not agree on what they sent each other"):
                await remote.query(images[:3], reveal=reveal)
        altering.alter = None
        if reveal == "logits":
            np.testing.assert_allclose(await remote.query(images[:3]), expected[:3], atol=0.005)
            np.testing.assert_allclose(first, expected[:3], atol=0.005)


@pytest.mark.parametrize("equals", [False, True], ids=["crypto provider", "three equals"])
async def test_weights_that_arrived_otherwise_at_one_server_give_no_answer(model, images, equals):
    class Loading(ComputeServer):
        @message(reentrant=True, by=OWNER)
        async def load(self, name: str, right: bytes, program: bytes, masked: list[npt.NDArray[np.uint64]]) -> None:
            masked = [weight.copy() for weight in masked]
            masked[-1].reshape(-1)[-1] ^= np.uint64(1)
            await super().load(name, right, program, masked)

    async with inner_workers(equals=equals) as (_, whole):
        place = whole.seats_for("small").servers[1]
    parts = [{"server": Loading} if at == place else None for at in range(3)]
    async with inner_workers(parts=parts, equals=equals) as (_, cluster), await share(model, cluster, name="small") as shared:
        serving = asyncio.create_task(shared.serve(10))
        try:
            async with connect(cluster, "small") as remote:
                while not await shared.prepared():
                    await asyncio.sleep(0)
                with pytest.raises(Altered, match="do not agree"):
                    await remote.query(images[:2])
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def test_servers_that_were_not_asked_the_same(model, images, monkeypatch):
    """A link to one server that alters the masked input."""
    part = RemoteModel._part

    async def wrong(self, x, granted, secret):
        class Other:
            def __init__(self, server):
                self._server = server

            async def answer(self, ticket, right, m):
                m = m.copy()
                m.reshape(-1)[0] += np.uint64(1 << 20)
                return await self._server.answer(ticket, right, m)

        servers = self._servers
        self._servers = (servers[0], Other(servers[1]))
        try:
            return await part(self, x, granted, secret)
        finally:
            self._servers = servers

    async with served(model) as (_, remote, _):
        await asyncio.sleep(0.05)
        with monkeypatch.context() as patch:
            patch.setattr(RemoteModel, "_part", wrong)
            with pytest.raises(Altered):
                await remote.query(images[:2])
        assert (await remote.query(images[:2])).shape == (2, 4)


def sealed(*messages, key=b"k" * 32, channel=b"c" * 16):
    seal = Seal(key, channel)
    for one in messages:
        seal.add(one)
    return seal.close()


def test_seals_tell_what_was_sent_in_which_message():
    a, b = np.arange(5, dtype=np.uint64), np.arange(5, 9, dtype=np.uint64)
    base = sealed([a], [b])
    assert base == sealed([a.copy()], [b.copy()])
    others = [
        sealed([b], [a]),
        sealed([a, b], []),
        sealed([a], [b], []),
        sealed([np.concatenate([a, b])], []),
        sealed([a], [b[::-1]]),
        sealed([a], [b], key=b"k" * 31 + b"l"),
        sealed([a], [b], channel=b"d" * 16),
        sealed([a], [b], channel=b"c" * 15),
        sealed([a.view(np.int64) + 2**61], [b]),
        sealed([a], [a, b]),
    ]
    assert len({base, *others}) == 11
    assert len(base) == 32
