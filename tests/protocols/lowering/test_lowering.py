"""Keras models as programs: equal to Keras, inside their windows at the corners of the input range, or refused by name."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from protocols.errors import ModelError, UnsupportedLayer, WindowError
from protocols.lowering import lower
from protocols.lowering.scales.rounding import GOOD_WINDOW
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense
from protocols.mpc.operations.wires import Open
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import infer


def sequential(shape, *stack, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([layers.Input(shape), *stack])
    for variable in model.non_trainable_variables:  # statistics that are not the trivial ones
        if "moving" in variable.path:
            variable.assign(np.random.default_rng(seed).uniform(0.5, 1.5, variable.shape))
    return model


def examples(lowered, n=6):
    """Random inputs, and the corners: all low, all high, random corners."""
    low, high = lowered.program.input_range
    random = np.random.default_rng(1)
    x = random.uniform(low, high, (n, *lowered.program.input_shape))
    x[0], x[1] = low, high
    x[2] = np.where(x[2] > (low + high) / 2, high, low)
    return x


def run(lowered, x):
    """Both directions of rounding, so that every window is tried."""
    program = lowered.program
    bits = np.random.default_rng(2)
    for rounding in (None, lambda shape: np.ones(shape, np.uint64), lambda shape: bits.integers(0, 2, shape, dtype=np.uint64)):
        y = evaluate(program, lowered.weights, encode(x, program.input_scale), rounding=rounding)
    return decode(y, program.output_scale)


def assert_same(model, tolerance=1e-3, **options):
    lowered = lower(model, **options)
    x = examples(lowered)
    expected = np.asarray(model(x.astype(np.float32), training=False))
    np.testing.assert_allclose(run(lowered, x).reshape(expected.shape), expected, atol=tolerance * max(1, np.abs(expected).max()))
    return lowered


def kinds(lowered, *classes):
    return [type(op) for op in lowered.program.ops if isinstance(op, classes)]


def tutorial():
    convolutions = [(layers.Conv2D(n, 3), layers.AveragePooling2D(2), layers.ReLU()) for n in (16, 32, 64)]
    return sequential((28, 28, 1), *(layer for three in convolutions for layer in three), layers.Flatten(), layers.Dense(10))


class TestTutorial:
    def test_pools_fold_into_the_convolutions(self):
        lowered = assert_same(tutorial())
        assert kinds(lowered, Conv2D, Select, Open, Dense, Truncate) == [Conv2D, Select, Open] * 3 + [Dense]
        shapes = [value.shape for value in infer(lowered.program)]
        work = 0
        for op, shape in zip(lowered.program.ops, shapes, strict=True):
            if isinstance(op, Conv2D):
                work += shape[0] * shape[1] * int(np.prod(lowered.program.weights[op.weight]))
            elif isinstance(op, Dense):
                work += int(np.prod(lowered.program.weights[op.weight]))
        assert work == 281_472

    def test_every_window_is_proved_and_small(self):
        lowered = lower(tutorial())
        assert [layer.source for layer in lowered.layers] == ["proved"] * 3
        assert all(layer.window <= GOOD_WINDOW for layer in lowered.layers)

    def test_the_label_is_compared_exactly(self):
        assert lower(tutorial()).program.label.drop == 0

    @pytest.mark.parametrize("suffix", ["model.keras", "model.h5", "model.weights.h5"])
    @pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
    def test_however_it_was_stored(self, tmp_path, suffix):
        model, file = tutorial(), tmp_path / suffix
        if suffix.endswith("weights.h5"):
            model.save_weights(file)
            loaded = sequential((28, 28, 1), *[type(x).from_config(x.get_config()) for x in model.layers], seed=9)
            loaded.load_weights(file)
        else:
            model.save(file)
            loaded = keras.models.load_model(file)
        first, second = lower(model), lower(loaded)
        assert first.program == second.program
        for a, b in zip(first.weights, second.weights, strict=True):
            np.testing.assert_array_equal(a, b)


sides = st.integers(1, 3)


@settings(max_examples=25)
@given(st.data())
def test_convolutions_of_every_shape(data):
    groups, padding = data.draw(st.integers(1, 2)), data.draw(st.sampled_from(["valid", "same"]))
    dilated = data.draw(st.booleans())
    strides = 1 if dilated else (data.draw(sides), data.draw(sides))
    layer = layers.Conv2D(
        2 * groups,
        (data.draw(sides), data.draw(sides)),
        strides=strides,
        padding=padding,
        groups=groups,
        dilation_rate=2 if dilated else 1,
        use_bias=data.draw(st.booleans()),
        activation=data.draw(st.sampled_from([None, "relu", "relu6", "leaky_relu"])),
    )
    assert_same(sequential((7, 6, 2 * groups), layer, layers.Flatten(), layers.Dense(2)))


@settings(max_examples=20)
@given(st.data())
def test_pools_of_every_shape(data):
    convolution = layers.Conv2D(
        2, data.draw(sides), strides=data.draw(st.integers(1, 2)), padding=data.draw(st.sampled_from(["valid", "same"]))
    )
    pool = layers.AveragePooling2D(
        (data.draw(sides), data.draw(sides)),
        strides=data.draw(st.sampled_from([None, 1, 2])),
        padding=data.draw(st.sampled_from(["valid", "same"])),
    )
    between = data.draw(st.sampled_from([[], [layers.ReLU()], [layers.BatchNormalization()]]))
    assert_same(sequential((8, 7, 2), convolution, *between, pool, layers.ReLU(), layers.Flatten(), layers.Dense(2)))


@settings(max_examples=25)
@given(
    st.none() | st.floats(0.5, 3),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    st.floats(0, 1),
    st.floats(-2, 0),
    st.floats(0.5, 3),
)
def test_rectifiers_of_every_kind(maximum, slope, threshold, low, high):
    if maximum is not None and threshold > maximum:
        threshold = maximum
    layer = layers.ReLU(max_value=maximum, negative_slope=slope, threshold=threshold)
    model = sequential((5,), layers.Dense(6), layer, layers.Dense(2))
    lowered = lower(model, input_range=(low, high))
    x = examples(lowered, 20)
    expected = np.asarray(model(x.astype(np.float32)))
    close = np.abs(run(lowered, x) - expected) < 1e-3
    before = np.asarray(model.layers[0](x.astype(np.float32)))
    jump = threshold * (1 - slope) + slope * threshold
    near = (np.abs(before - threshold) < 1e-3).any(axis=1) if jump else np.zeros(len(x), bool)  # a jump is not continuous
    assert close[~near].all()


BLOCKS = {
    "batch normalisation first": lambda: [layers.BatchNormalization(), layers.Conv2D(3, 2), layers.ReLU()],
    "batch normalisation of a vector": lambda: [layers.Flatten(), layers.BatchNormalization(), layers.Dense(3)],
    "batch normalisation after relu": lambda: [layers.Conv2D(3, 2, activation="relu"), layers.BatchNormalization(scale=False)],
    "batch normalisation without centre": lambda: [
        layers.Conv2D(3, 2, use_bias=False),
        layers.BatchNormalization(center=False),
        layers.ReLU(),
    ],
    "depthwise": lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), layers.ReLU()],
    "separable": lambda: [layers.SeparableConv2D(4, 3, strides=2, padding="same", activation="relu")],
    "mobile": lambda: [
        layers.ZeroPadding2D(((0, 1), (1, 0))),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6),
        layers.Conv2D(4, 1, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.GlobalAveragePooling2D(keepdims=True),
    ],
    "global average": lambda: [layers.Conv2D(4, 3), layers.ReLU(), layers.GlobalAveragePooling2D()],
    "linear after linear": lambda: [layers.Conv2D(4, 3), layers.Conv2D(3, 2), layers.Conv2D(2, 1), layers.Conv2D(2, 1)],
    "padding in between": lambda: [layers.ZeroPadding2D(1), layers.Activation("relu"), layers.ZeroPadding2D((2, 0)), layers.Conv2D(2, 3)],
    "nothing at inference": lambda: [
        layers.Dropout(0.5),
        layers.SpatialDropout2D(0.5),
        layers.GaussianNoise(1.0),
        layers.GaussianDropout(0.5),
        layers.ActivityRegularization(0.1),
        layers.Identity(),
        layers.Conv2D(2, 3),
        layers.Activation("linear"),
    ],
    "reshape": lambda: [layers.Reshape((-1, 6)), layers.Dense(4, activation="relu"), layers.Reshape((2, 2, -1))],
    "normalisation of inputs": lambda: [
        layers.Normalization(mean=[0.5, 1.0], variance=[0.25, 4.0]),
        layers.Conv2D(3, 3, padding="same"),
        layers.ReLU(),
    ],
    "one normalisation for all": lambda: [layers.Normalization(axis=None, mean=0.5, variance=0.0), layers.Rescaling(1e-7), layers.Dense(2)],
    "activations that are functions or layers": lambda: [
        layers.Conv2D(3, 2, activation=keras.activations.relu),
        layers.Dense(3, activation=keras.ops.leaky_relu),
        layers.Dense(3, activation=keras.layers.ReLU(0.5, negative_slope=0.25)),
    ],
    "rescaling": lambda: [layers.Rescaling(0.5, offset=-0.25), layers.Conv2D(2, 3), layers.LeakyReLU(0.3)],
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("input_range", [(0.0, 1.0), (-3.0, 2.0)])
def test_stacks_of_layers(name, input_range):
    assert_same(sequential((6, 6, 2), *BLOCKS[name](), layers.Flatten(), layers.Dense(3)), input_range=input_range)


def test_a_residual_network_with_projections_and_shared_layers():
    keras.utils.set_random_seed(3)
    start = layers.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(start)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([y, x]))
    z = layers.Conv2D(6, 1, strides=2)(x)
    w = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu6")(x)
    x = layers.AveragePooling2D(3, 2, padding="same")(layers.Concatenate()([z, w, z]))
    twice = layers.Dense(5, activation="relu")
    x = layers.Dense(5)(layers.Flatten()(x))
    inner = keras.Sequential([layers.Input((5,)), layers.Dense(5, activation="leaky_relu")])
    model = keras.Model(start, layers.Subtract()([inner(twice(twice(x))), x]))
    lowered = assert_same(model)
    assert kinds(lowered, Open).count(Open) == len({op.x for op in lowered.program.ops if isinstance(op, Open)})


def test_one_value_on_two_scales_is_opened_once():
    keras.utils.set_random_seed(1)
    start = layers.Input((5,))
    x = layers.Dense(6, activation="relu")(start)
    y = layers.Add()([layers.Dense(3)(x), layers.Dense(3)(layers.Rescaling(0.3)(x))])
    assert kinds(assert_same(keras.Model(start, y)), Open) == [Open]


@pytest.mark.parametrize("layer", [layers.BatchNormalization, lambda: layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 9.0])])
@pytest.mark.parametrize("linear", [lambda: layers.Dense(3), lambda: layers.Conv2D(3, 2, strides=2, use_bias=False)])
def test_what_normalises_the_inputs_of_a_linear_layer_folds_into_it(layer, linear):
    lowered = assert_same(sequential((4, 4, 2), layer(), linear(), layers.ReLU(), layers.Flatten(), layers.Dense(2)))
    assert kinds(lowered, Conv2D, Dense, Open) == [kinds(lowered, Conv2D, Dense)[0], Open, Dense]


def test_mobile_blocks_with_linear_bottlenecks():
    keras.utils.set_random_seed(4)
    x = start = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu6")(x)
    for _ in range(3):
        y = layers.ReLU(6)(layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(x)))
        y = layers.ReLU(6)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
        x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False)(y))])
    model = keras.Model(start, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    assert {layer.source for layer in assert_same(model).layers} == {"proved"}


def test_part_of_another_model():
    whole = sequential((6, 6, 1), layers.Conv2D(2, 3, activation="relu", name="first"), layers.Flatten(), layers.Dense(3))
    assert_same(keras.Model(whole.inputs[0], whole.get_layer("first").output))
    assert_same(keras.Model(whole.get_layer("first").output, whole.outputs[0]))


def test_a_deep_model_needs_calibration_and_then_works():
    # each layer's proof is looser than the last: random weights cancel, bounds do not
    stack = [layer for _ in range(9) for layer in (layers.Dense(64), layers.ReLU())]
    model = sequential((32,), *stack, layers.Dense(4))
    with pytest.raises(WindowError, match=r"layer 're_lu.*' .*proved to stay below .* calibration="):
        lower(model, input_range=(-8, 8))
    samples = np.random.default_rng(0).uniform(-8, 8, (200, 32))
    lowered = lower(model, input_range=(-8, 8), calibration=samples[:100])
    assert {"proved", "calibrated"} == {layer.source for layer in lowered.layers}
    expected = np.asarray(model(samples[100:].astype(np.float32)))
    np.testing.assert_allclose(run(lowered, samples[100:]), expected, atol=1e-3 * np.abs(expected).max())


def test_a_model_that_fits_neither_is_refused_by_layer():
    model = sequential((4,), layers.Dense(4, name="huge"), layers.ReLU(name="over"), layers.Dense(2))
    model.layers[0].set_weights([np.full((4, 4), 1e9), np.zeros(4)])
    with pytest.raises(WindowError, match=r"'over'|'huge'"):
        lower(model, calibration=np.ones((3, 4)))


class Custom(keras.Model):
    """Computes what no graph shows."""

    def call(self, x):
        return 2 * x


class Random(layers.Layer):
    """Gives another answer each time."""

    def call(self, x):
        return x + keras.random.normal((4, 4, 2))


class Outside(layers.Layer):
    """Computes what Keras cannot see."""

    def call(self, x):
        return keras.ops.convert_to_tensor(np.asarray(x) + 1)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Centred(layers.Layer):
    """Mixes the examples of a batch."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


