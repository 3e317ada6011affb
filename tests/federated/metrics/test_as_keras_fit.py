"""Metrics of training and evaluation are those that Keras' own `fit` and `evaluate` tell of all data together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import (
    CoordinateMedian,
    FedAvg,
    FedBuff,
    Federation,
    FedProx,
    FedSGD,
    ProcessEngine,
    SecureAggregation,
    SharedAggregation,
    UpdateHeldBack,
    simulated_owners,
)
from federated.metrics.kept import told
from federated.metrics.layout import StateLayout
from federated.metrics.meter import Meter
from federated.models.blueprint import draw
from federated.records.data import Data
from protocols import Cluster, Worker

RNG = np.random.default_rng(3)
X = RNG.normal(size=(90, 4)).astype(np.float32)
Y = ((X.sum(1) + RNG.normal(size=90)) > 1).astype(np.float32)[:, None]
M = keras.metrics


@keras.saving.register_keras_serializable("tests")
class Positives(M.Metric):
    """A metric of one's own whose state is a sum: the share of predictions above a half, squared."""

    def __init__(self, name="positives", **more):
        super().__init__(name=name, **more)
        self.found = self.add_weight(shape=(2,), initializer="zeros", name="found")

    def update_state(self, y, predictions, sample_weight=None):
        above = keras.ops.cast(predictions > 0.5, "float32")
        self.found.assign_add(keras.ops.stack([keras.ops.sum(above), keras.ops.cast(keras.ops.size(above), "float32")]))

    def result(self):
        return (self.found[0] / self.found[1]) ** 2


def many():
    """Metrics that are no means of batches or owners, and one that is."""
    return [
        "accuracy",
        M.AUC(name="auc", num_thresholds=20),
        M.Precision(name="precision"),
        M.F1Score(threshold=0.5, name="f1"),
        M.TruePositives(name="hits"),
        M.RootMeanSquaredError(name="rmse"),
        Positives(),
    ]


def build(rate=0.0, metrics=many, **more):
    keras.utils.set_random_seed(1)
    near = {"kernel_initializer": keras.initializers.Constant(0.9), "bias_initializer": keras.initializers.Constant(-0.5)}
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid", **near)])
    model.compile(**{"optimizer": keras.optimizers.SGD(rate), "loss": "binary_crossentropy", "metrics": metrics()} | more)
    return model


def figures(values):
    return {name: float(np.squeeze(value)) for name, value in values.items()}


def without(prefix, metrics):
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


async def rounds(model, owners, count=1, **more):
    async with Federation(model=model, owners=owners, progress=False, **more) as federation:
        return [outcome async for outcome in federation.rounds(count)]


def batches(x=X, y=Y, size=32, weights=None):
    return tf.data.Dataset.from_tensor_slices((x, y) if weights is None else (x, y, weights)).batch(size)


def halves():
    return [(X[:25], Y[:25]), (X[25:60], Y[25:60]), (X[60:], Y[60:])]


# One owner: `fit`.


