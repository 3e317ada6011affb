"""Encrypted training with real processes: `Cluster.store`, `SharedModel.fit`, `SharedModel.reveal`, and what is refused."""

import asyncio
import os
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from protocols import Cluster, Worker, share
from protocols.errors import ClusterError, Diverged, InputError, ModelError, TooLarge, UnsupportedLayer, WorkerLost


def network(loss="sparse_categorical_crossentropy", optimizer=None, *, hidden=12, outputs=3, softmax=True, seed=1):
    keras.utils.set_random_seed(seed)
    last = layers.Dense(outputs, activation="softmax" if softmax else None)
    model = keras.Sequential([layers.Input((2, 4)), layers.Flatten(), layers.Dense(hidden, activation="relu"), last], name="net")
    model.compile(optimizer or keras.optimizers.SGD(0.3), loss)
    return model


def logits(loss=None, **settings):
    """Without a softmax: what `share` can serve."""
    return network(loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True), softmax=False, **settings)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (100, 2, 4)).astype(np.float32)
    return x, (x.reshape(100, 8) @ rng.normal(size=(8, 3))).argmax(1)


async def test_epochs_equal_those_of_keras_and_the_model_is_revealed(cluster, data):
    x, y = data
    model = logits()
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(model, cluster) as shared:
        epochs = [epoch async for epoch in shared.fit(*stored, epochs=2, batch_size=32, shuffle=False)]
        trained = await shared.reveal()
        again = [epoch async for epoch in shared.fit(*stored, epochs=1, batch_size=50, shuffle=True, metrics=False)]
    history = model.fit(x, y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.005)
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert [epoch.steps for epoch in epochs] == [4, 4]
    assert 0 <= epochs[0].value <= epochs[1].value + 0.1 <= 1.1
    assert "accuracy" in str(epochs[0])
    assert again[0].value is None
    assert again[0].steps == 2
    assert float(trained.optimizer.learning_rate) == pytest.approx(0.3)


