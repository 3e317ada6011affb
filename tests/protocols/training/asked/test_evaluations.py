"""Metrics of networks that are trained on shares, beside `evaluate`: penalties, smoothing, sums, statistics, what is watched."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, losses
from training_deployment import SCALE, Trainers

from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan, weights
from protocols.training.asked import SharedEvaluation
from protocols.training.networks.losses import compared

EXAMPLES = 6
NUMBERS = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype(np.float32)
ONE_HOT = np.eye(3, dtype=np.float32)[np.arange(EXAMPLES) % 3]


def model(loss, *hidden, shape=(4,), last=None, **settings):
    keras.utils.set_random_seed(1)
    made = keras.Sequential([layers.Input(shape), *hidden, layers.Flatten(), layers.Dense(3, last, **settings)])
    made.compile(keras.optimizers.SGD(0.1), loss)
    return made


CASES = {
    "penalties": (lambda: model("mse", kernel_regularizer=keras.regularizers.L1L2(0.01, 0.02)), NUMBERS),
    "penalties on activations": (
        lambda: model(
            "mse",
            layers.Dense(4, "relu", trainable=False, activity_regularizer="l1"),
            activity_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        ),
        NUMBERS,
    ),
    "a sum and all penalties": (
        lambda: model(losses.MeanSquaredError(reduction="sum"), kernel_regularizer="l2", activity_regularizer="l2"),
        NUMBERS,
    ),
    "smoothed labels": (lambda: model(losses.CategoricalCrossentropy(label_smoothing=0.2), last="softmax"), ONE_HOT),
    "a sum": (lambda: model(losses.MeanSquaredError(reduction="sum")), NUMBERS),
    "a sum and penalties": (lambda: model(losses.MeanSquaredError(reduction="sum"), kernel_regularizer="l2"), NUMBERS),
    "a softmax inside": (lambda: model("mse", layers.Dense(4), layers.Softmax()), NUMBERS),
    "statistics, and nothing drawn": (lambda: model("mse", layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)), NUMBERS),
}


def evaluated(made, x, y):
    """What is told, and of what: the loss, and whether anything has left its window."""
    asked = SharedEvaluation(msgspec.structs.replace(plan(made), value=True))
    given = {name: encode(number, SCALE) for name, number in zip(asked.plan.shapes, weights(made), strict=True)}
    given |= {"outside": np.zeros(1, np.uint64), "x": encode(x.reshape(EXAMPLES, -1), SCALE), "y": encode(y, SCALE)}
    told = Trainers(asked.circuit(EXAMPLES)).outputs(given)
    return told, asked


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_that_of_evaluate(name):
    build, y = CASES[name]
    made, x = build(), np.random.default_rng(1).normal(size=(EXAMPLES, 4)).astype(np.float32)
    told, asked = evaluated(made, x, y)
    assert not told["outside"].any()
    loss = decode(told["loss"], SCALE**2)[0] / (EXAMPLES * compared(asked.plan.loss, 3))
    np.testing.assert_allclose(loss, made.evaluate(x, y, batch_size=EXAMPLES, verbose=0), atol=0.003)


@pytest.mark.parametrize(("index", "outside"), [(1, False), (2, True), (-1, True)])
def test_an_index_outside_of_a_table_is_told(index, outside):
    made = model("mse", layers.Embedding(2, 3), shape=(2,))
    x = np.zeros((EXAMPLES, 2), np.float32)
    x[3, 1] = index
    assert bool(evaluated(made, x, NUMBERS)[0]["outside"].any()) == outside
