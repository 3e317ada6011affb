"""Checked programs far from their samples, on a search for inputs that are wrong without a word: a batch holds one example of each kind."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.lowering import lower
from protocols.mpc.encoding import encoded
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.operations.bits.conjunction import unpack

SAMPLE = 2.0**-10
"""Samples lie within this of 0; each feature has a range of its own, of at least 10 on both sides: a factor of 10^4."""
STEP = 2.0**-16
"""Inputs are multiples of this, which the fixed point holds exactly."""
SCALES = (1.0, -1.0, 0.0, 0.01, 0.3, 1.01, 1.5, 1.9, 2.02, 2.2, -2.5, 3.0, 7.0, 30.0, 100.0, -1e3, 1e4)
TOLERANCE = 0.05
"""That of `share`."""


def dense(units, *args, deviation=1.0, **settings):
    return layers.Dense(units, *args, kernel_initializer=keras.initializers.RandomNormal(0, deviation), **settings)


def deep(x, activation="relu", *, depth=4, units=12):
    for _ in range(depth):
        x = dense(units, activation, use_bias=False)(x)
    return x


def swiglu(x):
    h = deep(x, depth=2)
    return dense(3)(ops.silu(dense(8)(h)) * dense(8)(h))


def cancelled(x):
    h = deep(x)
    return h * 1.01 - h


def normed(x):
    return dense(3)(layers.LayerNormalization()(dense(8)(deep(x))))


def inverse(x):
    return dense(2)(1.0 / (0.01 + ops.abs(dense(3)(x))))


def quotient(x):
    a = dense(8, use_bias=False)(x)
    return a / (0.01 + ops.sum(ops.square(a), axis=-1, keepdims=True))


def bell(x):
    return dense(3)(ops.exp(-ops.square(dense(3, deviation=0.3)(x))))


def image(x):
    for _ in range(3):
        x = layers.Conv2D(4, 3, padding="same", activation="gelu", kernel_initializer=keras.initializers.RandomNormal())(x)
        x = layers.MaxPooling2D(2, strides=1)(x) * 20.0
    return dense(3, deviation=0.1)(layers.GlobalAveragePooling2D()(x))


def block(x):
    h = dense(8)(x)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
    return dense(3)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h + dense(8)(dense(16, "gelu")(h)))))


def negative_part(x):
    h = deep(x)
    return dense(3)(ops.maximum(h, dense(12)(h)) - ops.minimum(h, dense(12)(h)))


WIDE = keras.initializers.RandomNormal(0, 0.9)
CURVES = ("softplus", "gelu", "silu", "mish", "elu", "selu", "leaky_relu", "squareplus", "tanh_shrink", "sparse_plus", "log_sigmoid")
VECTOR, IMAGE, STEPS = (6,), (5, 5, 2), (6, 3)
MODELS = {
    "swiglu": (VECTOR, swiglu),
    "normed": (VECTOR, normed),
    "inverse": (VECTOR, inverse),
    "lstm with relu": (STEPS, lambda x: dense(3)(layers.LSTM(3, activation="relu")(x))),
    "cancelled": (VECTOR, cancelled),
    "quotient": (VECTOR, quotient),
    "bell": (VECTOR, bell),
    "image": (IMAGE, image),
    "block": (STEPS, block),
    "negative part": (VECTOR, negative_part),
    "softmax": (VECTOR, lambda x: layers.Softmax()(dense(4)(deep(x)))),
    "log softmax": (VECTOR, lambda x: ops.log_softmax(dense(4, deviation=0.02)(deep(x)))),
    "sigmoid": (VECTOR, lambda x: dense(1, "sigmoid", deviation=0.01)(deep(x))),
    "logarithm": (VECTOR, lambda x: ops.log(0.1 + ops.square(dense(3)(x)))),
    "root": (VECTOR, lambda x: ops.sqrt(0.1 + ops.square(dense(3)(x)))),
    "unit": (VECTOR, lambda x: dense(3)(layers.UnitNormalization()(dense(8, use_bias=False)(x)))),
    "cube": (VECTOR, lambda x: dense(5)(x) ** 3),
    "variance": (VECTOR, lambda x: ops.var(deep(x), axis=-1, keepdims=True)),
    "clip": (VECTOR, lambda x: dense(3)(ops.clip(deep(x), -5, 50))),
    "prelu": (VECTOR, lambda x: dense(3)(layers.PReLU(alpha_initializer=keras.initializers.RandomNormal(0, 0.3))(deep(x)))),
    "long sum": ((200,), lambda x: ops.sum(ops.square(deep(x, depth=2, units=40)), axis=-1, keepdims=True)),
    "linear lstm": (STEPS, lambda x: dense(2)(layers.LSTM(3, activation="linear")(x))),
    "recurrent": ((16, 2), lambda x: dense(3)(layers.SimpleRNN(5, "relu", recurrent_initializer=WIDE)(x))),
    **{name: (VECTOR, lambda x, name=name: dense(3, deviation=0.1)(deep(x, name))) for name in CURVES},
}
USUAL = ("swiglu", "normed", "inverse", "lstm with relu")
"""Of the cells those that `make test` runs."""


def made(name, seed):
    """A model, its samples and its range."""
    shape, build = MODELS[name]
    keras.utils.set_random_seed(seed)
    start = layers.Input(shape)
    model = keras.Model(start, build(layers.Rescaling(1 / SAMPLE)(start)))
    samples = np.random.default_rng(seed).uniform(-SAMPLE, SAMPLE, (12, *shape))
    high = np.linspace(10, 12, int(np.prod(shape))).reshape(shape)
    return model, exact(samples, high), high


def exact(x, high):
    return np.rint(x.clip(-high, high) / STEP) * STEP


def strange(samples, high, seed):
    """One batch: samples at each scale, one feature that is far off, all features alike, features of any size."""
    rng = np.random.default_rng(seed)
    few = samples[: len(samples) // 3]
    found = [scale * few for scale in SCALES]
    for scale in (3.0, 100.0, 1e4):
        one = few.copy().reshape(len(few), -1)
        one[np.arange(len(few)), rng.integers(0, one.shape[1], len(few))] = scale * SAMPLE * rng.choice([-1, 1], len(few))
        found += [one.reshape(few.shape), np.full_like(few, scale * SAMPLE), np.full_like(few, -scale * SAMPLE)]
    sizes = 10 ** rng.uniform(-2, 4, (60, *[1] * (samples.ndim - 1))) * 10 ** rng.uniform(-2, 0, (60, *samples.shape[1:]))
    return exact(np.concatenate([samples, *found, SAMPLE * rng.choice([-1, 1], sizes.shape) * sizes]), high)


def nearby(x, errors, high, rng):
    """Inputs like those that were most wrong: changed a little, as a whole or in some features."""
    best = x[np.argsort(-errors)[:12]]
    parents = best[rng.integers(0, len(best), 60)]
    factors = np.where(rng.random(parents.shape) < 0.3, 10 ** rng.normal(0, 0.4, parents.shape), 1.0)
    whole = 10 ** rng.normal(0, 0.2, (len(parents), *[1] * (x.ndim - 1)))
    return exact(parents * factors * whole, high)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.long) for name in MODELS])
def test_no_answer_far_from_the_samples_is_wrong_without_a_word(name, seed):
    model, samples, high = made(name, seed)
    lowered = lower(model, input_range=(-high, high), calibration=samples, checked=True)
    program, rng = lowered.program, np.random.default_rng(seed)
    assert program.checked
    deployment = Deployment(program, lowered.weights)
    size = np.abs(np.asarray(model(samples.astype(np.float32)))).max()
    x = strange(samples, high, seed)
    for search in range(3):
        opened = deployment.output(encoded(program, x))
        outside = opened[:, -1] == 1
        assert (opened[:, -1] <= 1).all()
        expected = np.asarray(model(x.astype(np.float32)), np.float64).reshape(len(x), -1)
        if not search:
            assert not outside[: len(samples)].any()  # of the samples themselves, in one batch with all the others
            assert outside.any()
            _labels_are_right_or_refused(lowered, x, expected, size, len(samples))
        assert np.isfinite(expected[~outside]).all()
        errors = np.abs(decode(opened[:, :-1], program.output_scale) - expected).max(axis=1)
        errors /= np.maximum(np.abs(expected).max(axis=1), size)
        errors[outside] = 0
        assert errors.max() < TOLERANCE, x[errors.argmax()]
        x = nearby(x, errors, high, rng)


def _labels_are_right_or_refused(lowered, x, expected, size, samples):
    program = lowered.program
    if program.label is None:
        return
    classes = program.output_shape[0]
    results = Deployment(program.for_label(), lowered.weights).run(encoded(program, x)).results
    labels = unpack(results[0] ^ results[1], classes + 1).argmax(axis=1)
    inside = labels < classes
    assert inside[:samples].all()
    lost = expected.max(axis=1) - np.take_along_axis(expected, labels.clip(0, classes - 1)[:, None], 1)[:, 0]
    assert (lost <= 2 * TOLERANCE * np.maximum(np.abs(expected).max(axis=1), size))[inside].all()