async def test_a_convolutional_network_and_the_randomness_it_needs(cluster, data):
    x, y = data
    keras.utils.set_random_seed(2)
    inputs = layers.Input((2, 4, 1))
    convolution = layers.Conv2D(6, 2, padding="same", activation="relu")(inputs)
    pooled = layers.Flatten()(layers.MaxPooling2D()(convolution))
    model = keras.Model(inputs, layers.Dense(3)(pooled), name="chain")
    model.compile(keras.optimizers.SGD(0.1, 0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stored = await cluster.store("x", x), await cluster.store("y", y)
    await refused(cluster, model, *stored, TooLarge, "no part of a step is smaller: give memory=", memory=2_000)
    async with await share(model, cluster) as shared:
        epochs = [epoch async for epoch in shared.fit(*stored, epochs=2, batch_size=32, shuffle=False)]
        trained = await shared.reveal()
    model.fit(x[..., None], y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)
    assert epochs[0].rounds > 32


async def test_regression_with_momentum(cluster, data):
    x, _ = data
    y = x.reshape(100, 8)[:, :2] * 2 - 1
    model = logits("mse", outputs=2, optimizer=keras.optimizers.SGD(0.1, momentum=0.8))
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(model, cluster) as shared:
        errors = [epoch.value async for epoch in shared.fit(*stored, epochs=3, batch_size=20, shuffle=False)]
        trained = await shared.reveal()
    model.fit(x, y, epochs=3, batch_size=20, shuffle=False, verbose=0)
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.005)
    assert errors[2] < errors[0]


async def to_the_end(epochs):
    async for _ in epochs:
        pass


async def refused(cluster, model, x, y, error, match, **settings):
    async with await share(model, cluster) as shared:
        with pytest.raises(error, match=match):
            await anext(shared.fit(x, y, **settings))


async def test_what_cannot_be_trained_is_refused(cluster, data):
    x, y = await cluster.store("x", data[0]), await cluster.store("y", data[1])
    short = await cluster.store("short", data[1][:50])
    targets = await cluster.store("targets", np.zeros((100, 3)))
    many = await cluster.store("many", np.arange(100) % 7)
    await refused(cluster, logits(), x, short, InputError, "x has 100, y has 50 examples")
    await refused(cluster, logits(), x, many, InputError, "labels out of range")
    await refused(cluster, logits(), x, targets, InputError, "needs labels")
    await refused(cluster, logits("mse"), x, y, InputError, "needs numbers")
    await refused(cluster, logits(), x, y, InputError, "batch_size=0", batch_size=0)
    await refused(cluster, logits(), x, y, InputError, "epochs=0", epochs=0)
    async with await share(logits(), cluster, name="asked") as shared:
        for ask, settings in ((shared.predict, {"batch_size": 2.5}), (shared.predict, {"memory": 1 << 70})):
            with pytest.raises(InputError, match=r"(batch_size=2\.5; a whole number|memory=\d+; less than 2\^48)"):
                await ask(data[0], **settings)
        with pytest.raises(InputError, match=r"memory=100000\.0; a whole number"):
            await shared.evaluate(x, y, memory=1e5)
    await refused(cluster, logits(), x, y, TooLarge, "no part of a step is smaller: give memory=", memory=1000)
    await refused(cluster, logits(optimizer=keras.optimizers.SGD(1e-7)), x, y, ModelError, "vanishes in fixed point")
    await refused(cluster, logits(optimizer=keras.optimizers.SGD(0.1, clipvalue=1e-6)), x, y, ModelError, "clipvalue=1e-06")
    await refused(cluster, logits(optimizer=keras.optimizers.Adam(global_clipnorm=1e3)), x, y, ModelError, "global_clipnorm=1000")
    await refused(cluster, logits(optimizer=keras.optimizers.Adam(epsilon=0.1)), x, y, ModelError, "epsilon=0.1")
    await refused(cluster, logits(optimizer=keras.optimizers.Adam(beta_1=0.99, beta_2=0.9)), x, y, ModelError, "beta_1=0.99")
    await refused(cluster, logits(optimizer=keras.optimizers.Ftrl()), x, y, ModelError, "Ftrl")
    rising = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 10.0)
    await refused(cluster, logits(optimizer=keras.optimizers.SGD(rising)), x, y, ModelError, "of step 4 is too large", epochs=3)
    await refused(cluster, logits(), x, y, InputError, "'accuracy' and 'loss' can be told", metrics=["auc"])
    three = logits("binary_crossentropy")
    await refused(cluster, three, x, y, ModelError, "from_logits=False")
    three.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    await refused(cluster, three, x, y, InputError, "rows of 3 numbers")
    one = logits(keras.losses.BinaryCrossentropy(from_logits=True), outputs=1)
    await refused(cluster, one, x, y, InputError, "labels from 0 to 1 are needed")
    await refused(cluster, logits("mape"), x, targets, ModelError, "mean_absolute_percentage_error")
    await refused(cluster, logits("sparse_categorical_crossentropy"), x, y, ModelError, "from_logits")


@pytest.mark.parametrize(
    ("array", "settings", "match"),
    [
        (np.array([0, -1]), {}, "from -1 to 0"),
        (np.array([0, 5]), {"classes": 5}, "from 0 to 4 are needed"),
        (np.array([[0.0, np.nan]]), {}, "NaN"),
        (np.array([[1e4]]), {}, "512"),
        (np.array(["a"]), {}, "numbers is needed"),
        (np.zeros((3, 2)), {"classes": 2}, "classes=2 is for labels"),
        (np.array([0, 10**6]), {}, "1000"),
    ],
)
async def test_arrays_that_cannot_be_stored_are_refused_before_anything_is_sent(array, settings, match):
    first, second, third = (Worker("localhost:0") for _ in range(3))
    not_running = Cluster(first, second, crypto_provider=third)
    with pytest.raises(InputError, match=match):
        await not_running.store("bad", array, **settings)


