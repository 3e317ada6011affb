"""What a private training does not do is said by name, at `make_private` where nothing more needs to be known."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from gradient_oracle import clipped_sum, each_gradient, flat_weights
from privacy import ModelRefused, PrivacyEngine, SamplingRefused, SettingError

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(8, 3)).astype(np.float32), np.zeros((8, 1), np.float32)


def small():
    return keras.Sequential([layers.Input((3,)), layers.Dense(1)])


def private(model, z=1.0, clip=1.0, engine=None):
    (engine or PrivacyEngine("rdp")).make_private(model, noise_multiplier=z, max_grad_norm=clip)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend(backend, monkeypatch):
    model = small()
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    with pytest.raises(ModelRefused, match=f"it runs on {backend}; set KERAS_BACKEND=tensorflow"):
        private(model)


def test_a_strategy_of_several_devices():
    scope, plain = tf.distribute.MirroredStrategy(["/cpu:0"]).scope, private(small())
    with scope():
        model = small()
        with pytest.raises(ModelRefused, match="belongs to a strategy of"):
            private(small())
        with pytest.raises(ModelRefused, match="belongs to a strategy of"):
            plain.fit(X, Y, batch_size=4, verbose=0)
    with pytest.raises(ModelRefused, match="outside of the strategy's scope"):
        private(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_grad_norm": lambda step: 1.0}, "max_grad_norm is of type function: a number above 0"),
        ({"max_grad_norm": [1.0]}, "max_grad_norm is of type list"),
        ({"max_grad_norm": True}, "max_grad_norm is True"),
        ({"noise_multiplier": "1"}, "noise_multiplier is '1'"),
        ({"max_physical_batch_size": 2.5}, "max_physical_batch_size is 2.5: a whole number above 0"),
    ],
)
def test_settings_that_are_no_numbers(options, message):
    with pytest.raises(SettingError, match=message):
        PrivacyEngine().make_private(small(), **{"noise_multiplier": 1.0, "max_grad_norm": 1.0, **options})


def test_numbers_of_numpy_are_numbers():
    PrivacyEngine().make_private(small(), noise_multiplier=np.float32(1.0), max_grad_norm=np.int64(1), max_physical_batch_size=np.int32(2))


def test_the_noise_that_was_calibrated_can_be_read():
    engine = PrivacyEngine("rdp")
    plan = {"target_epsilon": 2.0, "target_delta": 1e-5, "epochs": 1, "batch_size": 4, "examples": 8, "max_grad_norm": 1.0}
    model = engine.make_private_with_epsilon(small(), **plan)
    model.compile("sgd", "mse")
    z = engine.noise_multiplier(model)
    model.fit(X, Y, verbose=0)
    assert {one.event.noise_multiplier for one, _ in engine.accountant.events} == {z}
    falling = private(small(), lambda step: 4.0 - step, engine=engine)
    falling.fit(X, Y, batch_size=4, verbose=0)
    assert engine.noise_multiplier(falling) == 2.0
    with pytest.raises(SettingError, match="not made private by this engine"):
        engine.noise_multiplier(small())


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (keras.callbacks.TerminateOnNaN(), "TerminateOnNaN ends the training by"),
        (keras.callbacks.ModelCheckpoint("{epoch}-{loss:.5f}.keras"), "names of files"),
        (keras.callbacks.ModelCheckpoint("{accuracy}.weights.h5", save_weights_only=True), "names of files"),
    ],
)
def test_callbacks_that_let_training_metrics_out(callback, message):
    engine = PrivacyEngine("rdp")
    with pytest.raises(ModelRefused, match=message):
        private(small(), engine=engine).fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    assert engine.accountant.events == ()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, as it saves
def test_checkpoints_named_by_epoch_and_validation(tmp_path):
    callback = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}.keras")
    private(small()).fit(X, Y, batch_size=4, verbose=0, validation_data=(X, Y), callbacks=[callback])
    assert len(list(tmp_path.glob("01-*.keras"))) == 1


def test_weights_of_classes_need_one_class_an_example():
    """Keras raises a TypeError for a class at each step; the first must not stand for all."""
    model = private(keras.Sequential([layers.Input((3,)), layers.Reshape((3, 1)), layers.Dense(1)]))
    with pytest.raises(SamplingRefused, match=r"targets of shape \(8, 3, 1\): one class an example"):
        model.fit(X, RANDOM.integers(0, 2, (8, 3, 1)), class_weight={0: 1.0, 1: 5.0}, batch_size=4, verbose=0)


WORDS = np.array([["a", "b"], ["b", "b"], ["c", "a"], ["a", "a"]])
LOOKUPS = {
    "IntegerLookup": (lambda: layers.IntegerLookup(vocabulary=[1, 2]), np.array([[1, 2], [2, 2], [7, 1], [1, 1]])),
    "Hashing": (lambda: layers.Hashing(5), np.array([[1, 2], [2, 2], [7, 1], [1, 1]])),
    "StringLookup": (lambda: layers.StringLookup(vocabulary=["a", "b"]), WORDS),
    "TextVectorization": (
        lambda: layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=2),
        np.array([[" ".join(row)] for row in WORDS], dtype=object),
    ),
}


@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.sample(2)
def test_layers_that_look_something_up_train_as_on_what_they_found(name):
    """They have no weights and compute no numbers that could be clipped."""
    build, x = LOOKUPS[name]
    keras.utils.set_random_seed(0)
    lookup = build()
    rest = keras.Sequential([layers.Input((2,), dtype="int64"), layers.Embedding(5, 2), layers.Flatten(), layers.Dense(1)])
    model = keras.Sequential([layers.Input(x.shape[1:], dtype="string" if x.dtype.kind in "UO" else "int64"), lookup, *rest.layers])
    y, found = np.arange(4.0)[:, None], np.array(lookup(tf.constant(x)))
    rest.compile("sgd", "mse")
    wanted = clipped_sum(each_gradient(rest, found, y), 0.3)
    before = flat_weights(model)
    private(model, 1e-7, 0.3).fit(x, y, batch_size=4, verbose=0)
    np.testing.assert_allclose((before - flat_weights(model)) * 4, wanted, atol=1e-5)
