"""A frozen base is computed once for all epochs, by real workers: results, costs, both kinds of cluster, what is left afterwards."""

import base64
import json

import keras
import numpy as np
import pytest
from keras import layers

from inner_workers import inner_workers
from protocols import Cluster, Worker, share
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.owner.checkpoints import FILE
from protocols.training.networks.functions import FRACTION

SHAPE = (6, 6, 1)
COUNT, HELD = 24, 8
CLOSE = 0.003


def network():
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [layers.Input(SHAPE), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()]
    )
    base.layers[1].set_weights([np.random.default_rng(7).uniform(0.5, 2, 4) for _ in range(4)])
    base.trainable = False
    model = keras.Sequential([layers.Input(SHAPE), base, layers.Dense(5, "relu"), layers.Dense(3, "softmax")], name="headed")
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def head_alone(model):
    head = keras.Sequential([layers.Input((4,)), layers.Dense(5, "relu"), layers.Dense(3, "softmax")], name="head")
    head.set_weights([one.numpy() for one in model.trainable_variables])
    head.compile(keras.optimizers.SGD(0.3, momentum=0.9), "sparse_categorical_crossentropy")
    return head


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(COUNT + HELD, *SHAPE)).astype(np.float32), rng.integers(3, size=COUNT + HELD)


async def fitted(shared, *data, **settings):
    return [epoch async for epoch in shared.fit(*data, progress=False, **settings)]


@pytest.fixture(params=["provider", "equals"])
async def either(request, running):
    first, second, third = map(Worker, running)
    async with Cluster(first, second, crypto_provider=third) if request.param == "provider" else Cluster(first, second, third) as cluster:
        yield cluster


async def test_a_head_on_a_frozen_base_costs_what_the_head_alone_does_and_is_that_of_keras(either, data):
    x, y = data
    settings = {"epochs": 3, "batch_size": 10, "shuffle": False}
    model, held = network(), (x[COUNT:], y[COUNT:])
    features = keras.Model(model.inputs, model.layers[0].output).predict(x, verbose=0)
    async with await share(head_alone(model), either) as alone:
        expected = await fitted(alone, features[:COUNT], y[:COUNT], metrics=["loss", "accuracy"], **settings)
    async with await share(model, either) as shared:
        epochs = await fitted(shared, x[:COUNT], y[:COUNT], validation_data=held, metrics=["loss", "accuracy"], **settings)
        evaluated, answers = await shared.evaluate(*held), await shared.predict(x[:5])
        more = await fitted(shared, x[:COUNT], y[:COUNT], epochs=1, batch_size=COUNT)  # in any order
        trained = await shared.reveal()
    history = model.fit(x[:COUNT], y[:COUNT], validation_data=held, verbose=0, **settings).history
    for epoch, *numbers in zip(epochs, *(history[name] for name in ("loss", "val_loss", "accuracy", "val_accuracy")), strict=True):
        found = [epoch.logs[name] for name in ("loss", "val_loss", "accuracy", "val_accuracy")]
        assert found == pytest.approx(numbers, abs=CLOSE)
    assert evaluated == pytest.approx(model.evaluate(*held, verbose=0, return_dict=True), abs=CLOSE)
    np.testing.assert_allclose(answers, model.predict(x[:5], verbose=0), atol=CLOSE)
    model.fit(x[:COUNT], y[:COUNT], batch_size=COUNT, verbose=0)
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=CLOSE)
    assert [epoch.steps for epoch in more] == [1]
    costs = [[(epoch.rounds, epoch.bytes, epoch.dealt) for epoch in each] for each in (epochs, expected)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("equals", [False, True], ids=["provider", "equals"])
@pytest.mark.sample(1)
async def test_features_lie_at_the_workers_as_stored_data_do_while_it_lasts_and_a_resumed_fit_makes_them_anew(data, tmp_path, equals):
    x, y = data[0][:COUNT], data[1][:COUNT]
    model = network()
    features = keras.Model(model.inputs, model.layers[0].output).predict(x, verbose=0)
    settings = {"batch_size": 10, "folder": tmp_path / "owner", "resume": True, "progress": False}
    async with inner_workers(tmp_path, equals=equals) as (inner, cluster):
        stored = await cluster.store("x", x), await cluster.store("y", y)
        seats = cluster.seats_for("headed")
        for epochs in (1, 3):
            seen = []
            async with await share(network(), cluster) as shared:
                async for epoch in shared.fit(*stored, epochs=epochs, **settings):
                    first, second, third = (inner[at].holdings for at in seats.all)
                    [handle] = set(first.datasets) - {one.dataset.handle for one in stored}
                    halves = [one.datasets[handle].wire(seats.helper, np.arange(COUNT)) for one in (first, second)]
                    np.testing.assert_array_equal(halves[0].a, halves[1].a)
                    np.testing.assert_array_equal(third.masks[handle], halves[0].mask + halves[1].mask)
                    np.testing.assert_allclose(decode(halves[0].a - third.masks[handle], 2.0**-FRACTION), features, atol=3e-4)
                    seen.append((epoch.number, handle))
                trained = await shared.reveal()
            assert [number for number, _ in seen] == ([1] if epochs == 1 else [2, 3])
            assert not any(handle in table for one in inner for table in (one.holdings.datasets, one.holdings.masks, one.holdings.claims))
        order = base64.b64decode(json.loads((tmp_path / "owner" / FILE).read_text())["order"])
    for number in range(3):
        rows = KeyStream(derive(order, "epoch", number)).words(COUNT).argsort(kind="stable")
        model.fit(x[rows], y[rows], batch_size=10, shuffle=False, verbose=0)
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=CLOSE)


async def test_a_base_of_several_inputs_and_a_head_of_several_outputs(running, data):
    """One input is read by frozen layers, the other by both: what the base gives of them lies side by side."""
    x, y = data[0][:COUNT], data[1][:COUNT]
    keras.utils.set_random_seed(3)
    image, facts = layers.Input(SHAPE, name="image"), layers.Input((3,), name="facts")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", trainable=False)(image))
    known = layers.Dense(4, "relu", trainable=False)(facts)
    joined = layers.Concatenate()([layers.Add()([seen, known]), facts])
    model = keras.Model([image, facts], [layers.Dense(3, name="kind")(joined), layers.Dense(1, name="size")(joined)], name="two")
    losses = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
    model.compile(keras.optimizers.SGD(0.1), losses, loss_weights={"kind": 1.0, "size": 0.5})
    given = {"image": x, "facts": np.random.default_rng(5).uniform(size=(COUNT, 3)).astype(np.float32)}
    wanted = {"kind": y, "size": given["facts"].sum(axis=1, keepdims=True)}
    first, second, third = map(Worker, running)
    settings = {"epochs": 2, "batch_size": 10, "shuffle": False}
    async with Cluster(first, second, crypto_provider=third) as cluster, await share(model, cluster) as shared:
        epochs = await fitted(shared, given, wanted, metrics=["loss"], **settings)
        answers, trained = await shared.predict(given), await shared.reveal()
    history = model.fit(given, wanted, verbose=0, **settings).history
    assert epochs[1].rounds < 30, "the base is not computed again"
    assert [epoch.logs["loss"] for epoch in epochs] == pytest.approx(history["loss"], abs=0.02)  # Keras: of batches of other sizes
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=CLOSE)
    for mine, theirs in zip(answers, model.predict(given, verbose=0), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=CLOSE)