async def test_arrays_are_as_fit_on_them_in_the_same_order():
    epochs = 2
    strategy = FedAvg(batch_size=32, local_epochs=epochs)
    (outcome,) = await rounds(lambda: build(0.3), simulated_owners([(X, Y)]), strategy=strategy)
    model = build(0.3)
    for epoch in range(epochs):
        history = model.fit(*Data((X, Y)).shuffled([0, 1, 0, epoch]).given, batch_size=32, shuffle=False, verbose=0).history
    assert outcome.metrics == pytest.approx(figures({name: values[-1] for name, values in history.items()}), rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
async def test_data_sets_are_as_fit_on_them(weighted):
    weights = np.linspace(0.1, 2.0, 90).astype(np.float32)[:, None] if weighted else None

    def model():
        return build(0.3, weighted_metrics=[M.AUC(name="wauc", num_thresholds=20), M.MeanAbsoluteError(name="wmae")] if weighted else None)

    (outcome,) = await rounds(model, simulated_owners([batches(weights=weights)]), strategy=FedAvg(local_epochs=2))
    history = model().fit(batches(weights=weights), epochs=2, verbose=0, shuffle=False).history
    assert outcome.metrics == pytest.approx(figures({name: values[-1] for name, values in history.items()}), rel=1e-5)


@pytest.mark.parametrize("kind", ["arrays", "data set", "weighted data set", "a batch"])
@pytest.mark.sample(1)
async def test_gradients_are_as_evaluate(kind):
    weights = np.linspace(0.1, 2.0, 90).astype(np.float32)[:, None]
    more = {"weighted_metrics": [M.AUC(name="wauc", num_thresholds=20)]} if kind == "weighted data set" else {}
    data = {"data set": batches(size=40), "weighted data set": batches(size=40, weights=weights)}.get(kind, (X, Y))
    strategy = FedSGD(batch_size=50 if kind == "a batch" else None)
    (outcome,) = await rounds(lambda: build(**more), simulated_owners([data]), strategy=strategy)
    given = data if isinstance(data, tuple) else (data,)
    if kind == "a batch":
        given = Data((X, Y)).shuffled([0, 1, 0]).take(slice(50)).given
    assert outcome.metrics == pytest.approx(figures(build(**more).evaluate(*given, verbose=0, return_dict=True)), rel=1e-4)


async def test_each_round_begins_anew_whatever_was_trained_before():
    """As it was not, with a Keras whose `train_on_batch` keeps metrics over all calls."""
    rng = np.random.default_rng(0)
    parts = [
        (x, x.sum(1, keepdims=True))
        for n, shift in ((10, 0), (10, 5), (40, 20))
        for x in [rng.normal(size=(n, 4)).astype(np.float32) + shift]
    ]

    def model():
        keras.utils.set_random_seed(1)
        made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        made.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"])
        return made

    expected = model().evaluate(*(np.concatenate(each) for each in zip(*parts, strict=True)), verbose=0, return_dict=True)
    for outcome in await rounds(model, simulated_owners(parts), 3, strategy=FedAvg(batch_size=10)):
        assert outcome.metrics == pytest.approx(expected, rel=1e-5)


# Several owners: all data together.


STRATEGIES = [
    FedAvg(batch_size=8),
    FedSGD(),
    FedBuff(buffer=3, concurrency=3),
    pytest.param(FedProx(), marks=pytest.mark.long),
    pytest.param(CoordinateMedian(), marks=pytest.mark.long),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.sample(1)
async def test_owners_together_are_as_evaluate_on_all_data(strategy):
    owners = simulated_owners(halves(), evaluation=[(x[:7], y[:7]) for x, y in halves()])
    (outcome,) = await rounds(build, owners, strategy=strategy)
    expected = figures(build().evaluate(X, Y, verbose=0, return_dict=True))
    assert {name: outcome.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    some = [np.concatenate([part[i][:7] for part in halves()]) for i in (0, 1)]
    if not isinstance(strategy, FedSGD | CoordinateMedian):  # which have moved the weights
        assert without("val_", outcome.metrics) == pytest.approx(figures(build().evaluate(*some, verbose=0, return_dict=True)), rel=1e-4)


@pytest.mark.parametrize("word", [32, 64])
@pytest.mark.sample(1)
async def test_hidden_from_the_aggregator_too(word):
    aggregation = SecureAggregation(most_examples=40 if word == 32 else 1 << 20, clip=2.0)
    assert aggregation.limits(3).resolution >= 2.0**-40
    (outcome,) = await rounds(build, simulated_owners(halves()), aggregation=aggregation, strategy=FedAvg(batch_size=8))
    assert outcome.metrics == pytest.approx(figures(build().evaluate(X, Y, verbose=0, return_dict=True)), rel=1e-4)


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(FedAvg(batch_size=8), marks=pytest.mark.long), FedBuff(buffer=3, concurrency=3)],
    ids=["rounds", "asynchronous"],
)
async def test_hidden_from_two_servers(strategy):
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(*workers[:2], crypto_provider=workers[2]) as cluster:
        outcomes = await rounds(build, simulated_owners(halves()), 2, aggregation=SharedAggregation(cluster), strategy=strategy)
    expected = figures(build().evaluate(X, Y, verbose=0, return_dict=True))
    assert outcomes[0].metrics == pytest.approx(expected, rel=1e-4)
    assert outcomes[1].failure is None


@pytest.mark.long
async def test_in_other_processes():
    owners = simulated_owners(halves(), engine=ProcessEngine(2), evaluation=halves())
    plain = [one for one in many() if not isinstance(one, Positives)]  # which the other process does not know
    (outcome,) = await rounds(lambda: build(metrics=lambda: plain), owners, strategy=FedAvg(batch_size=8))
    expected = figures(build(metrics=lambda: plain).evaluate(X, Y, verbose=0, return_dict=True))
    assert {name: outcome.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert without("val_", outcome.metrics) == pytest.approx(expected, rel=1e-4)


# Forms of models.


def two_outputs():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, activation="tanh")(inputs)
    outputs = {"kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden), "size": keras.layers.Dense(1, name="size")(hidden)}
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.0),
        {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        metrics={"kind": ["accuracy", M.SparseTopKCategoricalAccuracy(2, name="top")], "size": [M.RootMeanSquaredError(name="rmse")]},
        loss_weights={"kind": 0.5, "size": 2.0},
    )
    return model


def subclassed():
    keras.utils.set_random_seed(1)
    model = Plain()
    model.build((None, 4))
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=["accuracy", M.AUC(name="auc", num_thresholds=20)])
    return model


