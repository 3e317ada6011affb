"""The step of the fixed point of an input is as fine as what reads it needs, or that is refused or warned of by name."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn import datasets

from protocols.errors import CoarseInput, CoarseOutput, FaintOutput, Imprecise, Inaccurate, ModelError, WindowError
from protocols.lowering import lower
from protocols.mpc.encoding import encoded
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.plaintext import evaluate
from protocols.selfcheck.comparison import compare
from protocols.selfcheck.rounded_inputs import rounded


def answers(lowered, x):
    program = lowered.program
    return decode(evaluate(program, lowered.weights, encoded(program, np.asarray(x, np.float64))), program.output_scale)


def predicted(model, x):
    return np.asarray(model(ops.cast(x, model.inputs[0].dtype), training=False), np.float64)


def functional(network, features=6, dtype=None):
    keras.utils.set_random_seed(1)
    start = keras.Input((features,), dtype=dtype)
    return keras.Model(start, network(start), name="table")


# Whole numbers.


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
@pytest.mark.parametrize("bits", [15, 16, 17, 20, 24, 30])
def test_whole_numbers_of_one_range_are_exact(bits, dtype):
    model = functional(lambda x: ops.cast(ops.subtract(x, ops.cast(1, dtype)), "float32"), dtype=dtype)
    high = (1 << bits) - 1 if bits <= 24 or dtype != "float32" else 1 << bits
    x = np.array([[0, 1, 2, 3, min(high, (1 << 24) - 1), min(high, 70001)]])
    np.testing.assert_array_equal(answers(lower(model, input_range=(0, high)), x), predicted(model, x))


@pytest.mark.parametrize("high", [70_005, 1 << 20, 1 << 24, 1 << 30])
def test_integers_are_compared_exactly_in_one_range_and_in_several(high):
    model = functional(lambda x: ops.cast(ops.greater_equal(x, 70001), "float32"), dtype="int64")
    x = np.array([[70000, 70001, 70002, 1, 0, 5]])
    for input_range in ((0, high), (np.zeros(6), np.array([high] * 3 + [5] * 3))):
        np.testing.assert_array_equal(answers(lower(model, input_range=input_range), x), [[0, 1, 1, 0, 0, 0]])


@pytest.mark.parametrize("input_range", [(0, 2**41), (-(2**50), 0), (np.zeros(6), np.array([5] * 5 + [2**45]))], ids=str)
def test_integers_that_are_too_large_are_refused(input_range):
    with pytest.raises(ModelError, match=r"the model reads integers: those beyond 2\^40 are not exact .*smaller input_range"):
        lower(functional(lambda x: ops.cast(x, "float32") * 2.0, dtype="int64"), input_range=input_range)


def test_usual_ranges_have_the_steps_that_they_had():
    model = functional(layers.Dense(2))
    for high, step in ((1, 2.0**-16), (255, 2.0**-8), (3e-4, 2.0**-27), (65536, 1.0)):
        assert lower(model, input_range=(0, high)).program.input_scale == step
    assert lower(model, input_range=(np.zeros(6), np.arange(1, 7))).program.input_scale == 2.0**-20


# Reciprocals, roots, logarithms.

POSITIVE = {
    "log": (ops.log, False),
    "sqrt": (ops.sqrt, True),
    "reciprocal": (lambda x: 1 / x, True),
    "rsqrt": (ops.rsqrt, True),
    "log of a scaled": (lambda x: ops.log(x * 100.0), False),
}


@pytest.mark.parametrize("low", [1e-6, 1e-5, 1e-3, 0.02])
@pytest.mark.parametrize("each", [False, True], ids=["one range", "ranges"])
@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.sample(14)
def test_inputs_that_begin_near_zero(name, each, low):
    network, relative = POSITIVE[name]
    model = functional(network)
    ends = (np.array([low] * 5 + [2 * low]), np.ones(6)) if each else (low, 1.0)
    x = np.geomspace(low, 1, 60, dtype=np.float32).reshape(10, 6).clip(np.asarray(ends[0], np.float32), 1)
    expected = predicted(model, x)
    error = np.abs(answers(lower(model, input_range=ends), x) - expected)
    assert (error < 2.0**-10 * (np.abs(expected) if relative else 1)).all()


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_a_constant_that_keeps_a_logarithm_away_from_zero(epsilon):
    model = functional(lambda x: ops.log(x + epsilon))
    x = np.concatenate([[0.0], np.geomspace(1e-7, 1, 59)]).reshape(10, 6).astype(np.float32)
    assert np.abs(answers(lower(model), x) - predicted(model, x)).max() < 2.0**-10


# Indices of tables.

VOCABULARIES = {
    "one code": (lambda x: layers.Flatten()(layers.Embedding(20, 2)(x)), 3),
    "from one on": (lambda x: layers.Flatten()(layers.Embedding(20, 2)(x - 1)), 3),
    "one hot": (lambda x: layers.Flatten()(ops.one_hot(ops.cast(x, "int32"), 20)), 3),
    "codes and numbers": (lambda x: layers.Concatenate()([layers.Flatten()(layers.Embedding(20, 2)(x[:, :1])), x[:, 1:]]), 3),
}


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("seen", [(0, 19), (1, 18), (3, 7), (5, 5)])
@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_range_of_indices_is_that_of_their_table(name, seen, dtype):
    network, features = VOCABULARIES[name]
    if "numbers" in name and dtype == "int32":
        dtype = "float32"
    model = functional(lambda x: layers.Dense(2)(network(x)), features, dtype)
    first = int(name == "from one on")
    x = np.linspace(*seen, 6).round().astype(int)[:, None].repeat(features, 1) + first
    lowered = lower(model, input_range="calibration", calibration=x)
    assert np.abs(answers(lowered, x) - predicted(model, x)).max() < 1e-3
    low, high = (np.broadcast_to(end, features) for end in _ends(lowered.program))
    assert (low[0], high[0]) == (first, 19 + first)


def _ends(program):
    return program.input_range if program.ranges is None else (program.ranges.low, program.ranges.high)


# Coarse features, whatever reads them.

RAW = datasets.load_breast_cancer().data.astype(np.float32)
MEAN, DEVIATION = RAW.mean(axis=0), RAW.std(axis=0)
MANY = RAW.shape[1]


def normalised(x, part=slice(None)):
    return layers.Normalization(mean=MEAN[part], variance=DEVIATION[part] ** 2)(x)


def batch_normalised(x):
    layer = layers.BatchNormalization(epsilon=1e-12)
    layer.build(x.shape)
    layer.set_weights([np.ones(MANY), np.zeros(MANY), MEAN, DEVIATION**2])
    return layer(x)


def dense(x):
    layer = layers.Dense(8, "relu")
    layer.build(x.shape)
    kernel = np.random.default_rng(0).normal(size=(MANY, 8)) / np.sqrt(MANY) / DEVIATION[:, None]
    layer.set_weights([kernel, -(MEAN @ kernel)])
    return layer(x)


READERS = {
    "Normalization": normalised,
    "BatchNormalization": batch_normalised,
    "keras.ops": lambda x: (x - MEAN) / DEVIATION,
    "product, then difference": lambda x: x * (1 / DEVIATION) - MEAN / DEVIATION,
    "Lambda": lambda x: layers.Lambda(lambda t: (t - MEAN) / DEVIATION)(x),
    "Dense": dense,
    "after ReLU": lambda x: normalised(layers.ReLU()(x)),
    "after a clip": lambda x: normalised(ops.clip(x, 0.0, 5000.0)),
    "after Identity, Reshape": lambda x: layers.Reshape((MANY,))(normalised(layers.Reshape((1, MANY))(layers.Identity()(x)))),
    "columns joined before": lambda x: normalised(layers.Concatenate()([x[:, :7], layers.ReLU()(x[:, 7:])])),
    "columns joined after": lambda x: layers.Concatenate()([normalised(x[:, :7], slice(7)), normalised(x[:, 7:], slice(7, None))]),
    "Rescaling before": lambda x: (layers.Rescaling(0.5)(x) - MEAN * 0.5) / (DEVIATION * 0.5),
}


@pytest.mark.parametrize("name", READERS)
def test_what_reads_coarse_features_does_not_matter(name):
    model = functional(lambda x: layers.Dense(2)(READERS[name](x)), MANY)
    expected = predicted(model, RAW)
    with pytest.warns(CoarseInput, match=r"^feature \d+ varies by 0\.00\d+, and inputs have steps of 0\.125, and \d+ more .*of its own"):
        lowered = lower(model, input_range=(0, 4255), calibration=RAW)
    assert np.abs(answers(lowered, RAW) - expected).max() > 0.05 * np.ptp(expected)
    with pytest.raises(Inaccurate, match="give it a range of its own"):
        compare(model, lowered, calibration=RAW)
    right = lower(model, input_range="calibration", calibration=RAW)
    assert np.abs(answers(right, RAW) - expected).max() < 0.01 * np.ptp(expected)
    assert compare(model, right, calibration=RAW).samples == 256


@pytest.mark.parametrize("name", ["BatchNormalization", "keras.ops", "Lambda", "after ReLU", "columns joined after"])
def test_the_model_says_it_without_samples(name):
    """Deviations of thousandths in a range up to 1000: of means alone, so that the sums are proved."""
    model = functional(lambda x: layers.Dense(2)(0.001 * READERS[name](x)), MANY)
    with pytest.warns(CoarseInput, match=r"^feature \d+ varies by"):
        lower(model, input_range=(0, 4255))


def test_a_dense_layer_says_it_where_its_weights_differ():
    model = functional(layers.Dense(2), 3)
    model.layers[-1].kernel.assign([[1e-3, 2e-3], [100.0, -50.0], [0.5, 0.1]])
    with pytest.warns(CoarseInput, match=r"^feature 1 varies by 0\.01, and inputs have steps of 0\.0156; at least 256"):
        lower(model, input_range=(0, 1000))


def test_the_feature_is_named_by_its_effect_alone():
    """One that a few samples do not say: no rule knows the layer that reads it."""
    model = functional(lambda x: layers.Dense(2)(ops.tanh((x * x - 0.25) * np.array([1.0, 1, 1, 1e5, 1, 1]))))
    x = np.full((8, 6), 0.4)
    x[:, 3] = np.linspace(0.49999, 0.50001, 8)
    lowered = lower(model, calibration=x)
    with pytest.raises(Inaccurate, match=r"that of feature 3 alone by \S+: it has steps of 1\.53e-05 in a range from 0 to 1"):
        compare(model, lowered, calibration=x)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (5, 5, 3)])
def test_usual_models_are_not_warned_of(shape):
    keras.utils.set_random_seed(1)
    layer = layers.Dense(4, "relu") if len(shape) < 3 else layers.Conv2D(4, 3, activation="relu")
    model = keras.Sequential([keras.Input(shape), layer, layers.Flatten(), layers.Dense(3)])
    for high in (1, 255, 4000):
        lowered = lower(model, input_range=(0, high))
        assert lowered.coarse == ()
        assert compare(model, lowered).error < 0.01 * high


def test_what_a_client_sends_is_what_is_blamed():
    program = lower(functional(normalised_pair, 2), input_range=(np.array([100.0, -1e-3]), np.array([101.0, 1e-3]))).program
    x = np.array([[100.3, 2e-4], [101.0, -1e-3]])
    assert np.abs(rounded(program, x) - x).max(axis=0).tolist() <= [2.0**-21, 2.0**-30]


def normalised_pair(x):
    return layers.Normalization(mean=[100.5, 0.0], variance=[0.1, 1e-6])(x)


# Constant columns, and what does not fit.


@pytest.mark.parametrize("value", [7.0, 1.6e9, -3e-4, 0.0])
def test_a_constant_column_is_normalised_as_by_keras(value):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    x[:, 2] = value
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = functional(lambda start: layers.Dense(3)(normalization(start)))
    lowered = lower(model, input_range="calibration", calibration=x)
    assert lowered.program.ranges.low[2] == lowered.program.ranges.high[2] == np.float32(value)
    expected = predicted(model, x)
    assert np.abs(answers(lowered, x) - expected).max() < 1e-3 * np.ptp(expected)


@pytest.mark.filterwarnings("ignore::protocols.errors.CoarseInput")
def test_weights_that_do_not_fit_are_refused_by_name():
    x = np.tile(np.linspace(6, 8, 20, dtype=np.float32)[:, None], (1, 6))
    x[:, 5] = 7
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = functional(lambda start: layers.Dense(2)(normalization(start)))
    with pytest.raises(WindowError, match=r"layer 'dense\S*' .*weights or biases up to .*A feature that hardly varies"):
        lower(model, input_range=(np.full(6, 0.0), np.array([8.0] * 5 + [9.0])), calibration=x)


# Small outputs.


def faint(scale, *last):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(3, use_bias=False), *last], name="faint")
    model.layers[1].kernel.assign(model.layers[1].kernel * scale)
    return model


@pytest.mark.parametrize("scale", [1e-5, 1e-7, 1e-3])
def test_small_outputs_of_a_linear_layer_are_right(scale):
    model = faint(scale)
    check = compare(model, lower(model))
    assert check.error < 0.01 * check.largest


FAINT = {
    "softplus": lambda x: ops.softplus(layers.Dense(3)(x) - 12.0),
    "exponential": lambda x: ops.exp(layers.Dense(3)(x) - 11.0),
    "silu": lambda x: ops.silu(layers.Dense(3)(x) - 13.0),
}


@pytest.mark.parametrize("name", FAINT)
def test_outputs_that_are_not_resolved_are_warned_of_with_what_to_do(name):
    model = functional(FAINT[name])
    with pytest.warns(FaintOutput, match=r"outputs are at most \S+, and .* not resolved in fixed point\. Multiply the weights of its last"):
        check = compare(model, lower(model))
    assert check.error > 0.05 * check.largest
    with pytest.raises(Inaccurate, match="tolerance=1e-06"):
        compare(model, lower(model), tolerance=1e-6)


def test_a_small_output_beside_large_ones_is_warned_of():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)], name="beside")
    kernel = np.array(model.layers[1].kernel)
    kernel[:, 1] *= 1e-7
    kernel[:, 0] *= 100
    model.layers[1].kernel.assign(kernel)
    with pytest.warns(CoarseOutput, match=r"number 1 of its answer is at most .* off by up to .* beside outputs of up to"):
        compare(model, lower(model))


def test_an_error_within_the_tolerance_is_told():
    x = datasets.load_wine().data.astype(np.float32)
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = functional(lambda start: layers.Dense(3)(layers.Dense(16, "relu")(normalization(start))), x.shape[1])
    with pytest.warns(CoarseInput):
        lowered = lower(model, input_range=(0, 3000), calibration=x)
    with pytest.warns(Imprecise, match=r"differ by up to \S+ from Keras', whose range is .*feature 10 alone|feature 7 alone"):
        compare(model, lowered, calibration=x, tolerance=0.2)
