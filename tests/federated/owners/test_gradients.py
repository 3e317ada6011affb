"""FedSGD moves by the gradient of one batch of all examples of an owner, whatever the loss is made of and however many there are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from federated import DataError, Federation, FedSGD, simulated_owners
from federated.models import blueprint
from federated.models.separable import BY_EXAMPLE, LOSSES, obstacle
from federated.owners import gradient
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import LocalTraining, Task

ROWS = 2500
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
X[: ROWS // 2] += 1  # parts of the data differ, and so do their statistics
Y = (X[:, :2] * 2 + RNG.normal(size=(ROWS, 2))).astype(np.float32)
LABELS = np.where(np.arange(ROWS) < 1500, RNG.integers(0, 3, ROWS), 0)  # 0 is more frequent in the last parts
WEIGHTS = np.linspace(0, 2, ROWS).astype(np.float32)
STEPS = RNG.normal(size=(ROWS, 5, 4)).astype(np.float32)
STEPS[1000:, 2:] = 0  # masked
EACH_STEP = RNG.normal(size=(ROWS, 5, 1)).astype(np.float32)

registered = keras.saving.register_keras_serializable("gradients")


@registered
def rmse(truth, predicted):
    return keras.ops.sqrt(keras.ops.mean(keras.ops.square(predicted - truth)))


@registered
class Spread(keras.losses.Loss):
    """Looks at the deviation over a batch."""

    def call(self, truth, predicted):
        return keras.ops.square(predicted - truth) + keras.ops.std(predicted)


@registered
class Half(layers.Dense):
    """Adds a loss that is no mean over examples."""

    def call(self, inputs):
        outputs = super().call(inputs)
        self.add_loss(0.01 * keras.ops.sqrt(keras.ops.sum(outputs**2)))
        return outputs


@registered
class Held(layers.Dense):
    """Adds a loss of its weights."""

    def call(self, inputs):
        self.add_loss(keras.ops.sum(self.kernel**2))
        return super().call(inputs)


@registered
def centred(values):
    return values - keras.ops.mean(values, axis=0)


@registered
class Centred(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return centred(super().call(inputs, training=training))


@registered
class Furthest(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.max(keras.ops.abs(y - y_pred)) + super().compute_loss(x, y, y_pred, sample_weight)


@registered
def largest(truth, predicted):
    """A metric that looks at a whole batch."""
    return keras.ops.max(keras.ops.abs(truth - predicted))


def model(*hidden, kind=keras.Sequential, last=None, shape=(4,), loss="mse", **settings):
    keras.utils.set_random_seed(1)
    built = kind([keras.Input(shape), *hidden, last or layers.Dense(2)])
    built.compile(keras.optimizers.SGD(0.1), loss, **settings)
    return built


def mixing():
    """An operation between layers that looks at all examples."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    hidden = layers.Dense(3)(inputs)
    built = keras.Model(inputs, layers.Dense(2)(hidden - keras.ops.mean(hidden, axis=0, keepdims=True)))
    built.compile(keras.optimizers.SGD(0.1), "mse")
    return built


def of_two(**settings):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    built = keras.Model(inputs, {"kind": layers.Dense(3, name="kind")(inputs), "size": layers.Dense(2, name="size")(inputs)})
    built.compile(keras.optimizers.SGD(0.1), **settings)
    return built


def classes(**settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **settings)
    return model(last=layers.Dense(3), loss=loss, metrics=["accuracy"])


def by_steps(*hidden, **settings):
    return model(layers.Masking(), layers.LSTM(3, return_sequences=True), *hidden, last=layers.Dense(1), shape=(5, 4), **settings)


