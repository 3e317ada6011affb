"""Private `fit` does what `compile` and its own arguments say, as Keras does it: beside `keras.Model.fit`, with next to no noise."""

import keras
import numpy as np
import pytest
from keras import layers

from privacy import ModelRefused, PrivacyEngine

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(20, 4)).astype(np.float32)
CLASSES = RANDOM.integers(0, 3, 20)


def both(build, x, y, batch=None, **options):
    """The models and what `fit` tells, of Keras and private."""
    plain, hidden = build(), PrivacyEngine("rdp").make_private(build(), noise_multiplier=1e-7, max_grad_norm=100.0)
    told = [model.fit(x, y, batch_size=batch or len(x), verbose=0, **options).history for model in (plain, hidden)]
    return (plain, hidden), told


def same(build, x, y, **options):
    (plain, hidden), told = both(build, x, y, **options)
    for one, other in zip(plain.get_weights(), hidden.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert set(told[0]) == set(told[1])
    for name, values in told[0].items():
        np.testing.assert_allclose(told[1][name], values, rtol=1e-4, err_msg=name)


def small(*, loss="mse", rate=0.1, outputs=3, last=None, shape=(4,), **settings):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input(shape), last or layers.Dense(outputs)])
    model.compile(keras.optimizers.SGD(rate), loss, **{"run_eagerly": True} | settings)
    return model


def crossentropy(**settings):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **settings)


@pytest.mark.parametrize("counted", [5, 2, 1])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_labels_that_the_loss_ignores_are_in_no_mean(counted, reduction):
    x = RANDOM.normal(size=(4, 5, 3)).astype(np.float32)
    y = RANDOM.integers(1, 4, (4, 5))
    y[:, counted:] = 0
    same(lambda: small(loss=crossentropy(ignore_class=0, reduction=reduction), outputs=4, shape=(5, 3)), x, y)


