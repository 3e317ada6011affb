"""The bit of a checked model against whoever wants to bend it: quotas, parts of a request, altered messages, a server that lies."""

import asyncio
import contextlib
import threading

import keras
import msgspec
import numpy as np
import pytest
from keras import layers

from deployment import Deployment
from inner_workers import inner_workers
from protocols import connect, keras_hook, share
from protocols.errors import Altered, ModelError, NotServed, OutsideCalibration, ProtocolError, QuotaSpent
from protocols.lowering import lower
from protocols.mpc.encoding import encoded
from protocols.serving.answer import Answer
from protocols.workers.compute_server import ComputeServer

SAMPLES = np.random.default_rng(0).uniform(-0.02, 0.02, (24, 6))
SETTINGS = {"input_range": (-1, 1), "calibration": SAMPLES, "checked": True}


def deep():
    keras.utils.set_random_seed(1)
    wide = keras.initializers.RandomNormal(0, 1)
    hidden = [layers.Dense(24, "relu", kernel_initializer=wide, use_bias=False) for _ in range(6)]
    return keras.Sequential([layers.Input((6,)), *hidden, layers.Dense(3)], name="deep")


class Altering(ComputeServer):
    """A server of which one incoming message arrives with one bit flipped."""

    alter: int | None = None

    def _linked(self, model, what):
        twins = super()._linked(model, what)
        return _Link(twins, self) if what == "deliver" and twins is not None else twins


class _Link:
    """What `deliver` asks of a link: the inboxes, and here who flips the bit on the way to them."""

    def __init__(self, twins, server):
        self._inboxes, self._server, self.inboxes = twins.inboxes, server, self

    def put(self, channel, number, arrays):
        if number == self._server.alter:
            arrays = [array.copy() for array in arrays]
            arrays[-1].reshape(-1)[-1] ^= np.uint64(1)
        self._inboxes.put(channel, number, arrays)


class Lying(ComputeServer):
    """A server that adds to the last word of its share of each answer before it sends it."""

    add = 0

    def _evaluate(self, *arguments):
        return _changed(super()._evaluate(*arguments), self)


async def _changed(evaluating, server):
    share, cost, seal = await evaluating
    share = share.copy()
    share[:, -1] += np.uint64(server.add % 2**64)
    return share, cost, seal