MSE = keras.losses.MeanSquaredError
CASES = {
    "mean": (model, (X, Y)),
    "sum": (lambda: model(loss=MSE(reduction="sum")), (X, Y)),
    "none": (lambda: model(loss=MSE(reduction=None)), (X, Y)),
    "mean_with_sample_weight": (lambda: model(loss=MSE(reduction="mean_with_sample_weight")), (X, Y, WEIGHTS)),
    "mean_with_sample_weight without weights": (lambda: model(loss=MSE(reduction="mean_with_sample_weight")), (X, Y)),
    "sum with weights": (lambda: model(loss=MSE(reduction="sum")), (X, Y, WEIGHTS)),
    "weights": (lambda: model(weighted_metrics=["mae"]), (X, Y, WEIGHTS)),
    "ignore_class": (lambda: classes(ignore_class=0), (X, LABELS)),
    "ignore_class with weights": (lambda: classes(ignore_class=0), (X, LABELS, WEIGHTS)),
    "masks": (by_steps, (STEPS, EACH_STEP)),
    "masks with weights": (by_steps, (STEPS, EACH_STEP, np.tile(WEIGHTS[:, None], 5))),
    "add_loss": (lambda: model(last=Half(2)), (X, Y)),
    "add_loss of weights": (lambda: model(last=Held(2)), (X, Y)),
    "regularizer": (lambda: model(last=layers.Dense(2, kernel_regularizer="l2", bias_regularizer="l1")), (X, Y)),
    "regularizer and sum": (lambda: model(last=layers.Dense(2, kernel_regularizer="l2"), loss=MSE(reduction="sum")), (X, Y)),
    "activity_regularizer": (lambda: model(last=layers.Dense(2, activity_regularizer="l1")), (X, Y)),
    "ActivityRegularization": (lambda: model(layers.ActivityRegularization(l2=0.1)), (X, Y)),
    "BatchNormalization": (lambda: model(layers.Dense(3), layers.BatchNormalization(), metrics=["mae"]), (X, Y)),
    "BatchNormalization within": (
        lambda: model(keras.Sequential([layers.Dense(3), layers.BatchNormalization()])),
        (X, Y),
    ),
    "BatchNormalization that is frozen": (lambda: model(layers.BatchNormalization(trainable=False), layers.Dense(3)), (X, Y)),
    "a loss over the batch": (lambda: model(loss=rmse), (X, Y)),
    "a loss of a class of one's own": (lambda: model(loss=Spread()), (X, Y)),
    "compute_loss": (lambda: model(kind=Furthest), (X, Y)),
    "a call of one's own": (lambda: model(kind=Centred), (X, Y)),
    "an activation of one's own": (lambda: model(layers.Dense(3, activation=centred)), (X, Y)),
    "an operation over the batch": (mixing, (X, Y)),
    "the axis of the examples": (lambda: model(layers.Dense(3), layers.Softmax(axis=0)), (X, Y)),
    "it from behind": (lambda: model(layers.Dense(3), layers.UnitNormalization(axis=-2)), (X, Y)),
    "Dice": (lambda: model(last=layers.Dense(2, activation="sigmoid"), loss="dice"), (X, (Y > 0).astype(np.float32))),
    "a metric over the batch": (lambda: model(metrics=[largest]), (X, Y)),
    "it in a mean": (lambda: model(metrics=[keras.metrics.MeanMetricWrapper(largest, name="largest")]), (X, Y)),
    "metrics": (lambda: model(metrics=["mae", keras.metrics.R2Score(), keras.metrics.CosineSimilarity()]), (X, Y)),
    "outputs": (lambda: of_two(loss={"kind": "mse", "size": "mae"}, loss_weights={"kind": 2.0, "size": 0.5}), None),
    "outputs of several reductions": (lambda: of_two(loss={"kind": MSE(reduction="sum"), "size": "mae"}), None),
    "outputs, one of which counts less": (
        lambda: of_two(loss={"kind": keras.losses.SparseCategoricalCrossentropy(True, ignore_class=0), "size": "mse"}),
        None,
    ),
}
ALONE = {
    "outputs": (X, {"kind": Y[:, [0, 1, 0]], "size": Y}),
    "outputs of several reductions": (X, {"kind": Y[:, [0, 1, 0]], "size": Y}),
    "outputs, one of which counts less": (X, {"kind": LABELS, "size": Y}),
}
IN_PARTS = ("mean", "weights", "ignore_class", "ignore_class with weights", "masks", "masks with weights", "regularizer", "outputs")
IN_PARTS = (*IN_PARTS, "BatchNormalization that is frozen", "metrics")


def case(name):
    """A function that makes the same model each time, and data."""
    make, data = CASES[name]

    def build():
        keras.utils.set_random_seed(1)
        return make()

    return build, ALONE[name] if data is None else data