async def test_arrays_need_a_running_cluster():
    first, second, third = (Worker("localhost:0") for _ in range(3))
    with pytest.raises(ClusterError, match="async with"):
        await Cluster(first, second, crypto_provider=third).store("x", np.zeros((2, 2)))


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.long
async def test_the_example(kind):
    """On fewer images than it has: training on shares and in the clear give nearly the same."""
    example = Path(__file__).parents[3] / "examples" / "encrypted_training.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, example, "1280", "1", kind, stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(example.parents[1])}
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0
    assert re.search(r"epoch 1: accuracy 0\.\d\d, 10 steps, \d+ ms/step, [\d.]+ MB/step", output)
    shares, clear = (float(percent) for percent in re.findall(r"accuracy ([\d.]+)% on", output))
    assert shares > 25
    assert abs(shares - clear) <= 1.0


async def test_a_lost_server_leaves_the_model_of_the_last_epoch(own_cluster, data):
    """The other server notices, the owner is told."""
    x, y = await own_cluster.store("x", data[0]), await own_cluster.store("y", data[1])
    shared = await share(logits(), own_cluster)
    epochs = shared.fit(x, y, epochs=1000, batch_size=20)
    assert (await anext(epochs)).number == 1
    await own_cluster.children[1].stop()
    with pytest.raises(WorkerLost, match="last complete epoch"):
        await asyncio.wait_for(to_the_end(epochs), 60)


def test_layers_that_cannot_be_trained():
    from protocols.owner.compiled import plan

    def compiled(*hidden):
        model = keras.Sequential([layers.Input((4,)), *hidden, layers.Dense(2)])
        model.compile("sgd", "mse")
        return model

    for layer, match in [
        (layers.Dense(3, activity_regularizer="orthogonal_regularizer"), "activity_regularizer"),
        (Twice(), "computes with its weights before it uses them"),
        (layers.Dense(3, activation="log_softmax"), "cannot be trained on shares"),
    ]:
        with pytest.raises(UnsupportedLayer, match=match):
            plan(compiled(layer))
    with pytest.raises(ModelError, match="not compiled"):
        plan(keras.Sequential([layers.Input((4,)), layers.Dense(2)]))


SCHEDULES = {
    "sgd": lambda: keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([3, 6], [0.5, 0.1, 0.02])),
    "adam": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 12)),
}


