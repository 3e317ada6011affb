"""Models in which the examples of a batch reach each other are refused by the name of the layer, before anything runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from privacy import ModelRefused, PrivacyEngine
from privacy.models.recording import safe_units
from privacy.trials.mixing import mixing, mixing_back


class Own(layers.Layer):
    """A layer of one's own that computes a function."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x, training=None):
        return self.function(x, training)


class Normalised(layers.Layer):
    """BatchNormalization by hand."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return self.gamma * (x - ops.mean(x, 0)) / (ops.std(x, 0) + 1e-3)


@tf.custom_gradient
def normalised_back(x):
    return x + 0.0, lambda g: g / (tf.norm(g) + 1e-9)


def size(x):
    return ops.cast(ops.shape(x)[0], "float32")


def across(x):
    """Attention over the examples, position by position."""
    scores = ops.softmax(ops.einsum("btd,ctd->tbc", x, x), -1)
    return ops.einsum("tbc,ctd->btd", scores, x)


OTHERS, COUNT, PLACE = "depends on the others of its batch", "depends on how many examples there are", "depends on its place in the batch"
MIXING = {
    "mean": (lambda x, t: x - ops.mean(x, axis=0), OTHERS),
    "mean in training": (lambda x, t: x - ops.mean(x, axis=0) if t else x, OTHERS),
    "running sum": (lambda x, t: ops.cumsum(x, axis=0), OTHERS),
    "the one before": (lambda x, t: ops.concatenate([x[:1], x[:-1]], 0), OTHERS),
    "the one behind": (lambda x, t: ops.roll(x, -1, axis=0), OTHERS),
    "largest": (lambda x, t: x / ops.max(ops.abs(x)), OTHERS),
    "attention": (lambda x, t: ops.reshape(across(ops.reshape(x, (-1, 2, 2))), (-1, 4)), OTHERS),
    "a sample of very loud ones": (lambda x, t: ops.maximum(x, ops.max(x) - 80.0), OTHERS),
    "size": (lambda x, t: x / size(x), COUNT),
    "size in training": (lambda x, t: x / size(x) if t else x, COUNT),
    "place": (lambda x, t: x + ops.cast(ops.arange(ops.shape(x)[0]), "float32")[:, None], PLACE),
}


def sequential(*between, shape=(4,)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input(shape), layers.Dense(4), *between, layers.Dense(3)])


def specs(model):
    return tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("name", MIXING)
def test_examples_that_reach_each_other(name, drops):
    function, what = MIXING[name]
    model = sequential(*([layers.Dropout(0.5)] if drops else []), Own(function, name="mixer"))
    (found,) = mixing(model, specs(model))
    assert found.reason == f"the output for one example {what}"
    assert found.path == (model.name if what is PLACE else "mixer (Own)")


def by_operation():
    given = layers.Input((4,))
    hidden = layers.Dense(4)(given)
    return keras.Model(given, layers.Dense(3)(hidden - ops.mean(hidden, axis=0, keepdims=True)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.first, self.drop, self.last = layers.Dense(4), layers.Dropout(0.3), layers.Dense(3)

    def call(self, x, training=None):
        return self.last(ops.cumsum(self.drop(self.first(x), training=training), axis=0))


NAMED = {
    "an operation": (by_operation, r"mean \(Mean\): the output for one example"),
    "a model of one's own": (Subclassed, "mine: the output for one example"),
    "Lambda": (lambda: sequential(layers.Lambda(lambda x: ops.cumsum(x, axis=0), name="sums")), r"sums \(Lambda\)"),
    "by hand": (lambda: sequential(Normalised(name="norm")), r"norm \(Normalised\)"),
    "a layer of Keras along the batch": (lambda: sequential(layers.UnitNormalization(axis=0, name="unit")), r"unit \(UnitNormalization\)"),
    "on the way back": (lambda: sequential(Own(lambda x, t: normalised_back(x))), "the gradient of the loss of one example .*way back"),
    "on the way back, at random": (
        lambda: sequential(layers.Dropout(0.5), Own(lambda x, t: normalised_back(x))),
        "the gradient of the loss of one example .*way back",
    ),
    "another axis": (lambda: sequential(Own(lambda x, t: ops.reshape(x, (-1, 2)))), r"2 examples have an output of shape \(4, 3\)"),
}


@pytest.mark.parametrize("name", NAMED)
def test_it_is_refused_by_name_before_anything_runs(name):
    build, message = NAMED[name]
    engine = PrivacyEngine("rdp")
    model = engine.make_private(build(), noise_multiplier=1.0, max_grad_norm=1.0)
    model.compile("sgd", "mse")
    with pytest.raises(ModelRefused, match=message):
        model.fit(np.ones((8, 4), np.float32), np.ones((8, 3), np.float32), batch_size=4, verbose=0)
    assert engine.accountant.events == ()


class OwnDense(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))

    def call(self, x):
        return ops.tanh(ops.matmul(x, self.w))


class AlwaysNoisy(layers.Layer):
    """Draws outside of training, too."""

    def build(self, shape):
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seeds)


HARMLESS = {
    "own": lambda: sequential(OwnDense()),
    "own and random": lambda: sequential(layers.Dropout(0.5), OwnDense(), layers.GaussianNoise(0.1)),
    "random without training": lambda: sequential(AlwaysNoisy(), OwnDense()),
    "quantised": lambda: sequential(Own(lambda x, t: x + ops.stop_gradient(ops.round(x) - x))),
    "own gradient": lambda: sequential(Own(lambda x, t: tf.nn.silu(x))),
    "largest of each": lambda: sequential(Own(lambda x, t: x / (1e-3 + ops.max(ops.abs(x), axis=-1, keepdims=True)))),
    "not finite": lambda: sequential(Own(lambda x, t: ops.exp(50.0 * x))),
    "operation": lambda: keras.Model(given := layers.Input((4,)), layers.Dense(3)(ops.tanh(given) * 2.0)),
    "words": lambda: keras.Sequential(
        [layers.Input((6,), dtype="int32"), layers.Embedding(9, 4, mask_zero=True), Own(lambda x, t: x), layers.LSTM(3)]
    ),
    "words as floats": lambda: keras.Sequential([layers.Input((6,)), layers.Embedding(2, 4), Own(lambda x, t: x), layers.Flatten()]),
    "augmentation": lambda: keras.Sequential(
        [layers.Input((8, 8, 3)), layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomContrast(0.2), layers.Conv2D(2, 3)]
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.filterwarnings("ignore:Layer .* does not support masking:UserWarning")
@pytest.mark.sample(4)
def test_what_leaves_examples_apart_passes(name):
    model = HARMLESS[name]()
    state = [np.array(variable) for variable in model.non_trainable_variables]
    assert mixing(model, specs(model)) == ()
    assert mixing_back(model, safe_units(model, specs(model)), specs(model)) == ()
    assert all(np.array_equal(a, b) for a, b in zip(state, model.non_trainable_variables, strict=True))


def test_decibels_below_the_loudest_of_the_batch():
    """MelSpectrogram cuts each example off at 80 dB below the loudest value of all of them."""
    spectrogram = layers.MelSpectrogram(fft_length=128, sequence_stride=128, num_mel_bins=4)
    model = keras.Sequential([layers.Input((512,)), spectrogram, layers.Flatten(), layers.Dense(3)])
    (found,) = mixing(model, specs(model))
    assert found.path.endswith("(MelSpectrogram)")