def by_keras(build, data):
    """The gradient of one batch of all rows, and what the forward pass does to the weights that are not trained."""
    built = build()
    before = built.get_weights()
    x, y, weights = data if len(data) == 3 else (*data, None)
    with tf.GradientTape() as tape:
        loss = built.compute_loss(x=x, y=y, y_pred=built(x, training=True), sample_weight=weights)
    trained = {id(v): i for i, v in enumerate(built.trainable_variables)}
    found = tape.gradient(loss, [v.value for v in built.trainable_variables])
    after = built.get_weights()
    return [
        -np.asarray(tf.convert_to_tensor(found[trained[id(v)]])) if id(v) in trained else after[i] - before[i]
        for i, v in enumerate(built.weights)
    ]


async def given(build, data, training=None):
    built = build()
    trainer = Trainer()
    try:
        task = Task(1, blueprint.draw(built), built.get_weights(), training or LocalTraining(batch_size=None, gradient=True))
        return await trainer.train(task, Data(data), evaluates=False)
    finally:
        await trainer.close()


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(other).max(initial=0.0)))


@pytest.mark.parametrize(("name", "form"), [(name, form) for form in ("arrays", "tf.data") for name in CASES])
@pytest.mark.sample(12)
async def test_it_is_the_gradient_of_one_batch(name, form):
    build, data = case(name)
    update = await given(build, data if form == "arrays" else tf.data.Dataset.from_tensor_slices(data).batch(700))
    assert update.examples == ROWS
    same(update.delta, by_keras(build, data))
    told = build().train_on_batch(*data, return_dict=True)
    assert update.metrics == pytest.approx({k: float(v) for k, v in told.items() if np.ndim(v) == 0}, rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_parts_are_taken_where_they_make_the_whole_and_nowhere_else(name):
    """Memory stays bounded for ordinary models; and without this the cases above would show nothing about parts."""
    assert (obstacle(CASES[name][0]()) is None) == (name in IN_PARTS)


async def test_a_step_of_fedsgd_is_one_of_gradient_descent():
    build, data = case("BatchNormalization")
    async with Federation(model=build, owners=simulated_owners([data]), strategy=FedSGD(eta=0.3), progress=False) as federation:
        await anext(federation.rounds(1))
        found = federation.model.get_weights()
    built = build()
    built.compile(keras.optimizers.SGD(0.3), "mse")
    built.train_on_batch(*data)
    same(found, built.get_weights())


@pytest.mark.parametrize("name", ["BatchNormalization", "mean"])
async def test_a_batch_of_it_is_one_as_well(name):
    build, data = case(name)
    training = LocalTraining(batch_size=2000, gradient=True)
    update = await given(build, data, training)
    some = Data(data).shuffled([0, 1, 0]).take(slice(0, 2000))
    assert update.examples == 2000
    same(update.delta, by_keras(build, some.given))


async def test_sequences_of_other_lengths_in_each_batch():
    """A mean over positions: a longer batch has more of them."""

    def build():
        keras.utils.set_random_seed(1)
        return model(layers.Dense(3, activation="tanh"), last=layers.Dense(1), shape=(None, 4))

    batches = [(STEPS[:30, :n], EACH_STEP[:30, :n]) for n in (5, 2)]
    signature = (tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None, 1)))
    update = await given(build, tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature))
    parts = [by_keras(build, batch) for batch in batches]
    same(update.delta, [(5 * a + 2 * b) / 7 for a, b in zip(*parts, strict=True)])


async def test_batches_that_cannot_be_joined_are_refused_by_name():
    batches = [(STEPS[:30, :n], EACH_STEP[:30, :n]) for n in (5, 2)]
    signature = (tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None, 1)))
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    with pytest.raises(DataError, match="taken at once: its loss rmse may look at a whole batch; its batches cannot be joined"):
        await given(lambda: model(last=layers.Dense(1), shape=(None, 4), loss=rmse), data)


@pytest.mark.parametrize("form", ["arrays", "tf.data"])
async def test_more_than_memory_is_meant_for_is_refused_by_name(form, monkeypatch):
    monkeypatch.setattr(gradient, "MOST_AT_ONCE", 2 * ROWS)
    data = (X, Y) if form == "arrays" else tf.data.Dataset.from_tensor_slices((X, Y)).batch(700)
    with pytest.raises(DataError, match="at once: its loss rmse may look at a whole batch; its layers would give more than 5,000"):
        await given(lambda: model(loss=rmse), data)
    await given(model, data)


def test_what_is_listed_is_of_keras():
    assert all(isinstance(getattr(layers, name), type) for name in BY_EXAMPLE)
    assert all(callable(getattr(keras.losses, name)) for pair in LOSSES.items() for name in pair)
