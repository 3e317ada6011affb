"""Clients that send ring elements outside of the input range, or one thing to one server and another to the other."""

import asyncio
import contextlib

import keras
import numpy as np
import pytest

from protocols import Cluster, NoisyAnswers, Worker, connect, share
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import Altered, NotServed
from protocols.serving.answer import Answer

SECRET = new_secret()
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))
RIGHTS = (right_at(SECRET, 0), right_at(SECRET, 1))
"""What a client that talks to the workers by itself tells the provider, and shows to each server."""
FORMS = ["two servers and a provider", "three equals"]
KINDS = {"labels only": (None, "label"), "labels": (None, "label"), "outputs": (None, "logits"), "noisy": ("noisy", "logits")}


@pytest.fixture(params=FORMS)
async def formed(request, running):
    first, second, third = map(Worker, running)
    async with Cluster(first, second, crypto_provider=third) if request.param == FORMS[0] else Cluster(first, second, third) as cluster:
        yield cluster


def one_sided(inputs: int = 12):
    """A model whose label is 0 on its whole range."""
    model = keras.Sequential([keras.layers.Input((inputs,)), keras.layers.Dense(2)])
    model.set_weights([np.random.default_rng(3).normal(0, 0.3, (inputs, 2)), np.array([40.0, -40.0])])
    return model


@contextlib.asynccontextmanager
async def served(model, cluster, *, reveal=None, **settings):
    async with await share(model, cluster, name="small", **settings) as shared, connect(cluster, "small") as remote:
        serving = asyncio.create_task(shared.serve(1000, reveal=reveal))
        try:
            yield remote
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def ticket(remote, reveal):
    """A ticket for one example and the mask of its input, once the model is served."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotServed):
                return (await remote._provider.request("small", remote.model, 1, reveal, HOLDERS)).granted[0]
            await asyncio.sleep(0)


def ring_elements(inputs: int) -> np.ndarray:
    """Powers of two in each place, with both signs, and anything else."""
    powers = [[1 << q if j == i else 0 for i in range(inputs)] for j in range(inputs) for q in range(64)]
    anything = np.random.default_rng(1).integers(0, 2**64, (200, inputs), np.uint64)
    return np.concatenate([np.array(powers, np.uint64), np.uint64(0) - np.array(powers, np.uint64), anything])


async def test_labels_are_those_of_the_cut_input(formed):
    """968 and more labels of ring elements that a client chose read a believed client's weights; here they are one label."""
    async with served(one_sided(), formed, reveal=["label"]) as remote:
        await ticket(remote, "label")
        honest = await remote.query(np.random.default_rng(0).uniform(size=(500, 12)), reveal="label")
        remote._encoded = lambda x: x  # what a client of one's own would send
        assert set(honest.tolist()) == set((await remote.query(ring_elements(12), reveal="label")).tolist()) == {0}
        assert remote.last.rounds == 3 + 2  # the clamp, then the arg max of two


async def test_outputs_are_those_of_the_cut_input_on_request(cluster, model, images, expected):
    async with served(model, cluster, reveal=["logits"], clients="malicious") as remote:
        await ticket(remote, "logits")
        far = images + np.where(images == images.max(), 7.0, 0.0) - np.where(images < 0.1, 5.0, 0.0)
        cut = model.predict(far.clip(0, 1).astype(np.float32), verbose=0)
        np.testing.assert_allclose(await remote.query(images), expected, atol=0.005)
        scale = remote.program.input_scale
        remote._encoded = lambda x: np.rint(x / scale).astype(np.int64).view(np.uint64)
        np.testing.assert_allclose(await remote.query(far), cut, atol=0.005)
        assert remote.last.rounds == 3 + 4


@pytest.mark.parametrize("kind", KINDS)
async def test_different_inputs_at_the_two_servers_give_an_error_and_no_share(formed, model, images, expected, kind):
    answers, reveal = KINDS[kind]
    noisy = None if answers is None else NoisyAnswers(clip=0.25, noise_multiplier=0.02, max_epsilon=1e7)
    async with served(model, formed, reveal=["label"] if kind == "labels only" else None, answers=noisy) as remote:
        for place, change in ((0, 1), (63, 1 << 63), (17, 12345)):
            granted = await ticket(remote, reveal)
            first = granted.input_mask.copy()
            second = first.copy()
            second.reshape(-1)[place : place + 1] += np.uint64(change)
            outcomes = await asyncio.gather(
                *(
                    server.answer(granted.ticket, right, m)
                    for server, right, m in zip(remote._servers, RIGHTS, (first, second), strict=True)
                ),
                return_exceptions=True,
            )
            assert not any(isinstance(outcome, Answer) for outcome in outcomes)
            assert all(isinstance(outcome, Altered) for outcome in outcomes)
            assert all("were sent different masked inputs" in str(outcome) for outcome in outcomes)
        answer = await remote.query(images[:4], reveal=reveal)
    if kind == "outputs":
        np.testing.assert_allclose(answer, expected[:4], atol=0.005)
    elif noisy is None:
        np.testing.assert_array_equal(answer, expected[:4].argmax(1))


async def test_an_input_of_another_shape_is_refused_as_before(cluster, model):
    async with served(model, cluster) as remote:
        granted = await ticket(remote, "label")
        m = granted.input_mask[:, :7]
        asked = (server.answer(granted.ticket, right, m) for server, right in zip(remote._servers, RIGHTS, strict=True))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert not any(isinstance(outcome, Answer) for outcome in outcomes)
