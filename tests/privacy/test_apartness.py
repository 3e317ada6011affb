"""Models of somebody who wants examples to be mixed: one example moves the sum by no more than one may, whatever the model is."""

import keras
import numpy as np
import pytest

from privacy import ModelRefused, PrivacyEngine
from privacy.models.apartness import unknown

N = 64


def activation(name):
    """Not one of Keras' activations; a blueprint may have any function of keras.ops."""
    config = {"name": "a", "activation": {"module": "keras.ops", "class_name": "function", "config": name, "registered_name": name}}
    plan = {"module": "keras.layers", "class_name": "Activation", "config": config, "registered_name": None}
    return keras.saving.deserialize_keras_object(plan, safe_mode=True)


MIXING = {
    "sum": lambda h: h * 0 + keras.ops.sum(h, axis=0, keepdims=True),
    "roll": lambda h: keras.ops.roll(h, 1, axis=0),
    "flip": lambda h: activation("flip")(h),
    "softmax": lambda h: keras.layers.Softmax(axis=0)(h),
    "unit": lambda h: keras.layers.UnitNormalization(axis=0)(h),
}


def gated(mixing):
    """Examples are mixed where a value is above 5000, which no made-up example has."""
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    above = keras.layers.ReLU(threshold=5000.0)(given)
    model = keras.Model(given, keras.layers.Dense(6, use_bias=False)(keras.layers.Add()([given, mixing(above)])))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model


def moved(model, x, y, **options):
    """The sum of the clipped gradients of all examples."""
    before = [0.001 * np.ones_like(array) for array in model.get_weights()]
    model.set_weights(before)
    PrivacyEngine("rdp").make_private(model, noise_multiplier=1e-6, max_grad_norm=1.0, **options)
    model.fit(x, y, batch_size=len(x), steps_per_epoch=1, verbose=0)
    return np.concatenate([((a - b) * len(x)).reshape(-1) for a, b in zip(model.get_weights(), before, strict=True)])


@pytest.mark.parametrize("name", ["sum", "flip"])
def test_examples_that_mix_only_where_no_trial_shows_it(name):
    x, y = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32), np.ones((N, 6), np.float32)
    other = x.copy()
    other[0] = [1e4, 0, 0, 0, 0, 0]
    found = [moved(gated(MIXING[name]), one, y, foreign=True) for one in (x, other)]
    assert np.linalg.norm(found[0] - found[1]) < 2.01


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_is_not_known_to_leave_examples_apart(name):
    assert unknown(gated(MIXING[name])) is not None


def usual():
    layers = keras.layers
    image, words = keras.Input((8, 8, 1)), keras.Input((5,), dtype="int32")
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    h = h + layers.Conv2D(4, 3, padding="same")(layers.GroupNormalization(2)(h))
    yield keras.Model(image, layers.Dense(2, activation="softmax")(layers.Dropout(0.1)(layers.Flatten()(layers.MaxPooling2D()(h)))))
    e = layers.Embedding(9, 4)(words)
    e = layers.LayerNormalization()(layers.Add()([e, layers.MultiHeadAttention(2, 2)(e, e)]))
    yield keras.Model(words, layers.Dense(2)(layers.Bidirectional(layers.LSTM(3))(e)))
    yield keras.Sequential([keras.Input((4,)), layers.Rescaling(0.5), layers.Dense(3, "gelu"), layers.Softmax()])


@pytest.mark.parametrize("number", range(3))
def test_usual_models_are_known(number):
    assert unknown(list(usual())[number]) is None


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(("labels", "width", "refused"), [((N,), 1, True), ((N, 1), 1, False), ((N, 1), 3, True)])
@pytest.mark.sample(4)
def test_targets_with_fewer_axes_than_outputs_are_not_repeated_along_the_examples(labels, width, refused, foreign):
    """Targets (B,) and outputs (B, 1, 1): NumPy's rules make (B, 1, B) of both, in which each loss is over the targets of all."""
    x, y = np.abs(np.random.default_rng(0).normal(size=(N, 1, 6))).astype(np.float32) + 1, np.zeros(labels, np.float32)
    other = y.copy()
    other[0] = 1e4

    def model():
        made = keras.Sequential([keras.Input((1, 6)), keras.layers.Dense(width, use_bias=False)])
        made.compile(keras.optimizers.SGD(1.0), "mse")
        return made

    if refused:
        with pytest.raises(ModelRefused, match=r"its loss \(mse\) cannot be private: .*made-up examples"):
            moved(model(), x, y, foreign=foreign)
        return
    found = [moved(model(), x, one, foreign=foreign) for one in (y, other)]
    assert np.linalg.norm(found[0] - found[1]) < 2.01
