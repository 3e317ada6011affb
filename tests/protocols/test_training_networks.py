"""Convolutional networks trained in the simulator: every gradient against Keras' own, curves, rounds and bytes, what is refused."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError, ProgramError, UnsupportedLayer
from protocols.training.circuit import Builder, Convolve, Given, InputGradient, KernelGradient, Open, Put, Reshape, Sign, Take
from protocols.training.compiled import plan as plan_of
from protocols.training.functions import FRACTION, WINDOW
from protocols.training.layers import AveragePooling2D, MaxPooling2D, ReLU, Signal, same
from protocols.training.preprocessing import StepLayout
from protocols.training.step import step

BATCH = 4


def compiled(shape, *hidden, outputs=3, rate=1.0, momentum=0.0, loss="mse", seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([layers.Input(shape), *hidden, layers.Dense(outputs, bias_initializer="random_normal")])
    model.compile(keras.optimizers.SGD(rate, momentum), loss)
    return model


def examples(model, count=BATCH, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, *model.input_shape[1:])).astype(np.float32)
    x[:, : x.shape[1] // 3] = 0  # equal values: who is the largest, and the gradient of ReLU at 0
    return x, rng.normal(size=(count, model.output_shape[1])).astype(np.float32)


def values_of(model, plan):
    weights = {name: weight.numpy() for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    return weights | {name: np.zeros(shape) for name, shape in plan.states.items()}


def assert_gradients_equal_those_of_keras(model, atol=0.002):
    """A step with rate 1 moves each weight by its gradient."""
    import tensorflow as tf

    plan, (x, y) = plan_of(model), examples(model)
    with tf.GradientTape() as tape:
        loss = keras.losses.MeanSquaredError()(y, model(x))
    gradients = tape.gradient(loss, model.trainable_weights)
    before = values_of(model, plan)
    outputs = Trainers(step(plan, BATCH)).real({**before, "x": x, "y": y})
    for (name, old), expected in zip(before.items(), gradients, strict=True):
        assert np.abs(expected).max() > 0.001, f"a gradient of zero for {name} tests nothing"
        np.testing.assert_allclose(old - outputs[name], expected, rtol=0.004, atol=atol, err_msg=name)  # a rate has 8 bits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [((3, 3), (1, 1)), ((2, 3), (2, 1)), ((5, 4), (3, 2)), ((1, 1), (1, 1)), ((1, 2), (2, 3))])
def test_gradients_of_two_convolutions(size, strides, padding, bias):
    settings = {"strides": strides, "padding": padding, "use_bias": bias}
    first = layers.Conv2D(9, size, activation="relu", **settings)
    second = layers.Conv2D(4, (2, 2), padding=padding, activation="relu")
    assert_gradients_equal_those_of_keras(compiled((9, 8, 2), first, second, layers.Flatten()))


POOLS = {
    "largest": lambda **settings: layers.MaxPooling2D(**settings),
    "mean": lambda **settings: layers.AveragePooling2D(**settings),
}


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize(("size", "strides"), [((2, 2), None), ((3, 3), (2, 2)), ((3, 2), (1, 1)), ((1, 4), None), ((1, 1), (2, 2))])
def test_gradients_through_pooling(kind, size, strides):
    pool = POOLS[kind](pool_size=size, strides=strides)
    second = layers.Conv2D(3, (2, 2), activation="relu")
    assert_gradients_equal_those_of_keras(compiled((8, 10, 2), layers.Conv2D(4, (2, 2)), pool, second, layers.Flatten()))


@pytest.mark.parametrize("shape", [(7, 7, 2), (5, 6, 1)])
@pytest.mark.parametrize(("size", "strides"), [((2, 2), None), ((3, 3), (2, 2)), ((3, 3), (1, 1))])
def test_gradients_through_max_pooling_that_reaches_over_the_edge(shape, size, strides):
    """Padding is never the largest, also where all values are negative."""
    pool = layers.MaxPooling2D(size, strides, padding="same")
    negative = keras.initializers.Constant(-3.0)
    first = layers.Conv2D(3, (2, 2), bias_initializer=negative)
    assert_gradients_equal_those_of_keras(compiled(shape, first, pool, layers.Flatten()), atol=0.01)


@pytest.mark.parametrize(
    "hidden",
    [
        lambda: [layers.Conv2D(4, 3), layers.ReLU(), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(5, "relu")],
        lambda: [layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.Activation("relu"), layers.GlobalAveragePooling2D()],
        lambda: [layers.MaxPooling2D(), layers.Conv2D(4, 2, activation="relu"), layers.AveragePooling2D(2), layers.Flatten()],
        lambda: [layers.AveragePooling2D(3), layers.Conv2D(5, 2), layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()],
        lambda: [layers.ReLU(), layers.AveragePooling2D(2), layers.AveragePooling2D(3), layers.Flatten(), layers.Dense(4), layers.ReLU()],
        lambda: [layers.Conv2D(4, 3), layers.AveragePooling2D(3), layers.ReLU(), layers.MaxPooling2D(2, 1), layers.Flatten()],
        lambda: [layers.Conv2D(4, 3, activation="relu"), layers.AveragePooling2D(2), layers.MaxPooling2D(), layers.Flatten()],
    ],
)
def test_gradients_of_chains(hidden):
    assert_gradients_equal_those_of_keras(compiled((10, 10, 2), *hidden()))


@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate])  # a value within a rounding of 0 may go the other way
@given(st.data())
def test_gradients_of_any_chain(data):
    draw = data.draw
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    hidden = []
    for _ in range(draw(st.integers(1, 2))):
        hidden.append(layers.Conv2D(draw(st.integers(1, 9)), draw(pair), draw(pair), padding=draw(st.sampled_from(["same", "valid"]))))
        hidden += [layers.ReLU()] * draw(st.booleans())
        hidden += [layers.MaxPooling2D(draw(pair), draw(pair), padding="same")] * draw(st.booleans())
    shape = (*draw(st.tuples(st.integers(9, 12), st.integers(9, 12))), draw(st.integers(1, 3)))
    try:
        model = compiled(shape, *hidden, layers.Flatten(), seed=draw(st.integers(0, 99)))
    except ValueError:  # the image is used up
        return
    plan, (x, y) = plan_of(model), examples(model)
    before = values_of(model, plan)
    outputs = Trainers(step(plan, BATCH)).real({**before, "x": x, "y": y})
    model.train_on_batch(x, y)
    for (name, _), weight in zip(before.items(), model.trainable_weights, strict=True):
        np.testing.assert_allclose(outputs[name], weight.numpy(), rtol=0.01, atol=0.01, err_msg=name)