def test_an_example_without_a_label_that_counts_moves_nothing():
    x, y = RANDOM.normal(size=(2, 5, 3)).astype(np.float32), np.zeros((2, 5), int)
    model = PrivacyEngine("rdp").make_private(
        small(loss=crossentropy(ignore_class=0), outputs=4, shape=(5, 3)), noise_multiplier=1e-6, max_grad_norm=1.0
    )
    before = model.get_weights()
    model.fit(x, y, batch_size=2, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


class Held(layers.Layer):
    """Adds a penalty on its weights; inside of a model, or around a layer of Keras'."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

    def call(self, x):
        self.add_loss(10 * keras.ops.sum((self.kernel - 3) ** 2))
        return x @ self.kernel


class Around(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(1)

    def call(self, x):
        y = self.inner(x)
        self.add_loss(keras.ops.sum(self.inner.kernel**2))
        return y


class Pull(layers.Layer):
    def call(self, x):
        self.add_loss(10 * keras.ops.mean((x - 5.0) ** 2))
        return x


@pytest.mark.parametrize("layer", [Held, Around])
def test_losses_of_weights_that_layers_add(layer):
    same(lambda: small(last=layer(), rate=0.01), X, np.zeros((20, 1)), epochs=3)


def test_losses_of_weights_and_a_random_layer():
    """Computing the penalty draws nothing: seeds stand where Keras' stand."""

    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([layers.Input((4,)), layers.Dropout(0.5, seed=1), Held()])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model

    models, _ = both(build, X[:16], np.zeros((16, 1)), epochs=2)
    plain, hidden = (model.layers[0].seed_generator.state.numpy() for model in models)
    np.testing.assert_array_equal(plain, hidden)


@pytest.mark.parametrize("inner", [layers.Activation("linear"), Held()])
def test_losses_of_activations_are_refused_before_anything_runs(inner):
    engine = PrivacyEngine()
    with pytest.raises(ModelRefused, match=r"add_loss \(layer 'pull"):
        engine.make_private(keras.Sequential([layers.Input((4,)), inner, Pull(name="pull")]), noise_multiplier=1.0, max_grad_norm=1.0)
    unbuilt = engine.make_private(keras.Sequential([layers.Dense(1), Pull()]), noise_multiplier=1.0, max_grad_norm=1.0)
    unbuilt.compile("sgd", "mse")
    with pytest.raises(ModelRefused, match="add_loss"):
        unbuilt.fit(X, np.zeros((20, 1)), batch_size=10, verbose=0)
    assert engine.accountant.events == ()


@pytest.mark.parametrize("inputs", [1, 2])
def test_losses_are_found_in_models_of_any_inputs(inputs):
    given = [layers.Input((4,), name="ab"[i]) for i in range(inputs)]
    joined = Pull()(layers.Add()(given) if inputs > 1 else given[0])
    model = keras.Model(dict(zip("ab", given, strict=False)) if inputs > 1 else given, layers.Dense(1)(joined))
    with pytest.raises(ModelRefused, match="add_loss"):
        PrivacyEngine().make_private(model, noise_multiplier=1.0, max_grad_norm=1.0)


@pytest.mark.parametrize("form", ["column", "row", "one-hot"])
def test_weights_of_classes(form):
    y = {"column": CLASSES[:, None], "row": CLASSES, "one-hot": np.eye(3)[CLASSES]}[form]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if form == "one-hot" else crossentropy()
    same(lambda: small(loss=loss, weighted_metrics=["accuracy"]), X, y, class_weight={0: 3.0, 2: 0.5})


def test_a_part_of_the_examples_validates():
    same(lambda: small(loss=crossentropy(), metrics=["accuracy"]), X, CLASSES, batch=15, validation_split=0.25, epochs=2)


def test_a_part_of_weighted_examples_validates():
    weights = RANDOM.uniform(0, 2, 20)
    same(lambda: small(loss=crossentropy()), X, CLASSES, batch=15, validation_split=0.25, sample_weight=weights)


def test_epsilon_is_that_of_the_examples_that_are_trained_on():
    engine = PrivacyEngine("rdp")
    model = engine.make_private(small(loss=crossentropy()), noise_multiplier=1.0, max_grad_norm=1.0)
    model.fit(X, CLASSES, batch_size=5, validation_split=0.5, verbose=0)
    ((one, count),) = engine.accountant.events
    assert one.sampling_probability == 0.5
    assert count == 2


def test_a_sum_over_the_batch_in_parts():
    def build():
        return small(loss=keras.losses.MeanSquaredError(reduction="sum"), rate=0.01)

    y = RANDOM.normal(size=(20, 3))
    plain = build()
    plain.fit(X, y, batch_size=20, verbose=0)
    hidden = PrivacyEngine("rdp").make_private(build(), noise_multiplier=1e-7, max_grad_norm=100.0, max_physical_batch_size=7)
    hidden.fit(X, y, batch_size=20, verbose=0)
    for one, other in zip(plain.get_weights(), hidden.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_mean_over_weights_is_refused_where_there_are_weights():
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = PrivacyEngine().make_private(small(loss=loss), noise_multiplier=1.0, max_grad_norm=1.0)
    with pytest.raises(ModelRefused, match="mean_with_sample_weight"):
        model.fit(X, np.zeros((20, 3)), sample_weight=np.ones(20), batch_size=10, verbose=0)


def test_the_loss_that_is_told_has_each_penalty_once():
    """Also where each example's loss is computed alone."""

    def build():
        keras.utils.set_random_seed(1)
        inputs = layers.Input((4,))
        model = keras.Model(
            inputs, {"a": layers.Dense(1, kernel_regularizer="l2", name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)}
        )
        model.compile(keras.optimizers.SGD(0.1), {"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 1.0})
        return model

    same(build, X, {"a": np.ones((20, 1)), "b": np.zeros((20, 1))})


def test_what_is_compiled_later_is_asked_anew():
    model = PrivacyEngine().make_private(small(), noise_multiplier=1.0, max_grad_norm=1.0)
    y = np.zeros((20, 3))
    model.fit(X, y, batch_size=10, verbose=0)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(reduction="none"))
    with pytest.raises(ModelRefused, match="reduction none"):
        model.fit(X, y, batch_size=10, verbose=0)
