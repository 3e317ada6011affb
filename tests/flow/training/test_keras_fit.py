"""`fit`, `evaluate` and `predict` as users of Keras know them, beside Keras itself, with real workers."""

import csv
import re

import keras
import numpy as np
import pytest
from keras import layers

from protocols import share
from protocols.errors import InputError, ModelError

CLOSE = 0.01


def network(loss="sparse_categorical_crossentropy", metrics=("accuracy",), outputs=3, ending="softmax", optimizer=None, seed=1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([layers.Input((5,)), layers.Dense(6, "relu"), layers.Dense(outputs, ending)], name="fitted")
    model.compile(optimizer or keras.optimizers.SGD(0.3), loss, metrics=list(metrics))
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (60, 5)).astype(np.float32)
    return x, (x @ rng.normal(size=(5, 3))).argmax(1)


LOSSES = {
    "labels": (network, lambda y: y),
    "one-hot rows": (lambda: network("categorical_crossentropy"), lambda y: np.eye(3, dtype=np.float32)[y]),
    "labels 0 and 1": (lambda: network("binary_crossentropy", outputs=1, ending="sigmoid"), lambda y: (y > 0).astype(np.int64)),
    "numbers": (lambda: network("mse", ["mse"], 2, None), lambda y: np.stack([y == 0, y == 1], 1).astype(np.float32)),
}


async def fitted(shared, *data, **settings):
    return [epoch async for epoch in shared.fit(*data, shuffle=False, progress=False, **settings)]


@pytest.mark.parametrize("kind", LOSSES)
async def test_metrics_predictions_and_weights_of_examples_are_those_of_keras(cluster, data, kind):
    build, form = LOSSES[kind]
    x, y = data[0], form(data[1])
    counts = np.random.default_rng(1).uniform(0, 3, 60)
    model, settings = build(), {"batch_size": 20, "epochs": 2}
    async with await share(model, cluster) as shared:
        epochs = await fitted(
            shared, x[:40], y[:40], sample_weight=counts[:40], validation_data=(x[40:], y[40:]), metrics=["loss"], **settings
        )
        metrics, weighted = await shared.evaluate(x, y), await shared.evaluate(x, y, sample_weight=counts)
        answers = await shared.predict(x[:7])
    history = model.fit(
        x[:40], y[:40], sample_weight=counts[:40], validation_data=(x[40:], y[40:]), shuffle=False, verbose=0, **settings
    ).history
    for epoch, *expected in zip(epochs, history["loss"], history["val_loss"], strict=True):
        assert [epoch.logs["loss"], epoch.logs["val_loss"]] == pytest.approx(expected, abs=CLOSE)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    assert next(iter(metrics)) == "loss"
    assert metrics == pytest.approx(expected, abs=CLOSE)
    assert weighted == pytest.approx(model.evaluate(x, y, sample_weight=counts, verbose=0, return_dict=True), abs=CLOSE)
    np.testing.assert_allclose(answers, model.predict(x[:7], verbose=0), atol=CLOSE)


@pytest.mark.parametrize("kind", ["labels", "one-hot rows", "labels 0 and 1"])
@pytest.mark.parametrize("stored", [False, True])
async def test_weights_of_classes_are_those_of_keras(cluster, data, kind, stored):
    build, form = LOSSES[kind]
    x, y = data[0], form(data[1])
    model, weights = build(), {0: 0.25, 1: 3.0}
    async with await share(model, cluster) as shared:
        given = (await cluster.store("x", x), await cluster.store("y", y)) if stored else (x, y)
        epochs = await fitted(shared, *given, class_weight=weights, batch_size=20, epochs=2, metrics=["loss"])
        trained = await shared.reveal()
    history = model.fit(x, y, class_weight=weights, batch_size=20, epochs=2, shuffle=False, verbose=0).history
    assert [epoch.loss for epoch in epochs] == pytest.approx(history["loss"], abs=CLOSE)
    for mine, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.005)


async def test_callbacks_act_on_what_is_told(cluster, data, tmp_path):
    x, y = data

    def callbacks(log):
        seen = []
        return seen, [
            keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.02, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("val_accuracy", factor=0.1, patience=1, min_delta=0.2),
            keras.callbacks.CSVLogger(log),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs)))),
        ]

    settings = {"epochs": 8, "batch_size": 10, "validation_split": 0.25, "initial_epoch": 2}
    model, theirs = network(), network()
    seen, mine = callbacks(tmp_path / "shares.csv")
    async with await share(model, cluster) as shared:
        epochs = await fitted(shared, x, y, callbacks=mine, metrics=["loss", "accuracy"], **settings)
        trained = await shared.reveal()
    expected, other = callbacks(tmp_path / "keras.csv")
    theirs.fit(x, y, callbacks=other, shuffle=False, verbose=0, **settings)
    assert seen == expected
    assert [epoch.number for epoch in epochs] == [3 + at for at in range(len(expected))]
    assert len(epochs) < 6, "it was stopped"
    assert float(trained.optimizer.learning_rate) == pytest.approx(float(theirs.optimizer.learning_rate))
    assert float(trained.optimizer.learning_rate) < 0.3, "it was reduced"
    for one, two in zip(trained.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=0.005)
    tables = [list(csv.DictReader((tmp_path / name).read_text().splitlines())) for name in ("shares.csv", "keras.csv")]
    for one, two in zip(*tables, strict=True):
        assert {name: float(value) for name, value in one.items()} == pytest.approx({n: float(v) for n, v in two.items()}, abs=CLOSE)


