"""No setting of Keras' own classes is said to differ between a model and its copy: every optimizer, loss, metric and schedule."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import layers, losses, metrics, optimizers

from privacy.keras_models.settings import differences

S = optimizers.schedules


def model(*within, optimizer="sgd", loss="mse", shape=(4,), **more):
    built = keras.Sequential([layers.Input(shape), *within])
    built.compile(optimizer, loss, **more)
    return built


def copied(built):
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(built))))
    again.compile_from_config(json.loads(json.dumps(built.get_compile_config())))
    again.optimizer.build(again.trainable_variables)
    return again


def classes(module, base, but=()):
    found = {one.__name__: one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, base) and one is not base}
    return [one for name, one in sorted(found.items()) if name not in but]


OPTIMIZERS = classes(optimizers, optimizers.Optimizer, ("LossScaleOptimizer", "MultiOptimizer"))


@pytest.mark.parametrize("fitted", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
@pytest.mark.sample(10)
def test_optimizers(kind, fitted):
    built = model(layers.Dense(2), optimizer=kind(learning_rate=0.1))
    if fitted:
        built.train_on_batch(np.ones((4, 4)), np.ones((4, 2)))
    assert list(differences(built, copied(built))) == []
    built.optimizer.ema_momentum = 0.25
    again = copied(built)
    again.optimizer.ema_momentum = 0.5
    assert [(one.what, one.here, one.there) for one in differences(built, again)] == [("ema_momentum", "0.25", "0.5")]


@pytest.mark.parametrize("kind", classes(losses, losses.Loss), ids=lambda kind: kind.__name__)
def test_losses(kind):
    built = model(layers.Dense(2), loss=kind())
    assert list(differences(built, copied(built))) == []
    built.loss.reduction = "sum"
    again = copied(built)
    built.loss.reduction = None
    (found,) = differences(built, again)
    assert (found.what, found.here, found.there) == ("reduction", "None", "'sum'")


ARGUMENTS = {
    "IoU": (2, [0]),
    "MeanIoU": (2,),
    "OneHotIoU": (2, [0]),
    "OneHotMeanIoU": (2,),
    "PrecisionAtRecall": (0.5,),
    "RecallAtPrecision": (0.5,),
    "SensitivityAtSpecificity": (0.5,),
    "SpecificityAtSensitivity": (0.5,),
    "MeanMetricWrapper": (losses.mean_squared_error,),
}


@pytest.mark.parametrize("kind", classes(metrics, metrics.Metric), ids=lambda kind: kind.__name__)
def test_metrics(kind):
    built = model(layers.Dense(2), metrics=[kind(*ARGUMENTS.get(kind.__name__, ()))])
    assert list(differences(built, copied(built))) == []


SCHEDULES = [
    S.ExponentialDecay(0.1, 2, 0.5),
    S.CosineDecay(0.1, 10),
    S.CosineDecayRestarts(0.1, 4),
    S.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3]),
    S.PolynomialDecay(0.1, 5),
    S.InverseTimeDecay(0.1, 2, 0.3),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_schedules(schedule):
    built = model(layers.Dense(2), optimizer=optimizers.Adam(schedule))
    again = copied(built)
    assert list(differences(built, again)) == []
    name = "values" if hasattr(schedule, "values") else "initial_learning_rate"
    again.optimizer._learning_rate.__dict__[name] = [0.1, 0.2, 0.4] if name == "values" else 7.0
    (found,) = differences(built, again)
    assert found.what == name


SEQUENCES = [
    lambda: layers.LSTM(3, dropout=0.2, kernel_regularizer="l2"),
    lambda: layers.Bidirectional(layers.GRU(3)),
    lambda: layers.TimeDistributed(layers.Dense(3, activation="relu", kernel_constraint="max_norm")),
    lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
    lambda: layers.ConvLSTM1D(2, 1),
    lambda: layers.Conv1D(3, 2, activity_regularizer="l1"),
    lambda: layers.SpectralNormalization(layers.Dense(3)),
    lambda: layers.GroupNormalization(2),
    lambda: layers.BatchNormalization(),
    lambda: layers.SpatialDropout1D(0.2),
    lambda: layers.GaussianNoise(0.2),
    lambda: layers.Masking(0.5),
]


@pytest.mark.parametrize("number", range(len(SEQUENCES)))
@pytest.mark.sample(5)
def test_layers(number):
    layer = SEQUENCES[number]()
    built = model(layer, shape=(5, 2) if isinstance(layer, layers.ConvLSTM1D) is False else (3, 5, 2))
    assert list(differences(built, copied(built))) == []
    built.predict(np.ones((2, *built.input_shape[1:])), verbose=0)
    assert list(differences(built, copied(built))) == []


def test_weights_that_are_shared_by_hand():
    built = model(layers.Dense(4, use_bias=False), layers.Dense(4, use_bias=False))
    again = copied(built)
    vars(built.layers[0])["_kernel"], vars(built.layers[1])["_kernel"] = (built.layers[i]._kernel for i in (1, 0))
    assert list(differences(built, again)) == []  # private names of Keras' own are its own business


@pytest.mark.parametrize(
    ("here", "there", "differs"),
    [
        (1, 1.0, False),
        ((1, 2), [1, 2], False),
        (0.1, float(np.float32(0.1)), False),
        (float("nan"), float("nan"), False),
        ({"a": (1,)}, {"a": [1.0]}, False),
        ({1: 2}, {"1": 2}, False),
        (np.ones(3), [1, 1, 1], False),
        (None, 0, True),
        (True, False, True),
        (1.0, 1.001, True),
        ("a", "b", True),
        ([1, 2], [1, 2, 3], True),
        ({"a": 1}, {"b": 1}, True),
        ({1, 2}, {1, 3}, True),
        (np.ones(3), np.zeros(3), True),
        (np.ones(3), np.ones((3, 1)), True),
        ([np.ones(2), "a"], [np.ones(2), "b"], True),
        (keras.regularizers.L2(0.1), keras.regularizers.L2(0.2), True),
        (keras.regularizers.L2(0.1), None, True),
        (keras.regularizers.L2(0.1), keras.regularizers.L1(0.1), True),
    ],
)
def test_values(here, there, differs):
    built = model(layers.Dense(2))
    again = copied(built)
    built.layers[0].said, again.layers[0].said = here, there
    assert bool(list(differences(built, again))) is differs
