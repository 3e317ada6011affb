"""Models with max pooling, softmax, gates and normalisation, several inputs and outputs, served by real processes."""

import asyncio
import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops

from protocols import connect, share
from protocols.errors import InputError, NotServed


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


def recommender():
    """Codes and a table of mixed features; a rating and what was seen of the codes, by name."""
    keras.utils.set_random_seed(0)
    codes, facts = layers.Input((4,), dtype="int32", name="codes"), layers.Input((3,), name="facts")
    rows = layers.Embedding(9, 4)(codes)
    known = layers.Normalization(mean=[0.5, 0.0, 2000.0], variance=[0.1, 1.0, 1e6])(facts)
    rating = layers.Dense(2)(layers.Concatenate()([ops.mean(rows, axis=1), layers.Dense(3, activation="relu")(known)]))
    return keras.Model({"codes": codes, "facts": facts}, {"rating": rating, "seen": layers.Dense(2)(rows)}, name="recommender")


async def test_queries_take_and_give_what_the_keras_model_does(cluster):
    model, rng = recommender(), np.random.default_rng(0)
    low, high = np.array([0.0, -2.0, 100.0]), np.array([1.0, 2.0, 5000.0])
    x = {"facts": rng.uniform(low, high, (6, 3)).astype(np.float32), "codes": rng.integers(0, 9, (6, 4)).astype(np.int32)}
    expected = model.predict(x, verbose=0)
    async with (
        await share(model, cluster, input_range={"codes": (0, 8), "facts": (low, high)}, calibration=x, check=x) as shared,
        connect(cluster, "recommender") as remote,
    ):
        assert remote.input_shape == {"codes": (None, 4), "facts": (None, 3)}
        assert remote.output_shape == {"rating": (None, 2), "seen": (None, 4, 2)}
        np.testing.assert_allclose(remote.input_range["facts"], (low, high))
        serving = asyncio.create_task(shared.serve(1))
        with pytest.raises(InputError, match="'facts'"):
            await remote.query({**x, "facts": x["facts"][:, :2]})
        with pytest.raises(InputError, match="outside of the range"):
            await remote.query({**x, "codes": x["codes"] + 5})
        found = await until_served(remote, x)
        await serving
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3)
