"""A range for each feature: tables as they are, features of any scale, clients that send what they like."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, ops
from sklearn import datasets

from deployment import Deployment, key, random_ring
from protocols.errors import InputError, ModelError, ProgramError, WindowError
from protocols.lowering import lower
from protocols.mpc.encoding import check_inside, encoded
from protocols.mpc.inputs.ranges import Ranges, given
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.wires import AsShare
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.program import Program, infer

TABLES = {
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}
LOW = np.array([-5e5, 1e-7, 3.0, 100.0, 0.0, -9.0])
HIGH = np.array([1e6, 2e-6, 3.0, 101.0, 0.5, -2.0])
"""A huge feature, a tiny one, a constant, one far from 0, a usual one, a negative one."""
MEAN = ((LOW + HIGH) / 2).astype(np.float32)
VARIANCE = ((HIGH - LOW) ** 2 / 12).astype(np.float32)


def answers(lowered, x):
    """Of both servers together, on examples as the client encodes them."""
    program = lowered.program
    y = Deployment(program, lowered.weights).output(encoded(program, np.asarray(x, np.float64)))
    return decode(y, program.output_scale).reshape(len(x), *program.output_shape)


def predicted(model, x):
    return np.asarray(model(ops.cast(x, model.inputs[0].dtype), training=False), np.float64)


def mlp(x, classes):
    """What people make for a table, with the weights of an initialisation: only how inputs are held is tested."""
    keras.utils.set_random_seed(3)
    normalization = layers.Normalization()
    normalization.adapt(x)
    return keras.Sequential([keras.Input(x.shape[1:]), normalization, layers.Dense(16, "relu"), layers.Dense(classes)])


@pytest.mark.parametrize("name", TABLES)
def test_a_raw_table_has_the_answers_of_keras_in_each_row(name):
    data = TABLES[name]()
    x, classes = data.data.astype(np.float32), 1 if name == "diabetes" else len(set(data.target))
    model = mlp(x, classes)
    expected = predicted(model, x)
    for input_range in ((x.min(axis=0), x.max(axis=0)), "calibration"):
        lowered = lower(model, input_range=input_range, calibration=x if input_range == "calibration" else None)
        assert lowered.coarse == ()
        y = answers(lowered, x)
        assert np.abs(y - expected).max() < 1e-3 * np.ptp(expected)
        np.testing.assert_array_equal(y.argmax(axis=1), expected.argmax(axis=1))


def behind(layer):
    """A table in front of which something bends or moves features before they are normalised."""

    def make(x, classes):
        keras.utils.set_random_seed(3)
        start = keras.Input(x.shape[1:])
        bent = layer(start)
        normalization = layers.Normalization()
        normalization.adapt(np.asarray(keras.Model(start, bent)(x)))
        return keras.Model(start, layers.Dense(classes)(layers.Dense(16, "relu")(normalization(bent))))

    return make


BENT = {
    "a rectifier": lambda x: layers.ReLU()(x),
    "one that leaks": lambda x: layers.LeakyReLU(0.1)(x),
    "absolute values": lambda x: ops.abs(x),
    "a clip beyond all": lambda x: ops.clip(x, 0.0, 1e5),
    "a clip that cuts": lambda x: ops.clip(x, 0.0, 3000.0),
    "a maximum": lambda x: layers.ReLU(max_value=2000.0, negative_slope=0.1)(x),
    "the larger of it and a number": lambda x: ops.maximum(x, 0.01),
    "the smaller": lambda x: ops.minimum(x, 3000.0),
    "below 0": lambda x: -ops.relu(3.0 - x),
    "rescaled": lambda x: layers.ReLU()(layers.Rescaling(2.0, 1.0)(x)),
    "rescaled only": lambda x: layers.Rescaling(2.0, 1.0)(x),
    "dropped and reshaped": lambda x: layers.Flatten()(layers.Reshape((1, -1))(layers.ReLU()(layers.Dropout(0.1)(x)))),
    "a part of it": lambda x: layers.Concatenate()([layers.ReLU()(x[:, :2]), x[:, 2:]]),
    "added to itself": lambda x: x + ops.relu(x),
}


@pytest.mark.parametrize("bent", BENT)
@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
@pytest.mark.sample(10)
def test_raw_tables_that_are_bent_before_they_are_normalised(name, bent):
    """A rectifier brought all features to one unit, in which small ones had few steps: 0.2 % of the range, and labels differed."""
    data = TABLES[name]()
    x, classes = data.data.astype(np.float32), 1 if name == "diabetes" else 2
    model = behind(BENT[bent])(x, classes)
    expected = predicted(model, x)
    lowered = lower(model, input_range="calibration", calibration=x)
    assert np.abs(answers(lowered, x) - expected).max() < 1e-3 * np.ptp(expected)


def rows(count=12, shape=(), seed="rows"):
    fractions = (KeyStream(key(seed)).words((count, *shape, 6)) >> np.uint64(11)) * 2.0**-53
    return (LOW + fractions * (HIGH - LOW)).astype(np.float32).clip(LOW.astype(np.float32), HIGH.astype(np.float32))


def settled(layer, mean=MEAN, variance=VARIANCE):
    """A batch normalisation that has seen the table."""
    layer.build((None, len(mean)))
    layer.set_weights([np.linspace(0.5, 2, len(mean)), np.linspace(-1, 1, len(mean)), mean, variance + 1e-9 * (variance == 0)])
    layer.epsilon = 1e-14
    return layer


def normalised(**settings):
    return layers.Normalization(mean=MEAN, variance=VARIANCE, **settings)


def small_weights(shape):
    """Of a Dense layer on raw features: each weight as large as its feature is small."""
    weights = np.random.default_rng(0).normal(size=shape)
    return weights / np.maximum(HIGH - LOW, 1.0 * (HIGH == LOW))[:, None]


def raw_dense():
    dense = layers.Dense(3, "relu")
    dense.build((None, 6))
    kernel = small_weights((6, 3))
    dense.set_weights([kernel, -(MEAN @ kernel)])
    return dense


def split(x):
    first, second = layers.Dense(3, "relu")(x[:, :3]), layers.Dense(3, "relu")(x[:, 3:])
    return layers.Concatenate()([first, second])


def turned(x):
    return layers.Dense(4, "relu")(layers.Flatten()(layers.Permute((2, 1))(normalised()(layers.Reshape((1, 6))(x)))))


def cut(x):
    """One feature is cut below, and one is always above; the constant stays one."""
    mean, variance = np.array([1e-6, 3.0, 50.0, 0.25, -3.0]), np.array([3e-13, 0.0, 0.0, 0.02, 0.5])
    return layers.Normalization(mean=mean.astype(np.float32), variance=variance.astype(np.float32))(ops.clip(x[:, 1:], -4.0, 50.0))


def above_zero(x, slope):
    mean, variance = np.array([2.5e5, 1e-6, 3.0, 100.5, 0.25, -5.5 * slope]), np.array([1e11, 3e-13, 0.0, 0.1, 0.02, 4.0 * slope**2])
    return layers.Normalization(mean=mean.astype(np.float32), variance=variance.astype(np.float32))(layers.LeakyReLU(slope)(x))


SIBLINGS = {
    "a clip, then normalization": lambda x: layers.Dense(4, "relu")(cut(x)),
    "a rectifier, then normalization": lambda x: layers.Dense(4, "relu")(above_zero(x, 0.0)),
    "a rectifier that leaks, then normalization": lambda x: layers.Dense(4)(above_zero(x, 0.25)),
    "normalization": lambda x: layers.Dense(4, "relu")(normalised()(x)),
    "normalization, then a curve": lambda x: layers.Activation("tanh")(normalised()(x)),
    "normalization, then two readers": lambda x: split(normalised()(x)),
    "rescaling, then normalization": lambda x: layers.Dense(4)(
        layers.Normalization(mean=MEAN * 0.5, variance=VARIANCE * 0.25)(layers.Rescaling(0.5)(x))
    ),
    "batch normalisation": lambda x: layers.Dense(4, "relu")(settled(layers.BatchNormalization())(x)),
    "dense on raw features": lambda x: raw_dense()(x),
    "moved before it is normalised": turned,
    "taken apart before it is normalised": lambda x: layers.Dense(3)(
        layers.Concatenate()(
            [layers.Normalization(mean=MEAN[i], variance=VARIANCE[i])(x) for i, x in ((1, x[:, 1:2]), (0, x[:, :1]), (5, x[:, 5:]))]
        )
    ),
    "several results of one input": lambda x: layers.Add()(
        [layers.Dense(4)(normalised()(x)), layers.Dense(4)(settled(layers.BatchNormalization())(x))]
    ),
}


@pytest.mark.parametrize("clients", ["semi-honest", "malicious"])
@pytest.mark.parametrize("name", SIBLINGS)
def test_features_of_every_scale_in_one_table(name, clients):
    keras.utils.set_random_seed(1)
    start = keras.Input((6,))
    model = keras.Model(start, layers.Dense(2)(SIBLINGS[name](start)))
    x = rows()
    expected = predicted(model, x)
    lowered = lower(model, input_range=(LOW, HIGH), clients=clients, calibration=x if "raw" in name else None)
    assert np.abs(answers(lowered, x) - expected).max() < 2e-3 * np.abs(expected).max()


def sequence(x):
    return layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Conv1D(4, 2, padding="same", activation="relu")(normalised()(x))))


def recurrent(x):
    return layers.Dense(2)(layers.SimpleRNN(3)(normalised()(x)))


@pytest.mark.parametrize("network", [sequence, recurrent])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (4, 6)])
def test_sequences_have_the_ranges_of_their_features(network, shape):
    keras.utils.set_random_seed(1)
    start = keras.Input((4, 6))
    model, x = keras.Model(start, network(start)), rows(shape=(4,))
    low, high = (np.broadcast_to(end, shape).copy() for end in (LOW, HIGH))
    if shape == (4, 6):  # and others in each step
        low[1], high[1] = LOW - (HIGH - LOW), HIGH + 0.5 * (HIGH - LOW)
    lowered = lower(model, input_range=(low, high))
    expected = predicted(model, x)
    assert np.abs(answers(lowered, x) - expected).max() < 2e-3 * np.abs(expected).max()


CHANNELS = (np.array([1000.0, -1e-4, 0.0]), np.array([1001.0, 1e-4, 255.0]))


def convolved(padding, **settings):
    def network(x):
        convolution = layers.Conv2D(4, 3, padding=padding, **settings)
        convolution.build(x.shape)
        kernel = np.random.default_rng(0).normal(size=convolution.kernel.shape) / np.array([1.0, 1e-4, 255.0])[:, None]
        convolution.set_weights([kernel, *([np.zeros(4)] if convolution.use_bias else [])])
        return convolution(x)

    return network


def per_channel(x):
    width = CHANNELS[1] - CHANNELS[0]
    return layers.Conv2D(4, 3, padding="same")(layers.Normalization(mean=sum(CHANNELS) / 2, variance=width**2 / 12)(x))


def depthwise(x):
    convolution = layers.DepthwiseConv2D(2, depth_multiplier=2, padding="same")
    convolution.build(x.shape)
    convolution.set_weights([np.random.default_rng(0).normal(size=(2, 2, 3, 2)) / np.array([1.0, 1e-4, 255.0])[:, None], np.zeros(6)])
    return convolution(x)


IMAGES = {
    "valid": convolved("valid"),
    "zeros around": convolved("same"),
    "strides": convolved("same", strides=2, use_bias=False),
    "dilation": convolved("same", dilation_rate=2),
    "normalised": per_channel,
    "depthwise": depthwise,
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_the_ranges_of_their_channels(name):
    keras.utils.set_random_seed(1)
    start = keras.Input((5, 5, 3))
    y = layers.Rescaling(1e-3)(IMAGES[name](start)) if name != "normalised" else IMAGES[name](start)
    model = keras.Model(start, layers.Dense(2)(layers.Flatten()(layers.ReLU()(y))))
    fractions = (KeyStream(key(name)).words((6, 5, 5, 3)) >> np.uint64(11)) * 2.0**-53
    x = (CHANNELS[0] + fractions * (CHANNELS[1] - CHANNELS[0])).astype(np.float32)
    x = x.clip(*(end.astype(np.float32) for end in CHANNELS))
    lowered = lower(model, input_range=CHANNELS)
    expected = predicted(model, x)
    assert np.abs(answers(lowered, x) - expected).max() < 2e-3 * np.abs(expected).max()


def two_vocabularies(start):
    first, second = layers.Embedding(178, 8)(start[:, :1]), layers.Embedding(12, 4)(start[:, 1:2])
    return layers.Concatenate()([layers.Flatten()(first), layers.Flatten()(second)])


def with_numbers(start):
    mean, variance = [1e-6, 5e5], [3e-13, 1e11]
    return layers.Concatenate()([two_vocabularies(start), layers.Normalization(mean=mean, variance=variance)(start[:, 2:])])


@pytest.mark.parametrize(
    ("network", "low", "high"),
    [(two_vocabularies, (0, 0), (177, 11)), (with_numbers, (0, 0, 1e-7, 0), (177, 11, 2e-6, 1e6))],
    ids=["codes", "codes and numbers"],
)
def test_each_vocabulary_has_its_range(network, low, high):
    keras.utils.set_random_seed(1)
    start = keras.Input((len(low),))
    model = keras.Model(start, layers.Dense(2)(network(start)))
    low, high = np.array(low, float), np.array(high, float)
    x = np.stack([low, high, *(low + np.round((high - low) * part) for part in (0.25, 0.5, 0.75))]).astype(np.float32)
    x[:, 2:] = np.linspace(low[2:], high[2:], len(x))
    x = x.clip(low.astype(np.float32), high.astype(np.float32))
    lowered = lower(model, input_range=(low, high))
    expected = predicted(model, x)
    assert np.abs(answers(lowered, x) - expected).max() < 2e-3 * np.abs(expected).max()
    assert lowered.spread.whole.tolist() == [True, True, False, False][: len(low)]


def test_what_reads_mixed_units_itself_gets_one():
    """No layer evens the units out: they are brought to the finest, exactly, by public powers of two."""
    low, high = np.array([-3.0, 0.0, -0.01, 7.0]), np.array([2.0, 100.0, 0.01, 7.0])
    start = keras.Input((4,))
    model = keras.Model(start, layers.LeakyReLU(0.5)(start))
    x = np.linspace(low, high, 9).astype(np.float32).clip(low, high)
    np.testing.assert_allclose(answers(lower(model, input_range=(low, high)), x), predicted(model, x), atol=1e-4)
    with pytest.raises(WindowError, match=r"differ by a factor of .*begin with Normalization"):
        lower(model, input_range=(low, np.array([2.0, 1e18, 0.01, 7.0])))


def test_one_range_for_all_is_the_program_that_it_was():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(2)])
    for low, high in ((0.0, 1.0), (-3.0, 5.0)):
        scalar, arrays = lower(model, input_range=(low, high)), lower(model, input_range=(np.full(6, low), np.full((1,), high)))
        assert scalar.program == arrays.program
        assert scalar.program.ranges is None
        assert scalar.program.input_scale == 2.0 ** -(16 - np.ceil(np.log2(high)))
        for a, b in zip(scalar.weights, arrays.weights, strict=True):
            np.testing.assert_array_equal(a, b)


# Clients that send what they like.


@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 1), (2, 4)])
def test_each_feature_is_cut_into_its_own_range(shape):
    size = int(np.prod(shape))
    low = tuple(int(v) for v in np.linspace(-(1 << 61), 5, size))
    high = tuple(least + int(more) for least, more in zip(low, np.linspace(0, 1 << 60, size), strict=True))
    program = Program((ClampedInput(low, high, shape), AsShare(0)), (), (2, 4), 1.0, (0.0, 1.0), 1.0)
    x = np.concatenate([KeyStream(key("anything")).words((60, 2, 4)), random_ring((60, 2, 4), 200, "small")])
    table = [np.broadcast_to(np.array(edge, object).reshape(shape), (2, 4)) for edge in (low, high)]
    signed = x.view(np.int64).astype(object)
    expected = np.minimum(np.maximum(signed, table[0]), table[1])
    got = Deployment(program, []).output(x).reshape(x.shape).view(np.int64)
    assert (got == expected).all()


@pytest.mark.parametrize("kind", ["logits", "label"])
def test_an_answer_is_that_of_the_input_cut_into_each_range(kind):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), normalised(), layers.Dense(4, "relu"), layers.Dense(3)])
    lowered = lower(model, input_range=(LOW, HIGH), clients="malicious" if kind == "logits" else None)
    program = lowered.program.for_label() if kind == "label" else lowered.program
    low, high = (np.array(edge, np.int64) for edge in lowered.program.ranges.edges(program.input_scale))
    assert program.ops[0] == ClampedInput(tuple(low.tolist()), tuple(high.tolist()), (6,))
    assert len(set(high.tolist())) > 3
    x = KeyStream(key("sent")).words((12, 6))
    x[0] = encoded(program, HIGH[None])[0] + np.uint64(1)
    cut = x.view(np.int64).clip(low, high).view(np.uint64)
    deployment = Deployment(program, lowered.weights)
    sent, kept = deployment.run(x).results, deployment.run(cut).results
    for party in (0, 1):
        np.testing.assert_array_equal(sent[party], kept[party])


# What is refused.


@pytest.mark.parametrize(
    ("input_range", "why"),
    [
        (5, r"a pair \(low, high\) is needed"),
        (None, "a pair"),
        ((0, 1, 2), "a pair"),
        (("a", 1), "a pair"),
        ((0, np.nan), "two finite numbers"),
        ((np.zeros(3), np.ones(2)), "do not fit each other"),
        ((np.zeros(5), np.ones(5)), r"shape \(5,\); a number, or a shape that is broadcast to \(6,\)"),
        ((np.zeros((6, 1)), np.ones((6, 1))), "is broadcast to"),
        ((np.zeros(6), np.array([1, 1, 1, -1, 1, 1])), "range of feature 3 ends below its beginning"),
        ((np.zeros(6), np.zeros(6)), "the smaller first"),
        ((np.array([-1e308] + [0] * 5), np.array([1e308] + [1] * 5)), "too wide"),
        ("calibration", "with sample inputs as calibration="),
        ("all", "input_range='all'"),
    ],
)
def test_a_range_that_is_none_is_refused(input_range, why):
    with pytest.raises(ModelError, match=why):
        lower(keras.Sequential([keras.Input((6,)), layers.Dense(2)]), input_range=input_range)


def test_samples_outside_are_refused_by_the_name_of_their_feature():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    samples = rows()
    samples[3, 4] = 0.7
    with pytest.raises(ModelError, match=r"1 values of calibration samples lie outside of input_range, the first in feature 4$"):
        lower(model, input_range=(LOW, HIGH), calibration=samples)


def table_program(**changes):
    ranges = given((np.array([0.0, 5.0]), np.array([1.0, 9.0])), (2,))
    return Program((ClampedInput(0, 9), AsShare(0)), (), (2,), 2.0**-20, (0.0, 9.0), 1.0, ranges=msgspec.structs.replace(ranges, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (3,)},
        {"shape": (1, 2)},
        {"low": (0.0,)},
        {"low": (0.0, np.nan)},
        {"high": (1.0, np.inf)},
        {"high": (1.0, 4.0)},
        {"unit": (1.0, 3.0)},
        {"unit": (1.0, -4.0)},
        {"unit": (0.0, 4.0)},
        {"unit": (2.0**-60, 8.0)},
        {"origin": (-np.inf, 0.0)},
    ],
    ids=str,
)
def test_who_is_told_ranges_checks_them(changes):
    infer(table_program())
    with pytest.raises(ProgramError, match="range"):
        infer(table_program(**changes))


@pytest.mark.parametrize(
    "op",
    [
        ClampedInput((0, 0, 0), (1, 1, 1), (3,)),
        ClampedInput((0, 0), (1,), (2,)),
        ClampedInput((0, 5), (1, 4), (2,)),
        ClampedInput(0, 1, (2,)),
    ],
)
def test_edges_that_are_none_are_refused(op):
    with pytest.raises(ProgramError, match=r"edges of shape|cannot be cut into"):
        infer(Program((op, AsShare(0)), (), (2,), 1.0, (0.0, 1.0), 1.0))


def test_a_client_is_told_which_feature_is_outside_and_no_value():
    program = lower(keras.Sequential([keras.Input((6,)), normalised(), layers.Dense(2)]), input_range=(LOW, HIGH)).program
    check_inside(program, rows(), "table")
    x = rows()
    x[2, 5] = -1.25
    with pytest.raises(InputError, match=r"1 of 72 values are outside of the range, the first in feature 5, .* from -9 to -2\.") as refused:
        check_inside(program, x, "table")
    assert "1.25" not in str(refused.value)
    one = lower(keras.Sequential([keras.Input((6,)), layers.Dense(2)])).program
    with pytest.raises(InputError, match=r"from 0 to 1\. Scale the input .* or share the model .* input_range=\(-1, 1\)"):
        check_inside(one, x, "table")


def test_ranges_survive_the_wire():
    program = lower(keras.Sequential([keras.Input((6,)), normalised(), layers.Dense(2)]), input_range=(LOW, HIGH)).program
    assert isinstance(program.ranges, Ranges)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(program), type=Program) == program