REFUSED = {
    "softmax over two axes": (lambda: [layers.Softmax(axis=(1, 2), name="odd")], "a softmax over one axis"),
    "unknown activation": (lambda: [layers.Activation("sparsemax", name="odd")], "'relu'"),
    "groups over another axis": (lambda: [layers.GroupNormalization(2, axis=1, name="odd")], "axis=-1"),
    "other normalisation": (lambda: [layers.LayerNormalization(axis=1, name="odd")], "the last axes"),
    "images of another size": (lambda: [layers.Resizing(2, 2, crop_to_aspect_ratio=True, name="odd")], "it crops or pads"),
    "the middle of images": (lambda: [layers.CenterCrop(2, 2, name="odd")], "images that the client has cropped"),
    "random numbers": (lambda: [Random(name="odd")], "draws random numbers"),
    "code that is no graph": (lambda: [Outside(name="odd")], r"its call\(\) cannot be followed: it takes its inputs for numbers"),
    "what depends on other examples": (
        lambda: [Centred(name="odd")],
        r"inside of it, layer 'mean.*' \(Mean\) cannot be shared: its axis is 0",
    ),
    "output padding": (lambda: [layers.Conv2DTranspose(2, 3, 2, output_padding=1, name="odd")], "without them"),
    "channels first": (lambda: [layers.Flatten(data_format="channels_first", name="odd")], "use instead: data_format='channels_last'"),
    "a function of the user's": (lambda: [layers.Dense(3, activation=np.tanh, name="odd")], "it takes its inputs for numbers"),
    "a threshold above the maximum": (lambda: [layers.ReLU(1.0, threshold=2.0, name="odd")], "a threshold up to max_value"),
    "normalisation of another axis": (
        lambda: [layers.Normalization(axis=1, mean=[1.0] * 4, variance=[1.0] * 4, name="odd")],
        "use instead: axis=-1 or None",
    ),
    "axis": (lambda: [layers.BatchNormalization(axis=1, name="odd")], "axis=-1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_private_is_refused_by_name(name):
    stack, complaint = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=rf"layer 'odd' \(\w+\) cannot be shared: .*{complaint}"):
        lower(sequential((4, 4, 2), *stack()))


class TestModelsThatCannotBeRead:
    def test_not_a_model(self):
        with pytest.raises(ModelError, match="a list was given"):
            lower([1, 2])

    def test_not_built(self):
        with pytest.raises(ModelError, match="has no graph"):
            lower(keras.Sequential([layers.Dense(3)]))

    def test_open_shape(self):
        start = layers.Input((None, None, 3))
        with pytest.raises(ModelError, match="all axes but the batch must be known"):
            lower(keras.Model(start, layers.Conv2D(2, 1)(start)))

    def test_a_call_of_its_own(self):
        class Doubled(keras.Model):
            def call(self, x):
                return 2 * super().call(x)

        start = layers.Input((3,))
        with pytest.raises(ModelError, match=r"computes with a call\(\) of its own"):
            lower(Doubled(start, layers.Dense(2)(start)))

    def test_a_training_step_of_its_own_does_not_matter(self):
        class Trained(keras.Model):
            def train_step(self, data):
                raise NotImplementedError

        start = layers.Input((3,))
        assert_same(Trained(start, layers.Dense(2)(start)))

    def test_inputs_that_are_not_numbers(self):
        start = layers.Input((3,), dtype="bool")
        with pytest.raises(ModelError, match="has bool inputs; numbers are needed"):
            lower(keras.Model(start, layers.Dense(2)(start)))

    @pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # Keras' own
    def test_weights_that_are_quantised(self):
        model = sequential((3,), layers.Dense(2, name="small"))
        model.quantize("int8")
        with pytest.raises(UnsupportedLayer, match=r"layer 'small' \(Dense\) cannot be shared: its weights are quantised to int8"):
            lower(model)

    def test_nothing_to_compute(self):
        with pytest.raises(ModelError, match="gives its input back"):
            lower(sequential((3,), layers.Dropout(0.1)))

    def test_weights_that_are_not_finite(self):
        model = sequential((3,), layers.Dense(2, name="broken"))
        model.layers[0].set_weights([np.full((3, 2), np.nan), np.zeros(2)])
        with pytest.raises(ModelError, match="'broken': kernel has 6 NaN or infinite values"):
            lower(model)

    def test_operations_that_are_no_layers(self):
        start = layers.Input((3, 4))
        with pytest.raises(UnsupportedLayer, match=r"\(FFT2\) cannot be shared: .*use instead: sums"):
            lower(keras.Model(start, keras.ops.fft2((start, start))[0]))

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"input_range": (1, 1)}, "two finite numbers"),
            ({"input_range": (0, np.inf)}, "two finite numbers"),
            ({"calibration": np.zeros((2, 4))}, "calibration samples of shape"),
            ({"calibration": np.full((2, 3), 7.0)}, "outside of input_range"),
            ({"margin": 0.5}, "at least 1"),
        ],
    )
    def test_options_that_make_no_sense(self, options, complaint):
        with pytest.raises(ModelError, match=complaint):
            lower(sequential((3,), layers.Dense(2)), **options)


def test_the_label_exists_for_vectors_of_classes_only():
    assert lower(sequential((3,), layers.Dense(1))).program.label is None
    assert lower(sequential((4, 4, 1), layers.Conv2D(2, 2))).program.label is None
    assert lower(sequential((3,), layers.Dense(2))).program.label is not None
