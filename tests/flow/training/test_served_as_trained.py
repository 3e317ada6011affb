"""A model that is trained on shares is served as it lies: real workers, nothing revealed; then trained on, and served again."""

import asyncio
import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from actors import message
from inner_workers import inner_workers
from protocols import Cluster, NoisyAnswers, Worker, connect, share
from protocols.authority.membership import CLIENT
from protocols.errors import BudgetSpent, ModelError, NotServed, OutsideCalibration, QuotaSpent, UnknownModel
from protocols.owner.placing.placing import Placing
from protocols.serving.hosting import Handshake
from protocols.serving.ticket import Reveal
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.granting import Grants


def network(name="net", seed=1):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(8, "relu"), layers.Dense(3, "softmax")]
    model = keras.Sequential([layers.Input((2, 4)), layers.Flatten(), *hidden], name=name)
    model.compile(keras.optimizers.SGD(0.3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (64, 2, 4)).astype(np.float32)
    return x, (x.reshape(64, 8) @ rng.normal(size=(8, 3))).argmax(1)


async def trained(shared, x, y, epochs):
    """On shares, in the order of Keras."""
    async for _ in shared.fit(x, y, epochs=epochs, batch_size=16, shuffle=False, metrics=False, progress=False):
        pass


@contextlib.asynccontextmanager
async def serving(shared, requests, cluster, name="net", **settings):
    """A client of what is served, once it is."""
    task = asyncio.create_task(shared.serve(requests, **settings))
    kind = settings.get("reveal", ["logits"])[0]
    for _ in range(10_000):
        if task.done() or await _ready(shared, kind):
            break
    try:
        async with connect(cluster, name) as remote:
            yield remote
        await asyncio.wait_for(task, 60)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _ready(shared, kind):
    with contextlib.suppress(UnknownModel):  # while one version gives way to the next
        return await shared.prepared(kind) > 0
    return False


async def check(shared, cluster, x, model):
    """Answers and labels of what is served are Keras' of the model."""
    async with serving(shared, 2, cluster) as remote:
        assert remote.checked
        answers, labels = await remote.query(x), await remote.query(x, reveal="label")
        with pytest.raises(QuotaSpent):
            await remote.query(x)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(answers, expected, atol=0.005)
    np.testing.assert_array_equal(labels, expected.argmax(1))


async def test_trained_served_trained_on_and_served_again(cluster, data):
    x, y = data
    model = network()
    async with await share(model, cluster) as shared:
        before = shared.program
        await check_untrained(shared, cluster, x[:4], model)
        await trained(shared, x, y, 2)
        model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
        await check(shared, cluster, x[:6], model)
        assert shared.program != before
        first = await shared.predict(x[:6])
        await trained(shared, x, y, 1)
        model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
        async with connect(cluster, "net") as stale:  # of the version before
            await check(shared, cluster, x[:6], model)
            with pytest.raises(UnknownModel, match="connect to it again"):
                await stale.query(x[:2])
        assert np.abs(await shared.predict(x[:6]) - first).max() > 0.005, "one epoch more shows"
        revealed = await shared.reveal()  # the only line that opens weights
    for mine, theirs in zip(revealed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.005)


async def check_untrained(shared, cluster, x, model):
    async with serving(shared, 1, cluster) as remote:
        assert not remote.checked, "windows are proved as long as the owner knows the weights"
        np.testing.assert_allclose(await remote.query(x), model.predict(x, verbose=0), atol=0.005)


async def test_an_input_whose_numbers_leave_their_windows_has_no_answer(cluster, data):
    x, y = data
    model = network()
    async with await share(model, cluster, input_range=(-400.0, 400.0)) as shared:
        await trained(shared, x, y, 1)
        far = np.stack([x[0], np.full((2, 4), 400.0), np.full((2, 4), -400.0), x[1]])
        async with serving(shared, 2, cluster) as remote:
            with pytest.raises(OutsideCalibration) as left:
                await remote.query(far)
            answers = await remote.query(far, outside="nan", reveal="label")
    assert left.value.indices == (1, 2)
    np.testing.assert_array_equal(np.isnan(answers), [False, True, True, False])
    model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_allclose(left.value.answers[[0, 3]], model.predict(x[:2], verbose=0), atol=0.005)


@pytest.mark.long
async def test_attention_and_normalisation_are_served_as_they_were_trained(cluster, data):
    x, y = data[0], data[1]
    keras.utils.set_random_seed(5)
    start = keras.Input((2, 4))
    hidden = layers.LayerNormalization()(layers.Dense(4)(start))
    hidden = layers.Flatten()(hidden + layers.MultiHeadAttention(2, 2)(hidden, hidden))
    model = keras.Model(start, layers.Dense(3, "softmax")(hidden), name="net")
    model.compile(keras.optimizers.SGD(0.3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    async with await share(model, cluster) as shared:
        await trained(shared, x, y, 1)
        async with serving(shared, 1, cluster) as remote:
            assert remote.checked
            answers = await remote.query(x[:8])
        before = model.predict(x[:8], verbose=0)
        revealed = (await shared.reveal()).predict(x[:8], verbose=0)
    np.testing.assert_allclose(answers, revealed, atol=0.005)
    assert np.abs(answers - before).max() > 0.02


async def test_a_client_that_comes_while_one_version_gives_way_to_the_next_waits_for_it(data, monkeypatch):
    """Neither is the model unknown then, nor is it served with nothing."""
    x, y = data
    described, requested = asyncio.Event(), asyncio.Event()

    class Server(ComputeServer):
        @message(reentrant=True, by=CLIENT)
        async def describe(self, name: str) -> Handshake:
            described.set()
            return await super().describe(name)

    class Provider(CryptoProvider):
        @message(reentrant=True, by=CLIENT)
        async def request(self, name: str, model: bytes, examples: int, reveal: Reveal, holders: tuple[bytes, bytes]) -> Grants:
            requested.set()
            return await super().request(name, model, examples, reveal, holders)

    async def asked(name):
        async with connect(cluster, name) as remote:
            return await remote.query(x[:2])

    early, renewed, again = [], Placing._renewed, Placing.again

    async def gone(self, server, right):
        found = await renewed(self, server, right)
        early.append(asyncio.create_task(asked([None, "net"][len(early)])))
        described.clear()
        await described.wait()
        return found

    async def placed(self, *what):
        await again(self, *what)
        early.append(asyncio.create_task(asked("net")))
        requested.clear()
        await requested.wait()

    async with (
        inner_workers(parts=[{"server": Server, "provider": Provider}] * 3) as (_, cluster),
        await share(network(), cluster) as shared,
    ):
        async with serving(shared, 1, cluster) as remote:
            await remote.query(x[:1])
        await trained(shared, x, y, 1)
        monkeypatch.setattr(Placing, "_renewed", gone)
        monkeypatch.setattr(Placing, "again", placed)
        async with asyncio.timeout(60):
            await shared.serve(3)
            answers = await asyncio.gather(*early)
        expected = (await shared.reveal()).predict(x[:2], verbose=0)
    for one in answers:
        np.testing.assert_allclose(one, expected, atol=0.005)


async def test_three_equals_serve_what_they_have_trained(running, data):
    x, y = data
    async with Cluster(*map(Worker, running)) as cluster:
        model = network("third")
        async with await share(model, cluster) as shared:
            await trained(shared, x, y, 1)
            model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
            async with serving(shared, 1, cluster, "third") as remote:
                np.testing.assert_allclose(await remote.query(x[:3]), model.predict(x[:3], verbose=0), atol=0.005)
            metrics = await shared.evaluate(x, y)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    assert metrics["loss"] == pytest.approx(expected["loss"], abs=0.01)


async def test_noise_is_in_the_answers_of_every_version_and_a_budget_that_is_spent_stays_spent(cluster, data):
    x, y = data
    noise = NoisyAnswers(clip=1.0, noise_multiplier=1.0, max_epsilon=14.0)
    async with await share(network(), cluster, answers=noise) as shared:
        most = shared.guarantee.answers
        assert most >= 3
        await trained(shared, x, y, 1)
        async with serving(shared, 1, cluster) as remote:
            assert not remote.checked, "a bit without noise would cost more than epsilon says"
            noisy = await remote.query(x[: most - 1])
        assert np.abs(noisy).max() > 1.1, "clipped, and then noise"
        await trained(shared, x, y, 1)
        async with serving(shared, 1, cluster) as remote:
            assert await remote.answers_left() == 1
            with pytest.raises(BudgetSpent):
                await remote.query(x[:2])
            await remote.query(x[:1])


async def test_what_cannot_be_served_is_refused_by_name(cluster, data):
    x, y = data
    noise = NoisyAnswers(clip=1.0, noise_multiplier=7.0, max_epsilon=8.0, sensitivity=0.01)
    async with await share(network(), cluster, answers=noise, clients="malicious") as shared:
        await trained(shared, x, y, 1)
        with pytest.raises(ModelError, match="sensitivity"):
            await shared.serve(1)
    async with await share(network(), cluster) as shared:
        await trained(shared, x, y, 1)
        async with serving(shared, 1, cluster, reveal=["label"]) as remote:
            with pytest.raises(NotServed):
                await remote.query(x[:1])
            await remote.query(x[:1], reveal="label")


async def test_noisy_answers_of_several_outputs_come_by_their_names(cluster, data):
    x, y = data
    keras.utils.set_random_seed(1)
    given = keras.Input((2, 4))
    hidden = layers.Flatten()(given)
    outputs = {"a": layers.Dense(3, "softmax", name="a")(hidden), "b": layers.Dense(2, name="b")(hidden)}
    model = keras.Model(given, outputs, name="net")
    model.compile(keras.optimizers.SGD(0.1), {"a": "sparse_categorical_crossentropy", "b": "mse"})
    noise = NoisyAnswers(clip=1.0, noise_multiplier=1.0, max_epsilon=20.0)
    async with await share(model, cluster, answers=noise) as shared:
        await trained(shared, x, {"a": y, "b": x[:, 0, :2]}, 1)
        async with serving(shared, 1, cluster) as remote:
            answers = await remote.query(x[:2])
    assert {name: one.shape for name, one in answers.items()} == {"a": (2, 3), "b": (2, 2)}
    assert np.abs(np.concatenate(list(answers.values()), 1)).max() > 1.1, "clipped, and then noise"
