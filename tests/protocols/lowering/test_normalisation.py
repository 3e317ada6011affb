"""How far normalisation is from exact arithmetic, by epsilon and range, on rows that vary a lot, a little and hardly at all."""

import keras
import numpy as np
import pytest
from function_runs import measured
from keras import layers

from protocols.errors import UnsupportedLayer, WindowError
from protocols.lowering import lower
from protocols.lowering.scales import functions
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.plaintext import evaluate

EXACT = {
    "LayerNormalization": lambda x, epsilon: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon),
    "RMSNormalization": lambda x, epsilon: x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon),
}
ROUNDINGS = {"down": None, "up": lambda shape: np.ones(shape, np.uint64)}


def rows(n: int, low: float, high: float) -> np.ndarray:
    """Rows of every size, around 0 and around other values; one element that is different; two values; all the same."""
    rng = np.random.default_rng(n)
    reach = max(abs(low), abs(high))
    sizes = np.geomspace(1e-5, 1, 120)[:, None] * reach
    uniform, signs = rng.uniform(-1, 1, (120, n)) * sizes, np.sign(rng.uniform(-1, 1, (120, n))) * sizes
    spikes = np.zeros((120, n))
    spikes[:, :1] = sizes
    shifted = rng.uniform(low, high, (120, 1)) + uniform / 50
    return np.concatenate([uniform, signs, spikes, shifted, np.full((1, n), high), np.zeros((1, n))]).clip(low, high)


def errors(model, exact, input_range, x, rounding, **settings):
    """How far from `exact` a lowered model is on inputs that are on its grid, the exact values, and the stated bounds of its layers."""
    lowered = lower(model, input_range=input_range, **settings)
    program = lowered.program
    ring = encode(x, program.input_scale)
    y = decode(evaluate(program, lowered.weights, ring, rounding=rounding), program.output_scale)
    want = exact(decode(ring, program.input_scale))
    return np.abs(y - want), want, [layer.error for layer in lowered.layers if layer.error is not None]


@pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=ROUNDINGS)
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize(("n", "low", "high"), [(4, -1, 1), (64, -1, 1), (64, -8, 8), (512, -8, 8), (16, 0, 1), (32, 3, 5)])
@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.sample(18)
def test_the_stated_bound_holds(kind, n, low, high, epsilon, rounding):
    """On rows without outliers it is 2^-7 and less; with |y| up to sqrt(n) it is relative to that."""
    model = keras.Sequential([keras.Input((n,)), getattr(layers, kind)(epsilon=epsilon)])
    far, want, (bound,) = errors(model, lambda x: EXACT[kind](x, epsilon), (low, high), rows(n, low, high), rounding)
    kappa = (bound - 2.0**-10 * np.sqrt(n)) / (1 + np.sqrt(n))
    assert 0 < kappa <= 2.0**-9
    assert (far <= kappa + (2.0**-10 + kappa) * np.abs(want)).all()
    assert far.max() <= bound
    assert far[np.abs(want).max(1) < 4].max() < 2.0**-7


def grouped(x: np.ndarray, groups: int, epsilon: float) -> np.ndarray:
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    return ((parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + epsilon)).reshape(x.shape)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-6])
def test_groups(epsilon):
    model = keras.Sequential([keras.Input((4, 4, 6)), layers.GroupNormalization(3, epsilon=epsilon)])
    x = rows(96, -8, 8).reshape(-1, 4, 4, 6)
    far, want, (bound,) = errors(model, lambda x: grouped(x, 3, epsilon), (-8, 8), x, None)
    assert far.max() <= bound
    assert far[np.abs(want) < 4].max() < 2.0**-7


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6])
@pytest.mark.parametrize("kind", EXACT)
def test_sums_that_were_not_rounded_are_normalised_as_precisely(kind, epsilon):
    keras.utils.set_random_seed(1)
    dense = layers.Dense(32)
    model = keras.Sequential([keras.Input((8,)), dense, getattr(layers, kind)(epsilon=epsilon)])

    def exact(x):
        return EXACT[kind](x @ np.asarray(dense.kernel, np.float64) + np.asarray(dense.bias, np.float64), epsilon)

    far, want, (bound,) = errors(model, exact, (-1, 1), rows(8, -1, 1)[:-2], None)
    encoded = 2.0**-19 * 8 / np.sqrt(epsilon)  # of weights with 20 fractional bits, times what normalisation makes of it
    assert far.max() <= bound + encoded
    assert far[np.abs(want).max(1) < 4].max() < 2.0**-7


