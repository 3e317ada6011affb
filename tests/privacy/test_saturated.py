"""Probabilities that are 0 or 1 in float32: crossentropies of Keras take the logits behind them, and so does a private step.

Of a probability they take log(p) with p bounded away from 0 and 1, where an example that is wrong for certain has no gradient.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses

from gradient_oracle import clipped_sum, flat_weights
from privacy import PrivacyEngine

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * np.array([1, 1, 1, 600], np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
SIGNS = (LABELS % 2).astype(np.float32)[:, None]
SPARSE, BINARY = "sparse_categorical_crossentropy", "binary_crossentropy"


class OwnSoftmax(layers.Layer):
    """A layer without a rule that ends in a softmax, of Keras or of TensorFlow."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return self.function(x @ self.w)


def sequential(*inner, activation="softmax", outputs=3):
    return keras.Sequential([layers.Input((4,)), *inner, layers.Dense(outputs, activation=activation)])


def two():
    given = layers.Input((4,))
    return keras.Model(given, [layers.Dense(3, "softmax", name="a")(given), layers.Dense(1, "sigmoid", name="b")(given)])


def half_frozen():
    model = sequential()
    model.layers[-1].bias.trainable = False
    return model


CASES = {
    "weighed loss": (sequential, SPARSE, LABELS, {"loss_weights": 1.5}),
    "weighed loss of signs": (lambda: sequential(activation="sigmoid", outputs=1), BINARY, SIGNS, {"loss_weights": 1.5}),
    "own loss": (sequential, lambda y, p: losses.sparse_categorical_crossentropy(y, p), LABELS, {}),
    "two outputs": (two, [SPARSE, BINARY], [LABELS, SIGNS], {}),
    "own layer": (lambda: keras.Sequential([layers.Input((4,)), OwnSoftmax(keras.activations.softmax)]), SPARSE, LABELS, {}),
    "own layer of TensorFlow": (lambda: keras.Sequential([layers.Input((4,)), OwnSoftmax(tf.nn.softmax)]), SPARSE, LABELS, {}),
    "frozen bias": (half_frozen, SPARSE, LABELS, {}),
    "somebody else's": (lambda: sequential(layers.Lambda(lambda x: x)), SPARSE, LABELS, {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(6)
def test_examples_that_are_wrong_for_certain_have_their_gradient(name):
    build, loss, y, settings = CASES[name]
    keras.utils.set_random_seed(1)
    model = build()
    PrivacyEngine("rdp").make_private(model, noise_multiplier=1e-7, max_grad_norm=1.0, foreign=name == "somebody else's")
    model.compile(keras.optimizers.SGD(1.0), loss, **settings)
    loss_of(model, X, y)  # makes the metrics of the losses
    told, gradients = tf.function(lambda: (loss_of(model, X, y), [each(model, y, i) for i in range(len(X))]), autograph=False)()
    gradients = np.stack([np.concatenate([np.reshape(part, -1) for part in one]) for one in gradients])
    assert (np.linalg.norm(gradients, axis=1) > 10).sum() >= 2  # which a bounded probability would make 0
    before, whole = flat_weights(model), float(told)
    told = model.fit(X, y, batch_size=len(X), verbose=0).history
    np.testing.assert_allclose((before - flat_weights(model)) * len(X), clipped_sum(gradients, 1.0), atol=1e-5)
    assert told["loss"][0] == pytest.approx(whole, rel=1e-5)
    if name == "two outputs":
        assert told["a_loss"][0] + told["b_loss"][0] == pytest.approx(whole, rel=1e-5)


def loss_of(model, x, y):
    """Of Keras; in a graph, as it trains, the softmax of TensorFlow is seen through as well."""
    return model.compute_loss(x=x, y=y, y_pred=model(x, training=True), training=True)


def each(model, y, i):
    with tf.GradientTape() as tape:
        loss = loss_of(model, X[i : i + 1], tf.nest.map_structure(lambda array: array[i : i + 1], y))
        values = [variable.value for variable in model.trainable_variables]
    return tape.gradient(loss, values, unconnected_gradients="zero")