@keras.saving.register_keras_serializable("tests")
class Plain(keras.Model):
    """A class of its own, trained as Keras does."""

    def __init__(self, **more):
        super().__init__(**more)
        self.last = keras.layers.Dense(1, activation="sigmoid")

    def build(self, shape):
        self.last.build(shape)
        self.built = True

    def call(self, x):
        return self.last(x)


def softmax(labels):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    if labels == "one hot":
        kept = ["accuracy", M.F1Score(average=None, name="f1"), M.AUC(name="auc", num_thresholds=20, multi_label=True)]
    else:
        kept = ["accuracy", M.SparseTopKCategoricalAccuracy(2, name="top"), M.MeanIoU(3, sparse_y_pred=False, name="iou")]
    loss = "categorical_crossentropy" if labels == "one hot" else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=kept)
    return model


def sequences():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


CLASSES = np.arange(90) * 7 % 3
FORMS = {
    "two outputs": (two_outputs, [X, {"kind": CLASSES, "size": X.sum(1, keepdims=True)}]),
    "a class of its own": (subclassed, [X, Y]),
    "one hot": (lambda: softmax("one hot"), [X, np.eye(3, dtype=np.float32)[CLASSES]]),
    "classes": (lambda: softmax("classes"), [X, CLASSES]),
    "classes in a column": (lambda: softmax("classes"), [X, CLASSES[:, None]]),
    "sequences": (sequences, [X.reshape(90, 2, 2), CLASSES[:, None].repeat(2, 1)]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.sample(3)
def test_forms_of_models_and_labels(form):
    """An owner's model takes its labels; the aggregator's has seen none, and computes from the sums."""
    model, (x, y) = FORMS[form]
    there, owner = model(), model()
    meter, sums = Meter(there, draw(there)), 0
    batch = {"batch_size": 30, "verbose": 0, "return_dict": True}  # Keras' loss of one of several outputs counts each batch alike
    for where in (slice(0, 30), slice(30, 90)):
        logs = owner.evaluate(x[where], tf.nest.map_structure(lambda one, where=where: one[where], y), **batch)
        states, rest = told(owner, logs, meter.layout.sizes)
        assert (rest, meter.layout.fault(states, len(x[where]))) == ({}, None)
        sums = sums + states
    expected = {}
    for name, value in model().evaluate(x, y, **batch).items():
        values = np.ravel(value)
        expected |= {name: values[0]} if len(values) == 1 else {f"{name}_{i}": one for i, one in enumerate(values)}
    assert meter.results(sums, {}) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["train_step", "test_step", "metrics"])
def test_a_class_that_keeps_metrics_in_its_own_way_tells_values(kind):
    """What it tells cannot be known from states: the loss is a mean over examples, the others are called means of owners."""
    own = {
        "train_step": lambda self, data: {"loss": keras.ops.sum(data[0]), "other": 1.0},
        "test_step": lambda self, data: {"loss": keras.ops.sum(data[0])},
        "metrics": property(lambda self: []),
    }
    model = keras.saving.register_keras_serializable("tests")(type(f"Own_{kind}", (keras.Sequential,), {kind: own[kind]}))
    made = model([keras.Input((4,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse", metrics=["accuracy"])
    meter = Meter(made, draw(made))
    assert meter.layout == StateLayout()
    found = meter.results(np.zeros(0), {"other": 1.0, "loss": 2.0, "accuracy": 0.5})
    assert found == {"loss": 2.0, "other_mean_of_owners": 1.0, "accuracy": 0.5}


def test_an_owner_whose_labels_make_other_metrics_says_so():
    model, (x, y) = FORMS["one hot"]
    owner = model()
    logs = owner.evaluate(x, y, verbose=0, return_dict=True)
    with pytest.raises(UpdateHeldBack, match="of another form than was expected"):
        told(owner, logs, (2, 2, 9, 4))