@pytest.mark.filterwarnings("ignore::protocols.errors.CoarseInput")  # a deviation of 185 steps; inputs here are on the grid
@pytest.mark.parametrize("epsilon", [1e-3, 1e-6])
def test_batch_normalisation_is_folded_and_exact(epsilon):
    layer = layers.BatchNormalization(epsilon=epsilon)
    model = keras.Sequential([keras.Input((6,)), layer])
    layer.set_weights([np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6), np.linspace(-2, 2, 6), np.geomspace(1e-6, 1, 6)])
    gamma, beta, mean, variance = (np.asarray(w, np.float64) for w in layer.get_weights())
    far, want, bounds = errors(model, lambda x: gamma * (x - mean) / np.sqrt(variance + epsilon) + beta, (-1, 1), rows(6, -1, 1), None)
    assert not bounds
    assert (far <= 2.0**-17 * (1 + np.abs(want).max())).all()


REFUSED = {
    "no epsilon": (lambda: layers.LayerNormalization(epsilon=0.0), (-1, 1), "larger epsilon|off by up to"),
    "a range of bytes": (lambda: layers.LayerNormalization(epsilon=1e-5), (0, 255), "larger epsilon"),
    "a large range": (
        lambda: layers.RMSNormalization(epsilon=1e-6),
        (-500, 500),
        "give epsilon=.* or more, a smaller input_range, or calib",
    ),
    "vectors that may be 0": (lambda: layers.UnitNormalization(), (-8, 8), "give calibration=, or a larger epsilon"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_that_precise_is_refused_with_what_to_do(name):
    make, input_range, advice = REFUSED[name]
    model = keras.Sequential([keras.Input((64,)), make()])
    with pytest.raises(WindowError, match=advice):
        lower(model, input_range=input_range)
    unit = np.random.default_rng(0).uniform(0.2, 1.0, (50, 64)) * input_range[1]
    assert lower(model, input_range=input_range, calibration=unit, margin=1.1).layers


def test_a_range_of_bytes_is_scaled_first():
    model = keras.Sequential([keras.Input((64,)), layers.Rescaling(1 / 255), layers.LayerNormalization(epsilon=1e-5)])
    x = np.random.default_rng(0).integers(0, 256, (100, 64)).astype(np.float64)
    far, _, _ = errors(model, lambda x: EXACT["LayerNormalization"](x / 255, 1e-5), (0, 255), x, None)
    assert far.max() < 2.0**-7


def test_samples_give_the_least_variance():
    rng = np.random.default_rng(0)
    samples = rng.uniform(-100, 100, (60, 64))
    model = keras.Sequential([keras.Input((64,)), layers.LayerNormalization(epsilon=1e-6)])
    x = rng.uniform(-100, 100, (60, 64))
    exact = EXACT["LayerNormalization"]
    far, _, (bound,) = errors(model, lambda x: exact(x, 1e-6), (-128, 128), x, None, calibration=samples)
    assert far.max() <= bound < 2.0**-6
    assert far.max() < 2.0**-7


@pytest.mark.parametrize(("function", "exact"), [(functions.reciprocal, np.reciprocal), (functions.reciprocal_root, lambda x: x**-0.5)])
@pytest.mark.parametrize(("low", "high"), [(2.0**-10, 1.0), (2.0**-10, 8.0), (0.5, 8.0), (1.0, 60.0)])
def test_reciprocals_are_relative_to_small_values_too(function, exact, low, high):
    x = np.unique(np.geomspace(low, high, 4000) // 2.0**-13 * 2.0**-13)
    x = x[(x >= low) & (x <= high)][: 64 * (len(x) // 64 - 1)].reshape(-1, 64)
    y, *_ = measured(function, x, (low, high))
    assert np.abs(y / exact(x) - 1).max() < 1e-3


SCALES = [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0]
ALMOST = {
    "LayerNormalization": (lambda: layers.LayerNormalization(), 1e-3),
    "LayerNormalization(1e-6)": (lambda: layers.LayerNormalization(epsilon=1e-6), 1e-6),
    "RMSNormalization": (lambda: layers.RMSNormalization(), 1e-6),
}


@pytest.mark.parametrize("input_range", [(-1, 1), (0, 1), (-4, 4)])
@pytest.mark.parametrize("name", ALMOST)
def test_rows_that_hardly_vary_are_right_though_no_sample_was_like_them(name, input_range):
    """Samples of usual size; asked: rows that are almost constant, and tiny ones."""
    make, epsilon = ALMOST[name]
    model = keras.Sequential([keras.Input((24,)), make()])
    exact = EXACT[name.partition("(")[0]]
    rng = np.random.default_rng(1)
    samples = rng.uniform(*input_range, (50, 24))
    x = rows(24, *input_range)
    for rounding in ROUNDINGS.values():
        far, want, (bound,) = errors(model, lambda x: exact(x, epsilon), input_range, x, rounding, calibration=samples)
        kappa = (bound - 2.0**-10 * np.sqrt(24)) / (1 + np.sqrt(24))
        assert 0 < kappa <= 2.0**-7
        assert (far <= kappa + (2.0**-10 + kappa) * np.abs(want)).all()


class OwnNormalization(layers.Layer):
    """As in many models of keras-hub, and in tutorials."""

    def call(self, x):
        mean, variance = keras.ops.moments(x, axes=-1, keepdims=True)
        return (x - mean) * keras.ops.rsqrt(variance + 1e-3)


def test_a_normalisation_of_one_s_own_is_fitted_down_to_its_epsilon():
    model = keras.Sequential([keras.Input((24,)), OwnNormalization()])
    samples = np.random.default_rng(1).uniform(-1, 1, (50, 24))
    exact = EXACT["LayerNormalization"]
    far, _, _ = errors(model, lambda x: exact(x, 1e-3), (-1, 1), rows(24, -1, 1), None, calibration=samples)
    assert far.max() < 2.0**-6


def test_unit_vectors_of_any_length_that_samples_reach():
    model = keras.Sequential([keras.Input((24,)), layers.UnitNormalization()])
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (200, 24)) * np.geomspace(3e-3, 1, 200)[:, None]
    exact = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    far, _, _ = errors(model, exact, (-1, 1), x, None, calibration=rng.uniform(0.5, 1, (50, 24)))
    assert far.max() < 2.0**-8
    assert not errors(model, lambda x: x, (-1, 1), np.zeros((1, 24)), None, calibration=x)[0].any()


def test_each_channel_by_itself():
    model = keras.Sequential([keras.Input((4, 4, 6)), layers.GroupNormalization(-1)])
    samples = np.random.default_rng(0).uniform(-8, 8, (40, 4, 4, 6))
    x = rows(96, -8, 8).reshape(-1, 4, 4, 6)
    for settings in ({}, {"calibration": samples}):
        far, _, (bound,) = errors(model, lambda x: grouped(x, 6, 1e-3), (-8, 8), x, None, **settings)
        assert far.max() <= bound < 2.0**-6


def test_statistics_that_are_none_are_refused():
    layer = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.moving_variance.assign([1.0, -0.5, 1.0])
    with pytest.raises(UnsupportedLayer, match="a moving variance and epsilon are 0 or less together"):
        lower(model)