@contextlib.asynccontextmanager
async def served(server=ComputeServer, model=None, **terms):
    """A model in this process, and somebody who asks it."""
    told = type("Told", (server,), {})
    async with (
        inner_workers(parts=[None, {"server": told}, None]) as (_, cluster),
        await share(model or deep(), cluster, **SETTINGS) as shared,
        connect(cluster, "deep") as remote,
    ):
        serving = asyncio.create_task(shared.serve(**({"num_requests": 1000} | terms)))
        try:
            yield told, remote, shared
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def asked(remote, x, **options):
    """The first answer of a model whose owner begins to serve."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotServed):
                return await remote.query(x, **options)
            await asyncio.sleep(0)


async def test_inputs_without_an_answer_count_like_others():
    """Who searches for the inputs at which the bit changes is held to the quota of requests and that of examples."""
    x = np.concatenate([SAMPLES[:1], 50 * SAMPLES[:2]])
    async with served(num_requests=3, examples=8) as (_, remote, _):
        assert np.isnan(await asked(remote, x, outside="nan")).any(axis=1).tolist() == [False, True, True]
        with pytest.raises(OutsideCalibration):
            await remote.query(x)
        with pytest.raises(QuotaSpent, match="2"):
            await remote.query(x, outside="nan")  # six of eight examples are spent
        with pytest.raises(OutsideCalibration):
            await remote.query(x[1:], reveal="label")
        with pytest.raises(QuotaSpent):
            await remote.query(x[:1])


async def test_places_are_those_of_the_whole_request():
    """A request whose tickets come from several chunks is answered in parts; each input without an answer is named by its place in all."""
    x = np.tile(SAMPLES[:10], (4, 1))
    left = [0, 7, 13, 14, 29, 39]
    x[left] *= -50
    async with served() as (_, _, shared):
        size = shared.bytes_per_example
    async with served(memory=12 * size) as (_, remote, _):  # of both kinds of answer together
        answers = await asked(remote, x, outside="nan")
        assert np.flatnonzero(np.isnan(answers).any(axis=1)).tolist() == left
        with pytest.raises(OutsideCalibration, match=r"6 of 40 inputs \(number 0, 7, 13, 14, 29, 39\)") as caught:
            await remote.query(x, reveal="label")
        assert caught.value.indices == tuple(left)
        expected = np.asarray(deep()(x.astype(np.float32)))
        kept = np.setdiff1d(np.arange(40), left)
        np.testing.assert_array_equal(caught.value.answers[kept], expected[kept].argmax(axis=1))
        np.testing.assert_allclose(answers[kept], expected[kept], atol=0.01 * np.abs(expected[kept]).max())


@pytest.mark.parametrize("reveal", ["logits", "label"])
async def test_a_bit_that_is_flipped_in_any_round_gives_no_answer(reveal):
    x = np.concatenate([SAMPLES[:1], 50 * SAMPLES[:1]])
    async with served(Altering) as (altering, remote, _):
        await asked(remote, x, reveal=reveal, outside="nan")
        rounds = remote.last.rounds
        assert rounds > 20
        for number in range(rounds):
            altering.alter = number
            with pytest.raises(Altered):
                await remote.query(x, reveal=reveal, outside="nan")
        altering.alter = None
        assert np.isnan(await remote.query(x, reveal=reveal, outside="nan")).reshape(2, -1).any(axis=1).tolist() == [False, True]


async def test_what_a_server_that_lies_can_do_to_the_bit():
    """It can set it, or take it away with an answer of zeros, if it guesses right; if it does not, there is an error and no answer."""
    inside, outside = SAMPLES[:1], 50 * SAMPLES[:1]
    async with served(Lying) as (lying, remote, _):
        assert not np.isnan(await asked(remote, inside)).any()
        for add, x in ((-1, inside), (1, outside), (2, inside), (1 << 40, outside)):
            lying.add = add
            with pytest.raises(ProtocolError, match="do not add up to one bit; one of them is faulty"):
                await remote.query(x)
        lying.add = 1
        with pytest.raises(OutsideCalibration):
            await remote.query(inside)
        lying.add = -1
        assert not (await remote.query(outside)).any()


async def test_who_asks_can_see_whether_inputs_are_checked():
    async with served() as (_, remote, shared):
        assert remote.checked
        assert shared.program.checked
    keras.utils.set_random_seed(1)
    proved = keras.Sequential([layers.Input((6,)), layers.Dense(3)], name="deep")
    async with served(model=proved) as (_, remote, _):
        assert not remote.checked
        assert not np.isnan(await asked(remote, SAMPLES, outside="nan")).any()


async def test_what_is_no_setting_is_refused_before_anything_is_claimed():
    async with inner_workers() as (_, cluster):
        with pytest.raises(ModelError, match="checked='no'; True or False is needed"):
            await share(deep(), cluster, **(SETTINGS | {"checked": "no"}))
        async with await share(deep(), cluster, **SETTINGS) as shared:
            assert shared.name == "deep"


def test_who_blocks_is_told_as_well(running):
    """Single inputs and batches, by the names of the tutorial; R shows the same error."""
    addresses = [keras_hook.TFEWorker(host=address, auto_managed=False) for address in running]
    hook, model, cluster = keras_hook.KerasHook(), deep(), keras_hook.TFECluster(*addresses)
    client = keras_hook.TFEWorker()
    expected = np.asarray(model(SAMPLES[:1].astype(np.float32)))[0]
    cluster.start()
    try:
        with pytest.raises(ModelError, match=r"checked='TRUE'; True or False is needed"):
            model.share(cluster, **(SETTINGS | {"checked": "TRUE"}))
        model.share(cluster, **SETTINGS)
        serving = threading.Thread(target=model.serve, kwargs={"num_requests": 6.0})
        serving.start()
        client.connect_to_model(cluster)
        for _ in range(10_000):
            with contextlib.suppress(NotServed):
                one = client.query_model(SAMPLES[0])
                break
        with pytest.raises(OutsideCalibration, match=r"1 of 1 inputs \(number 0\) are unlike the samples on which model 'deep'"):
            client.query_model(50 * SAMPLES[0])
        none = client.query_model(50 * SAMPLES[0], outside="nan")
        label = client.query_model(50 * SAMPLES[0], reveal="label", outside="nan")
        with pytest.raises(ValueError, match="outside='zero'; it is one of"):
            client.query_model(SAMPLES[0], outside="zero")
        both = client.query_model(np.stack([SAMPLES[0], 50 * SAMPLES[0]]), outside="nan")
        assert client.query_model(SAMPLES[0], reveal="label", outside="nan") == expected.argmax()
        serving.join(20)
        assert not serving.is_alive()  # six requests were answered, each of them counts
    finally:
        client.close()
        model.stop()
        hook.remove()
        cluster.stop()
    for answer in (one, both[0]):
        np.testing.assert_allclose(answer, expected, atol=0.01 * np.abs(expected).max())
    assert none.shape == both[1].shape == (3,)
    assert np.isnan(none).all()
    assert np.isnan(both[1]).all()
    assert np.isnan(label)


@pytest.mark.parametrize("reveal", ["logits", "label"])
def test_one_server_has_nothing_of_the_bit(reveal):
    """Its share of the answers of 512 inputs inside and 512 outside: every bit of a word is as often 1 as 0."""
    lowered = lower(deep(), **SETTINGS)
    program = lowered.program if reveal == "logits" else lowered.program.for_label()
    used = (64,) * 4 if reveal == "logits" else (4,)
    for scale in (1, 50):
        x = scale * np.tile(SAMPLES[:8], (64, 1))
        results = Deployment(program, lowered.weights).run(encoded(program, x)).results
        for party in (0, 1):
            words = np.ascontiguousarray(results[party]).astype("<u8")
            bits = np.unpackbits(words.view(np.uint8).reshape(len(words), -1, 8), axis=2, bitorder="little")[:, : len(used)]
            for word, count in enumerate(used):
                found = bits[:, word, :count].mean(axis=0)
                assert (np.abs(found - 0.5) < 5.5 * 0.5 / np.sqrt(len(x))).all()


def test_the_number_of_messages_and_their_sizes_are_those_of_any_input():
    lowered = lower(deep(), **SETTINGS)
    deployment = Deployment(lowered.program, lowered.weights)
    inside, outside = (deployment.run(encoded(lowered.program, scale * SAMPLES)) for scale in (1, 50))
    assert inside.rounds == outside.rounds
    assert inside.sent == outside.sent


def test_an_answer_tells_no_more_when_it_is_shown():
    """`Answer` shows what it cost, and neither its share nor its bit."""
    assert set(msgspec.structs.asdict(Answer(np.zeros((1, 4), np.uint64), None, b""))) == {"share", "cost", "seal"}
    assert repr(Answer(np.full((1, 4), 12345, np.uint64), None, b"seal")) == "Answer(None)"
