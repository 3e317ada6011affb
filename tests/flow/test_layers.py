"""Models with max pooling, softmax, gates and normalisation, served by real processes."""

import asyncio
import contextlib

import keras
import numpy as np
from keras import layers

from protocols import connect, share
from protocols.errors import NotServed


async def until_served(remote, x):
    """The first query of a client that may be quicker than the owner's `serve`."""
    while True:
        with contextlib.suppress(NotServed):
            return await remote.query(x)
        await asyncio.sleep(0)


async def ask(cluster, model, x):
    """The answers of the model, the labels, and what the first query cost."""
    async with await share(model, cluster, name="layers") as shared:
        serving = asyncio.create_task(shared.serve(3))
        async with connect(cluster, "layers") as remote:
            answers = await until_served(remote, x)
            cost = remote.last
            one = await remote.query(x[:1])
            labels = await remote.query(x, reveal="label")
        await serving
    np.testing.assert_allclose(one, answers[:1], atol=0.005)
    return answers, labels, cost


async def test_a_cnn_with_max_pooling_and_softmax(cluster, images):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0)),
        ]
    )
    answers, labels, cost = await ask(cluster, model, images)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers, expected, atol=0.01)
    np.testing.assert_allclose(answers.sum(1), 1.0, atol=0.01)
    first, second = np.sort(expected, axis=1)[:, :-3:-1].T
    certain = first - second > 0.02
    assert certain.sum() > 20
    np.testing.assert_array_equal(labels[certain], expected.argmax(1)[certain])
    assert cost.rounds == 6 + 3 + 1 + 20  # pool, rectifier, opening, softmax
    assert cost.servers[0].sent == cost.servers[1].received


async def test_gates_and_normalisation(cluster, images):
    keras.utils.set_random_seed(0)
    x = layers.Input((8, 8, 1))
    y = layers.Conv2D(4, 3, strides=2, activation="gelu")(x)
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalMaxPooling2D(keepdims=True)(y))
    z = layers.LayerNormalization()(layers.Dense(6, activation="tanh")(layers.Flatten()(layers.Multiply()([y, gate]))))
    model = keras.Model(x, layers.Dense(4)(z))
    answers, _, _ = await ask(cluster, model, images[:8])
    np.testing.assert_allclose(answers, model.predict(images[:8], verbose=0), atol=0.02)
