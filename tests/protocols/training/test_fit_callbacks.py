"""Callbacks that ask which way a metric goes hear what Keras says of it, whatever it is called."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, metrics

from protocols.errors import InputError
from protocols.owner.fit.settings import FitSettings
from protocols.owner.fitting import Training

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RISING = (0.2, 0.5, 0.7, 0.9)
CASES = {
    "hits": (SPARSE, metrics.SparseCategoricalAccuracy(name="hits"), "hits"),
    "accuracy": (SPARSE, "accuracy", "accuracy"),
    "acc": (SPARSE, "acc", "acc"),
    "mse": ("mse", "mse", "mse"),
    "squares that are called accuracy": ("mse", metrics.MeanSquaredError(name="accuracy"), "accuracy"),
    "hinge that is called acc": ("hinge", metrics.Hinge(name="acc"), "acc"),
    "loss": (SPARSE, metrics.SparseCategoricalAccuracy(name="hits"), "loss"),
}


def compiled(loss, metric):
    outputs = 3 if loss is SPARSE else 1
    model = keras.Sequential([layers.Input((2,)), layers.Dense(outputs)])
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=[metric])
    return model


def seen(callback, epochs):
    """What a callback thinks is best after each epoch, and the rate then."""
    found = []
    for number, value in enumerate(RISING):
        epochs(number, {callback.monitor: value})
        found.append((callback.best, float(callback.model.optimizer.learning_rate)))
    return found


@pytest.mark.parametrize("prefix", ["", "val_"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
def test_a_metric_rises_or_falls_by_what_it_is(kind, case, prefix):
    loss, metric, name = CASES[case]
    shares, plain = (kind(prefix + name, patience=1) for _ in range(2))

    training = Training(compiled(loss, metric), SimpleNamespace(seats_for=lambda name: None), "model")
    how = FitSettings(epochs=4, batch_size=2, shuffle=False, metrics=["loss"] if name == "loss" else True, memory=1, callbacks=[shares])
    running = training._callbacks(how, validated=True)
    running.begin()

    model = compiled(loss, metric)
    model.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0)  # Keras builds its metrics
    plain.set_model(model)
    plain.on_train_begin()

    assert seen(shares, running.epoch_ends) == seen(plain, plain.on_epoch_end)


@pytest.mark.parametrize("number", [2.5, 1e5, "3", float("nan"), 1 << 70])
@pytest.mark.parametrize("name", ["epochs", "batch_size", "memory", "initial_epoch", "save_every", "micro_batch_size"])
def test_what_is_no_number_of_something_is_refused_by_the_name_that_its_user_gave(name, number):
    given = {"epochs": 3, "batch_size": 2, "memory": 1, "folder": "runs"} | {name: number}
    with pytest.raises(InputError, match=rf"{name}=.*; (a whole number is needed|less than 2\^48 is possible)"):
        FitSettings(shuffle=False, metrics=True, **given)


def test_numbers_of_numpy_are_numbers_as_they_are_sent():
    how = FitSettings(epochs=np.int64(3), batch_size=True, memory=np.uint8(9), shuffle=False, metrics=True)
    assert [(type(one), one) for one in (how.epochs, how.batch_size, how.memory)] == [(int, 3), (int, 1), (int, 9)]
