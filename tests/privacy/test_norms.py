"""One example adds at most C, at every magnitude of its inputs: norms are never below the true ones, though float32 cancels."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from privacy.clipping import FlatClipping
from privacy.models.recording import units
from privacy.rules.embedding import Rows
from privacy.rules.gradients import Ghost, Outer, squares
from privacy.step import PrivateStep

layers = keras.layers
POSITIONS, WIDTH, CLIP = 4, 64, 1.0
MAGNITUDES = [1.0, 1e2, 1e3, 1e4, 1e5, 1e6]


def moved(model, x, y):
    """The norm of what one example adds to a sum, before noise."""
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.optimizer.build(model.trainable_variables)
    step = PrivateStep(model, units(model), clipping=FlatClipping(), batch=None, eager=True)
    sums, _, _ = step._clipped((tf.constant(x), tf.constant(y)), tf.constant(len(x)), tf.constant(CLIP))
    return math.sqrt(sum(float(np.vdot(one, one)) for one in (np.asarray(part, np.float64) for part in sums)))


def cancelling(magnitude, seed):
    """Positions that nearly add up to zero."""
    random = np.random.default_rng(seed)
    v, w, u = random.normal(size=(3, WIDTH))
    return np.stack([magnitude * v, -magnitude * v, magnitude * w, -magnitude * w + u]).astype(np.float32)[None]


def over_positions(layer, shape=(POSITIONS, WIDTH)):
    """The layer, whose outputs are added up, so that the gradient is the same at every position."""
    x = keras.Input(shape)
    y = layer(x)
    return keras.Model(x, layers.Dense(1, use_bias=False, trainable=False)(keras.ops.mean(y, list(range(1, len(y.shape) - 1)))))


LAYERS = {
    "Dense": lambda: over_positions(layers.Dense(WIDTH, use_bias=False)),
    "Dense with a bias": lambda: over_positions(layers.Dense(WIDTH)),
    "Conv1D": lambda: over_positions(layers.Conv1D(WIDTH, 1, use_bias=False)),
    "Conv2D": lambda: over_positions(layers.Conv2D(WIDTH, 1), (2, 2, WIDTH)),
    "EinsumDense": lambda: over_positions(layers.EinsumDense("abc,cde->abde", output_shape=(None, 8, 8))),
    "SimpleRNN": lambda: over_positions(layers.SimpleRNN(WIDTH, activation=None, return_sequences=True)),
    "GRU": lambda: over_positions(layers.GRU(WIDTH, return_sequences=True)),
    "LSTM": lambda: over_positions(layers.LSTM(WIDTH, return_sequences=True)),
}


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.sample(8)
def test_one_example_adds_at_most_its_clip_norm(name, magnitude):
    keras.utils.set_random_seed(0)
    model = LAYERS[name]()
    worst = 0.0
    for seed in range(5):
        x = cancelling(magnitude, seed).reshape(1, *model.input_shape[1:])
        for target in (-magnitude, -1.0):
            worst = max(worst, moved(model, x, np.array([[target]], np.float32)))
    assert worst <= CLIP * (1 + 1e-3)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_one_example_of_an_embedding_adds_at_most_its_clip_norm(magnitude):
    """The same index at all positions, with gradients that nearly add up to zero."""
    worst = 0.0
    for seed in range(5):
        x = keras.Input((POSITIONS,), dtype="int64")
        last = layers.Dense(1, use_bias=False, trainable=False)
        model = keras.Model(x, last(layers.Flatten()(layers.Embedding(7, WIDTH)(x))))
        last.kernel.assign(cancelling(magnitude, seed).reshape(-1, 1))
        worst = max(worst, moved(model, np.full((1, POSITIONS), 3), np.array([[-magnitude]], np.float32)))
    assert worst <= CLIP * (1 + 1e-3)


def at_least(found, true):
    """Not below by more than a millionth; what is not finite is left out of every sum, and norms below 10^-15 are never clipped."""
    found = found.numpy().astype(np.float64)
    return (~np.isfinite(found) | (true < 1e-30) | (found >= true * (1 - 1e-6))).all()


def truth(x, dz):
    """||sum_t x_t^T dz_t||^2 in float64."""
    g = np.einsum("btk,bto->bko", x.astype(np.float64), dz.astype(np.float64))
    return (g**2).sum((1, 2))


def arrays(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 40), st.integers(1, 40), st.floats(-18, 18), st.floats(-18, 18))
def test_a_norm_is_never_below_the_true_one(seed, positions, width, outputs, x_scale, dz_scale):
    """Of positions that cancel, also where products are too small or too large for float32."""
    half = arrays(seed, 3, positions, width) * np.float32(10**x_scale)
    x = np.concatenate([half, -half + arrays(seed + 1, 3, positions, width) * np.float32(10 ** (x_scale - 6))], 1)
    row = arrays(seed + 2, 3, 1, outputs) * np.float32(10**dz_scale)
    dz = np.repeat(row, 2 * positions, 1)
    for bias in (False, True):
        true = truth(x, dz) + bias * (dz.astype(np.float64).sum(1) ** 2).sum(1)
        assert at_least(Ghost(tf.constant(x), tf.constant(dz), bias=bias).squared_norms(), true)
    rows = Rows(tf.zeros((3, 2 * positions), tf.int32), tf.constant(x), 5)
    assert at_least(rows.squared_norms(), (x.astype(np.float64).sum(1) ** 2).sum(1))
    outer = Outer(tf.constant(x[:, 0]), tf.constant(dz[:, 0]), bias=True)
    true = (dz[:, 0].astype(np.float64) ** 2).sum(1) * ((x[:, 0].astype(np.float64) ** 2).sum(1) + 1)
    assert at_least(outer.squared_norms(), true)


@pytest.mark.parametrize("sizes", [(4, 64, 64), (16, 128, 256), (32, 256, 256)], ids=str)
def test_data_of_usual_size_is_clipped_as_before(sizes):
    """What is added for rounding is at most a thousandth of the norm."""
    positions, width, outputs = sizes
    x, dz = arrays(0, 5, positions, width), arrays(1, 5, positions, outputs)
    found = np.sqrt(Ghost(tf.constant(x), tf.constant(dz), bias=False).squared_norms().numpy())
    np.testing.assert_allclose(found, np.sqrt(truth(x, dz)), rtol=1e-3)
    indices = np.random.default_rng(2).integers(0, 9, (5, positions))
    table = np.zeros((5, 9, outputs))
    for i in range(5):
        np.add.at(table[i], indices[i], dz[i].astype(np.float64))
    rows = Rows(tf.constant(indices, tf.int32), tf.constant(dz), 9).squared_norms().numpy()
    np.testing.assert_allclose(np.sqrt(rows), np.sqrt((table**2).sum((1, 2))), rtol=1e-3)


def test_long_sums_of_squares_do_not_stop_growing():
    """Float32 counts to 2^24 one by one: longer sums have to be made of parts."""
    assert float(squares(tf.ones((1, 1 << 25)))[0]) == pytest.approx(2.0**25, rel=1e-5)
