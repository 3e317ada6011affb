"""Predictions and trainings of which every step runs in a thread give what they give on the event loop."""

import asyncio
import threading

import keras
import numpy as np
import pytest

from inner_workers import inner_workers
from protocols import connect, share
from protocols.link import threads, twins
from protocols.lowering import lower
from protocols.serving.hosting import HostedModel, Hosting
from protocols.serving.ticket import Ticket


@pytest.fixture(params=["loop", "threads"])
def computed(request, monkeypatch):
    """Where steps run, and the names of the threads in which they did."""
    names = set()
    run = threads.Threads.run

    async def noted(self, work):
        def inside():
            names.add(threading.current_thread().name.partition("_")[0])
            return work()

        return await run(self, inside)

    monkeypatch.setattr(threads.Threads, "run", noted)
    monkeypatch.setattr(twins, "LONG", 0 if request.param == "threads" else 1 << 60)
    monkeypatch.setattr(threads.Precedence, "expected", lambda self, beside: True)
    return request.param, names


async def test_a_prediction(model, images, expected, computed):
    where, names = computed
    async with inner_workers() as (_, cluster), await share(model, cluster, name="small") as shared:
        serving = asyncio.create_task(shared.serve(10))
        async with connect(cluster, "small") as remote:
            while not await shared.prepared():
                await asyncio.sleep(0)
            answers = await remote.query(images[:3])
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    np.testing.assert_allclose(answers, expected[:3], atol=0.01)
    assert ("steps" in names) == (where == "threads")
    assert {"ahead", "dealer"} <= names


async def test_an_epoch_of_training(computed):
    where, names = computed
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = rng.uniform(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20)
    async with inner_workers() as (_, cluster), await share(model, cluster) as shared:
        stored = await cluster.store("x", x), await cluster.store("y", y)
        assert [epoch.number async for epoch in shared.fit(*stored, epochs=1, batch_size=20)] == [1]
        trained = (await shared.reveal()).get_weights()
    plain.fit(x, y, epochs=1, batch_size=20, verbose=0)
    for one, other in zip(trained, plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)
    assert ("steps" in names) == (where == "threads")


def test_one_image_of_the_tutorial_is_short_and_a_part_of_a_batch_is_long():
    network = keras.Sequential(
        [
            keras.layers.Input((28, 28, 1)),
            keras.layers.Conv2D(10, 3, activation="relu"),
            keras.layers.AveragePooling2D(2),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.AveragePooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    program = lower(network).program
    hosted = HostedModel(Hosting("m", program, 0, False, b"model", bytes(16), bytes(16), b""))
    one, part = (Ticket(b"model", b"r", 0, "logits", b"c", 0, examples) for examples in (1, 16))
    assert hosted.work(one) < threads.LONG <= hosted.work(part)
    assert hosted.work(part) > 10 * hosted.work(one)