async def test_statistics_of_batches_are_kept_on_shares_and_revealed(cluster, data):
    """A batch normalisation, and one number that multiplies, trained as by Keras."""
    x, y = data
    keras.utils.set_random_seed(4)
    hidden = [layers.Flatten(), layers.Dense(8, use_bias=False), layers.BatchNormalization(momentum=0.5), layers.ReLU(), Factor()]
    model = keras.Sequential([layers.Input((2, 4)), *hidden, layers.Dense(3)], name="normalised")
    model.compile(keras.optimizers.SGD(0.25), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(model, cluster, calibration=x) as shared:
        epochs = [epoch async for epoch in shared.fit(*stored, epochs=2, batch_size=32, shuffle=False)]
        trained = await shared.reveal()
    model.fit(x, y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    assert len(epochs) == 2
    for mine, theirs, old in zip(trained.get_weights(), model.get_weights(), before, strict=True):
        assert np.abs(theirs - old).max() > 0.0005
        np.testing.assert_allclose(mine, theirs, atol=0.005)
    np.testing.assert_allclose(trained.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.02)


@keras.saving.register_keras_serializable("tests")
class Factor(layers.Layer):
    """One trainable number."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


class Twice(layers.Layer):
    """Uses a trainable number as it is and, elsewhere, something computed of it, which must not be taken for the number before it."""

    def build(self, shape):
        self.first, self.second = (self.add_weight(shape=(), initializer="ones", name=name) for name in ("first", "second"))

    def call(self, x):
        return (x * self.first + 1.0) * self.second + x * (self.second * 1.0)


async def test_a_dropout_is_drawn_anew_in_each_step_by_both_servers(cluster, data):
    """With a rate of 1/2 the same step, without a learning rate, tells another loss each time; trained, it learns as before."""
    x, y = data
    keras.utils.set_random_seed(4)
    model = keras.Sequential([layers.Input((2, 4)), layers.Flatten(), layers.Dense(16, "relu"), layers.Dropout(0.5), layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(model, cluster, calibration=x) as shared:
        told = {"metrics": ["loss"], "batch_size": 100, "shuffle": False}
        still = [epoch.loss async for epoch in shared.fit(*stored, epochs=3, **told)]
        model.optimizer.learning_rate = 0.3
        learnt = [epoch.loss async for epoch in shared.fit(*stored, epochs=12, **told)]
        trained = await shared.reveal()
    assert len({round(loss, 3) for loss in still}) == 3
    assert np.mean(learnt[-3:]) < np.mean(still) - 0.1  # of one step alone it hangs on what was dropped: 0.98 to 1.24 untrained
    assert trained.evaluate(x, y, verbose=0) < np.mean(still) - 0.1


async def test_a_graph_with_a_frozen_layer_is_trained_and_revealed(cluster, data):
    """What is frozen stays to the last bit of the owner's model, however its weights lie among the others."""
    x, y = data
    keras.utils.set_random_seed(4)
    inputs = layers.Input((2, 4))
    base = layers.BatchNormalization(trainable=False)(layers.Dense(6, "tanh", trainable=False)(layers.Flatten()(inputs)))
    joined = layers.Add()([base, layers.Dense(6, "tanh")(base)])  # no rectifier: a number near 0 moves by its rounding there and back
    model = keras.Model(inputs, layers.Dense(3)(joined), name="graph")
    model.layers[3].set_weights([np.linspace(0.5, 2, 6), np.zeros(6), np.linspace(-1, 1, 6), np.ones(6)])
    model.layers[-1].kernel.trainable = False
    model.compile(keras.optimizers.SGD(0.25), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(model, cluster, calibration=x) as shared:
        epochs = [epoch async for epoch in shared.fit(*stored, epochs=2, batch_size=32, shuffle=False)]
        trained = await shared.reveal()
    model.fit(x, y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    trainable = {id(weight) for weight in model.trainable_weights}
    assert (len(epochs), len(trainable)) == (2, 3)
    for mine, theirs, old, weight in zip(trained.get_weights(), model.get_weights(), before, model.weights, strict=True):
        if id(weight) in trainable:
            assert np.abs(theirs - old).max() > 0.001
            np.testing.assert_allclose(mine, theirs, atol=0.005)
        else:
            np.testing.assert_array_equal(mine, old)


@pytest.mark.parametrize("name", list(SCHEDULES))
async def test_schedules_adam_and_binary_labels_beside_keras(cluster, data, name):
    """Two calls of `fit`: the second goes on with the step, and so with the rate and the bias correction, where the first has ended."""
    x, y = data[0], (data[0].reshape(100, 8).sum(1) > 4).astype(int)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = logits(loss, outputs=1, optimizer=SCHEDULES[name]())
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(model, cluster) as shared:
        epochs = [epoch async for epoch in shared.fit(*stored, epochs=2, batch_size=25, shuffle=False, metrics=["loss", "accuracy"])]
        quiet = [epoch async for epoch in shared.fit(*stored, epochs=1, batch_size=25, shuffle=False, metrics=["loss"])]
        trained = await shared.reveal()
    history = model.fit(x, y, epochs=3, batch_size=25, shuffle=False, verbose=0).history
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.02)
    np.testing.assert_allclose([epoch.loss for epoch in epochs + quiet], history["loss"], atol=0.01)
    assert [epoch.value is None for epoch in epochs + quiet] == [False, False, True]
    assert "accuracy 0." in str(epochs[0])
    assert f"loss {epochs[0].loss:.3f}" in str(epochs[0])


async def test_the_rate_of_the_optimizer_counts_at_each_fit(cluster, data):
    model = logits()
    x, y = await cluster.store("x", data[0]), await cluster.store("y", data[1])
    async with await share(model, cluster) as shared:
        await to_the_end(shared.fit(x, y, batch_size=50, shuffle=False))
        before = (await shared.reveal()).get_weights()
        model.optimizer.learning_rate = 2e-5
        await to_the_end(shared.fit(x, y, batch_size=50, shuffle=False))
        after = (await shared.reveal()).get_weights()
    assert 0 < max(np.abs(a - b).max() for a, b in zip(before, after, strict=True)) < 2e-4


async def test_the_gradients_of_the_last_step_are_looked_at_before_it_counts(cluster):
    """Of an epoch of one step: nobody would look at them later, and the weights would be revealed."""
    batch = 100
    x, y = await cluster.store("x", np.full((batch, 1), 400.0)), await cluster.store("y", np.full((batch, 1), 450.0))
    model = keras.Sequential([layers.Input((1,)), layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    async with await share(model, cluster) as shared:
        with pytest.raises(Diverged, match="gradients that are too large"):
            await to_the_end(shared.fit(x, y, batch_size=batch))
        for one, before in zip((await shared.reveal()).get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, before)


async def test_a_model_that_diverges_is_as_it_was_before(cluster, data):
    x, y = await cluster.store("x", data[0] * 10), await cluster.store("y", data[0].reshape(100, 8)[:, :3] * 400)
    model = logits("mse", optimizer=keras.optimizers.SGD(0.00002))
    async with await share(model, cluster) as shared:
        await to_the_end(shared.fit(x, y, batch_size=50, shuffle=False))
        before = (await shared.reveal()).get_weights()
        model.optimizer.learning_rate = 2.0
        with pytest.raises(Diverged, match="smaller learning rate"):
            await to_the_end(shared.fit(x, y, batch_size=10, epochs=3))
        after = (await shared.reveal()).get_weights()
        model.optimizer.learning_rate = 0.00002
        await to_the_end(shared.fit(x, y, batch_size=50))
    for mine, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_which_weights_decay():
    from protocols.owner.compiled import plan

    def optimizer(**excluded):
        found = keras.optimizers.SGD(0.1, weight_decay=0.01)
        if excluded:
            found.exclude_from_weight_decay(**excluded)
        return plan(logits(optimizer=found)).optimizer

    assert (optimizer().decay, optimizer().exempt) == (0.01, ())
    assert set(optimizer(var_names=["bias"]).exempt) == {"bias0", "bias1"}
    assert set(optimizer(var_names=["kernel"]).exempt) == {"kernel0", "kernel1"}


def test_a_sigmoid_at_the_end_belongs_to_the_binary_crossentropy():
    from protocols.owner.compiled import plan

    def planned(loss, *ending):
        model = keras.Sequential([layers.Input((4,)), *ending])
        model.compile(keras.optimizers.AdamW(0.01, amsgrad=True), loss)
        return plan(model)

    for ending in ((layers.Dense(2, activation="sigmoid"),), (layers.Dense(2), layers.Activation("sigmoid"))):
        found = planned("binary_crossentropy", *ending)
        assert (found.loss, len(found.layers)) == ("binary_crossentropy", 1)
        assert (found.optimizer.amsgrad, found.optimizer.decay) == (True, 0.004)
        assert set(found.states) == {
            "outside",
            *(f"{kind} of {name}" for kind in ("mean", "square", "largest square") for name in found.shapes),
        }
        assert len(planned("mse", *ending).layers) == 2  # an activation like others
        with pytest.raises(ModelError, match="end in a softmax"):
            planned("categorical_crossentropy", *ending)
    with pytest.raises(ModelError, match="softmax with mean_squared_error"):
        planned("mse", layers.Dense(2, activation="softmax"))