class Peeking(keras.callbacks.Callback):
    """Wants to see weights."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.get_layer("dense")


class Reading(keras.callbacks.Callback):
    """Wants to see weights by another way."""

    def on_epoch_end(self, epoch, logs=None):
        for weight in self.model.get_weights():
            print(weight)


REFUSED = {
    "ModelCheckpoint": ({"callbacks": [keras.callbacks.ModelCheckpoint("x.keras")]}, "ModelCheckpoint needs weights.*folder="),
    "BackupAndRestore": ({"callbacks": [keras.callbacks.BackupAndRestore("x")]}, "BackupAndRestore needs weights.*resume=True"),
    "TensorBoard": ({"callbacks": [keras.callbacks.TensorBoard("x")]}, "TensorBoard needs weights.*CSVLogger"),
    "TerminateOnNaN": ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "TerminateOnNaN .*Diverged"),
    "batches": ({"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=print)]}, "LambdaCallback has on_train_batch_end"),
    "not told": ({"callbacks": [keras.callbacks.EarlyStopping("loss")]}, "EarlyStopping monitors 'loss', which is not told"),
    "no validation": ({"callbacks": [keras.callbacks.EarlyStopping()]}, "monitors 'val_loss', which is not told.*validation_data="),
    "no callback": ({"callbacks": [print]}, "is no keras.callbacks.Callback"),
    "both": ({"validation_split": 0.5, "validation_data": (0, 0)}, "validation_data= and validation_split="),
    "nothing told": ({"validation_split": 0.5, "metrics": False}, "nothing of it would be told"),
    "a split": ({"validation_split": 1.5}, "validation_split=1.5; a part between"),
    "an epoch": ({"initial_epoch": 1}, "initial_epoch=1; .*below epochs=1"),
    "a class": ({"class_weight": {7: 2.0}}, re.escape("class_weight names the classes [7]")),
    "weights": ({"sample_weight": np.ones(3)}, "w has 3 examples: they must be as many"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_done_is_refused_by_name(cluster, data, name):
    settings, why = REFUSED[name]
    async with await share(network(), cluster) as shared:
        with pytest.raises(InputError, match=why):
            await fitted(shared, *data, **settings)
        assert not shared._training.begun, "before anything runs"


async def test_refused_where_it_is_seen_late(cluster, data):
    x, y = data
    async with await share(network(), cluster) as shared:
        with pytest.raises(AttributeError, match=r"asked for model.get_layer: .*SharedModel.reveal\(\) only"):
            await fitted(shared, x, y, callbacks=[Peeking()])
        with pytest.raises(Exception, match="a callback can only give them back"):
            await fitted(shared, x, y, callbacks=[Reading()])
        stored = await cluster.store("x", x), await cluster.store("y", y)
        with pytest.raises(InputError, match="x and y are shared already"):
            await fitted(shared, *stored, validation_split=0.5)
        with pytest.raises(InputError, match="is shared already: predictions"):
            await shared.predict(stored[0])
    async with await share(network("mse", ["mse"], 3, None), cluster) as shared:
        with pytest.raises(InputError, match="class_weight needs targets of one class each"):
            await fitted(shared, x, np.eye(3)[y], class_weight={0: 2.0})


class Ends(keras.callbacks.Callback):
    """Remembers what it is told at the end of epochs, and of the training."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_epoch_end(self, epoch, logs=None):
        self.told.append(sorted(logs))

    def on_train_end(self, logs=None):
        self.told.append(sorted(logs))


async def test_what_a_callback_adds_to_the_logs_of_an_epoch_is_not_in_those_of_the_end(cluster, data):
    x, y = data
    ours, theirs = Ends(), Ends()
    settings = {"epochs": 2, "batch_size": 30, "shuffle": False}
    async with await share(network(), cluster) as shared:
        await fitted(
            shared, x, y, metrics=["accuracy", "loss"], callbacks=[keras.callbacks.LearningRateScheduler(lambda _: 0.1), ours], epochs=2
        )
    network().fit(x, y, verbose=0, callbacks=[keras.callbacks.LearningRateScheduler(lambda _: 0.1), theirs], **settings)
    assert ours.told == theirs.told


@pytest.mark.parametrize("number", [2.0**14 * 1.01, 2.0**40, np.nan, -np.inf])
async def test_weights_that_fixed_point_does_not_hold_are_refused_by_name(cluster, data, number):
    """As the owner has set them since the model was shared."""
    model = network()
    async with await share(model, cluster) as shared:
        model.layers[0].bias.assign(np.full(6, number))
        with pytest.raises(ModelError, match=r"weight '.*bias' has numbers beyond \+-16,384, or none at all"):
            await fitted(shared, *data)
