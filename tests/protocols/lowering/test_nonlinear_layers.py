"""Keras layers that compare, multiply and divide: equal to Keras at the corners of the input range, with the rounds that they cost."""

import keras
import numpy as np
import pytest
from keras import layers

from deployment import Deployment
from protocols.curves.activations import CURVES
from protocols.errors import UnsupportedLayer, WindowError
from protocols.lowering import lower
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.selection import Select
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import infer

TOLERANCE = 0.02
RANDOM = keras.initializers.RandomUniform(0.1, 0.4, seed=0)


def sequential(shape, *stack):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input(shape), *stack])
    for variable in model.variables:  # scales and shifts that are not the trivial ones
        if "gamma" in variable.path or "beta" in variable.path:
            variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    return model


def functional(shape, build):
    keras.utils.set_random_seed(0)
    x = layers.Input(shape)
    return keras.Model(x, build(x))


def examples(program, n=6):
    low, high = program.input_range
    random = np.random.default_rng(1)
    x = random.uniform(low, high, (n, *program.input_shape))
    x[0], x[1] = low, high
    x[2] = np.where(x[2] > (low + high) / 2, high, low)
    return x


def assert_same(model, input_range=(-1.0, 1.0), tolerance=TOLERANCE):
    """Both directions of rounding in the oracle, then the two servers: every window is checked. Returns the rounds of the servers."""
    lowered = lower(model, input_range=input_range)
    program = lowered.program
    x = examples(program)
    expected = np.asarray(model(x.astype(np.float32), training=False))
    encoded = encode(x, program.input_scale)
    for rounding in (None, lambda shape: np.ones(shape, np.uint64)):
        y = decode(evaluate(program, lowered.weights, encoded, rounding=rounding), program.output_scale)
        assert np.abs(y.reshape(expected.shape) - expected).max() < tolerance
    transcript = Deployment(program, lowered.weights).run(encoded)
    y = decode(transcript.results[0] + transcript.results[1], program.output_scale)
    assert np.abs(y.reshape(expected.shape) - expected).max() < tolerance
    return transcript.rounds


IMAGES = {
    "pool": lambda: [layers.MaxPooling2D(2)],
    "pool of odd sizes": lambda: [layers.MaxPooling2D((3, 2), strides=(2, 1))],
    "pool with edges": lambda: [layers.MaxPooling2D(3, strides=2, padding="same")],
    "global pool": lambda: [layers.GlobalMaxPooling2D()],
    "global pool with axes": lambda: [layers.GlobalMaxPooling2D(keepdims=True)],
    "a cnn": lambda: [layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(5, "softmax")],
    "repeated pixels": lambda: [layers.UpSampling2D((2, 3)), layers.Conv2D(2, 3)],
    "interpolated pixels": lambda: [layers.UpSampling2D((2, 3), interpolation="bilinear"), layers.Conv2D(2, 3)],
    "smooth pixels": lambda: [layers.Conv2D(2, 3), layers.UpSampling2D(2, interpolation="bicubic")],
    "resized": lambda: [layers.Resizing(5, 9), layers.Conv2D(2, 3)],
    "resized to the nearest": lambda: [layers.Resizing(4, 3, interpolation="nearest"), layers.Conv2D(2, 3)],
    "transposed": lambda: [layers.Conv2DTranspose(3, 3, strides=2)],
    "transposed with edges": lambda: [layers.Conv2DTranspose(3, (4, 3), strides=(2, 3), padding="same", activation="tanh")],
    "transposed with gaps": lambda: [layers.Conv2DTranspose(2, 1, strides=3)],
    "other order": lambda: [layers.Permute((3, 1, 2)), layers.Conv2D(2, 2)],
    "squeezed": lambda: [layers.Conv2D(4, 3), layers.Activation("gelu"), layers.GlobalAveragePooling2D(), layers.Dense(3)],
    "normalised": lambda: [layers.Conv2D(4, 3), layers.LayerNormalization(), layers.ReLU()],
    "normalised as a whole": lambda: [layers.Conv2D(4, 3), layers.LayerNormalization(axis=(1, 2, 3))],
    "normalised in groups": lambda: [layers.Conv2D(4, 3), layers.GroupNormalization(2)],
    "cropped": lambda: [layers.Cropping2D(((1, 2), (0, 1))), layers.Conv2D(3, 2)],
    "slopes of its own": lambda: [
        layers.Conv2D(3, 2),
        layers.PReLU(keras.initializers.RandomUniform(0.1, 0.4, seed=0), shared_axes=(1, 2)),
    ],
    "a wrapped kernel": lambda: [layers.SpectralNormalization(layers.Conv2D(3, 2))],
}
SEQUENCES = {
    "convolved": lambda: [layers.Conv1D(4, 3, padding="same", activation="relu"), layers.MaxPooling1D(2), layers.Conv1D(2, 2, strides=2)],
    "causal": lambda: [layers.Conv1D(4, 3, padding="causal", dilation_rate=2)],
    "pooled with edges": lambda: [layers.MaxPooling1D(3, strides=2, padding="same")],
    "pooled": lambda: [layers.GlobalMaxPooling1D()],
    "softmax of rows": lambda: [layers.Dense(6), layers.Softmax()],
    "normalised": lambda: [layers.LayerNormalization(epsilon=1e-3), layers.Dense(3)],
    "normalised without scale": lambda: [layers.LayerNormalization(scale=False, center=False, epsilon=1e-2)],
    "means": lambda: [layers.Conv1D(4, 2, activation="gelu"), layers.GlobalAveragePooling1D(), layers.Dense(2)],
    "repeated": lambda: [layers.Flatten(), layers.Dense(3), layers.RepeatVector(4)],
    "simple steps": lambda: [layers.SimpleRNN(4), layers.Dense(2)],
    "long memory": lambda: [layers.LSTM(4, return_sequences=True, go_backwards=True), layers.LSTM(3), layers.Dense(2)],
    "gated steps": lambda: [layers.GRU(4, return_sequences=True, bias_initializer="normal"), layers.Dense(2)],
    "gated steps without bias": lambda: [layers.GRU(3, use_bias=False)],
    "both ways": lambda: [layers.Bidirectional(layers.LSTM(2, return_sequences=True)), layers.Bidirectional(layers.GRU(2), "sum")],
    "step by step": lambda: [layers.Reshape((7, 3, 1)), layers.TimeDistributed(layers.Conv1D(2, 2)), layers.Flatten(), layers.Dense(2)],
    "means of windows": lambda: [layers.AveragePooling1D(2), layers.AveragePooling1D(2, 1, padding="same")],
    "transposed": lambda: [layers.Conv1DTranspose(2, 3, 2, padding="same"), layers.Conv1DTranspose(2, 2)],
    "one group a channel": lambda: [layers.SeparableConv1D(4, 3, activation="relu"), layers.DepthwiseConv1D(2, depth_multiplier=2)],
    "moved": lambda: [layers.ZeroPadding1D((1, 2)), layers.UpSampling1D(2), layers.Cropping1D((3, 1)), layers.Permute((2, 1))],
    "root mean squares": lambda: [layers.RMSNormalization(epsilon=1e-3), layers.Dense(3)],
    "sums by letters": lambda: [layers.EinsumDense("bsc,cde->bdse", (2, 7, 4), bias_axes="e", bias_initializer="normal"), layers.ReLU()],
    "softmax over steps": lambda: [layers.Dense(6), layers.Softmax(axis=1)],
    "a function of the user's": lambda: [layers.Lambda(lambda x: keras.ops.relu(x) * 2), layers.Dense(2)],
    "logarithms": lambda: [layers.Dense(5, activation="log_softmax")],
    "ELU with alpha": lambda: [layers.Dense(5), layers.ELU(0.5)],
    "an activation layer": lambda: [layers.Dense(5, activation=layers.ReLU(max_value=1.0))],
}


@pytest.mark.parametrize("name", IMAGES)
def test_layers_over_images(name):
    assert_same(sequential((7, 6, 2), *IMAGES[name]()))


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.sample(9)
def test_layers_over_sequences(name):
    assert_same(sequential((7, 3), *SEQUENCES[name]()))


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "gelu", "silu", "softplus", "mish", "elu", "selu", "celu", "hard_sigmoid", "hard_tanh"]
)
def test_activations_between_dense_layers(name):
    rounds = assert_same(sequential((5,), layers.Dense(8, activation=name), layers.Dense(3)))
    assert rounds <= 6  # the function, a rounding, an opening


MERGES = {
    "dot products": lambda a, b: layers.Dot(1)([a, b]),
    "maximum": lambda a, b: layers.Maximum()([a, b, a]),
    "minimum": lambda a, b: layers.Minimum()([a, b]),
    "average": lambda a, b: layers.Average()([a, b, b]),
    "difference": lambda a, b: layers.Subtract()([a, b]),
    "product": lambda a, b: layers.Multiply()([a, b]),
    "product of three": lambda a, b: layers.Multiply()([a, b, layers.Activation("sigmoid")(a)]),
    "square": lambda a, b: layers.Multiply()([layers.Add()([a, b]), layers.Add()([a, b])]),
    "gate": lambda a, b: layers.Multiply()([a, layers.Dense(1, activation="sigmoid")(b)]),
}


@pytest.mark.parametrize("name", MERGES)
def test_merged_branches(name):
    assert_same(functional((5,), lambda x: MERGES[name](layers.Dense(6)(x), layers.Dense(6, activation="relu")(x))))


ATTENTION = {
    "itself": lambda x: layers.MultiHeadAttention(2, 4)(x, x),
    "other keys": lambda x: layers.MultiHeadAttention(2, 4, value_dim=3, output_shape=5)(x, layers.Dense(6)(x), layers.Dense(2)(x)),
    "additive": lambda x: layers.AdditiveAttention()([x, layers.Dense(3)(x)]),
    "additive without a scale": lambda x: layers.AdditiveAttention(use_scale=False)([x, x]),
    "no bias": lambda x: layers.MultiHeadAttention(1, 2, use_bias=False)(layers.Dense(2)(x), value=x),
    "a transformer block": lambda x: layers.LayerNormalization()(
        layers.Add()([x, layers.Dense(3)(layers.Dense(8, "gelu")(layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])))])
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    assert_same(functional((5, 3), ATTENTION[name]))


def read_and_write(cell):
    """A sequence is read, and another layer goes on with the state."""

    def build(x):
        output, *state = cell(3, return_state=True, return_sequences=True)(x)
        return layers.Concatenate()([layers.Flatten()(output), cell(3)(x, initial_state=state), *state])

    return build


def test_a_state_without_its_name():
    assert_same(functional((4, 3), lambda x: layers.GRU(3)(x, keras.ops.mean(x, 1))))
    with pytest.raises(UnsupportedLayer, match="its initial state has 1 parts"):
        lower(functional((4, 3), lambda x: layers.LSTM(3)(x, [x[:, 0]])))


@pytest.mark.parametrize("cell", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_states_that_are_handed_on(cell):
    assert_same(functional((4, 3), read_and_write(cell)))


def test_softmax_over_what_a_private_mask_shows():
    def build(x):
        return layers.Softmax()(layers.Dense(6)(x), mask=keras.ops.greater(x, 0.3))

    model = functional((4, 6), build)
    x = np.random.default_rng(0).uniform(-1, 1, (5, 4, 6))
    x[0], x[1] = 1, 0.5
    lowered = lower(model, input_range=(-1, 1))
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x, lowered.program.input_scale))
    y = decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale).reshape(x.shape)
    np.testing.assert_allclose(y, np.asarray(model(x.astype(np.float32))), atol=0.003)


def test_unit_vectors_where_no_sample_is_short():
    model = sequential((6,), layers.Dense(5), layers.UnitNormalization(), layers.Dense(3))
    x = np.random.default_rng(0).uniform(0.2, 1, (40, 6))
    with pytest.raises(WindowError, match=r"must be well above 0: give calibration="):
        lower(model)
    lowered = lower(model, calibration=x[:30])
    assert "calibrated" in {layer.source for layer in lowered.layers}
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x[30:], lowered.program.input_scale))
    y = decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)
    np.testing.assert_allclose(y, model.predict(x[30:], verbose=0), atol=0.005)


def test_rows_of_a_table_by_private_indices():
    model = sequential((6,), layers.Embedding(9, 4), layers.LayerNormalization(), layers.Flatten(), layers.Dense(3))
    lowered = lower(model, input_range=(0, 8))
    x = np.random.default_rng(0).integers(0, 9, (5, 6))
    x[0] = np.arange(6) + 3
    x[1] = 0
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x, lowered.program.input_scale))
    y = decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)
    np.testing.assert_allclose(y, model.predict(x, verbose=0), atol=TOLERANCE)
    with pytest.raises(WindowError, match=r"input_range=\(0, 8\)"):
        lower(model, input_range=(0, 9))
    with pytest.raises(UnsupportedLayer, match="2000 rows"):
        lower(sequential((6,), layers.Embedding(2000, 4)))


def test_the_label_of_a_softmax_is_that_of_its_logits():
    program = lower(sequential((6,), layers.Dense(8, activation="relu"), layers.Dense(10, activation="softmax"))).program.for_label()
    plain = lower(sequential((6,), layers.Dense(8, activation="relu"), layers.Dense(10))).program.for_label()
    assert program.ops == plain.ops


def test_what_a_layer_is_called_with_and_does_not_know_is_refused():
    refused = {
        r"its initial state has shapes \[\(4,\)\]": functional(
            (5, 4), lambda x: layers.Bidirectional(layers.GRU(2))(x, initial_state=[x[:, 0]] * 2)
        ),
        "its initial state has 1 parts": functional((5, 4), lambda x: layers.Bidirectional(layers.GRU(2))(x, [x[:, 0, :2]])),
        "it has a mask, and an axis": functional((3, 4), lambda x: layers.Softmax(1)(x, mask=np.eye(4, dtype=bool)[None, :3])),
        "its initial state is a constant": functional((5, 4), lambda x: layers.GRU(2)(x, initial_state=np.ones((1, 2), np.float32))),
        "its mask is a constant": functional((5, 4), lambda x: layers.GRU(2)(x, mask=np.ones((1, 5), bool))),
    }
    for message, model in refused.items():
        with pytest.raises(UnsupportedLayer, match=message):
            lower(model, input_range=(0, 8))


def tokens(build, **settings):
    keras.utils.set_random_seed(0)
    x = layers.Input((6,), dtype="int32")
    return keras.Model(x, build(layers.Embedding(9, 4, embeddings_initializer="normal", **settings)(x)))


def ring_attention(e):
    """Each step attends to itself and the next."""
    band = np.eye(6, dtype=bool) | np.eye(6, k=1, dtype=bool)
    return layers.MultiHeadAttention(2, 4)(e, e, attention_mask=band[None])


PADDED = {
    "attention": lambda e: layers.MultiHeadAttention(2, 4)(e, e),
    "causal attention": lambda e: layers.MultiHeadAttention(2, 4)(e, e, use_causal_mask=True),
    "a public mask": ring_attention,
    "attention without heads": lambda e: layers.Attention(use_scale=True)([e, e]),
    "additive attention": lambda e: layers.AdditiveAttention()([e, e]),
    "LSTM": lambda e: layers.LSTM(3)(e),
    "GRU": lambda e: layers.GRU(3)(e),
    "GRU, all steps": lambda e: layers.GRU(3, return_sequences=True)(e),
    "a simple one": lambda e: layers.SimpleRNN(3)(e),
    "LSTM backwards, all steps": lambda e: layers.LSTM(3, return_sequences=True, go_backwards=True)(e),
    "LSTM both ways": lambda e: layers.Bidirectional(layers.LSTM(3))(e),
    "two LSTMs": lambda e: layers.LSTM(2)(layers.LSTM(3, return_sequences=True)(e)),
    "the mean of steps": lambda e: layers.GlobalAveragePooling1D()(layers.Dense(3, activation="relu")(e)),
    "grouped heads": lambda e: layers.GroupQueryAttention(2, 4, 2)(e, e, use_causal_mask=True),
}


@pytest.mark.filterwarnings("ignore:.*mask attached to it:UserWarning")  # Keras' own layers inside of GroupQueryAttention
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", PADDED)
@pytest.mark.sample(6)
def test_padding_that_depends_on_private_tokens(name, padded):
    model = tokens(PADDED[name], mask_zero=padded)
    lowered = lower(model, input_range=(0, 8))
    x = np.random.default_rng(0).integers(1, 9, (7, 6))
    for length in range(1, 6):
        x[length, length:] = 0
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x, lowered.program.input_scale))
    y = decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=0.005)


def test_the_weights_of_a_recurrent_layer_are_shared_once():
    program = lower(sequential((9, 3), layers.LSTM(4))).program
    assert sum(shape == (4, 16) for shape in program.weights) <= 2  # the state has one scale after the first step


def test_squeeze_and_excite():
    def build(x):
        y = layers.Conv2D(4, 3, activation="relu")(x)
        s = layers.GlobalAveragePooling2D(keepdims=True)(y)
        return layers.Dense(3)(layers.Flatten()(layers.Multiply()([y, layers.Dense(4, activation="sigmoid")(s)])))

    assert_same(functional((6, 6, 2), build))


def rounds_of(*stack, shape=(8, 8, 1)):
    return assert_same(sequential(shape, *stack))


def test_max_pooling_costs_six_rounds_more():
    def stack(*pool):
        return [layers.Conv2D(2, 3), *pool, layers.ReLU(), layers.Flatten(), layers.Dense(4)]

    assert rounds_of(*stack(layers.MaxPooling2D(2))) - rounds_of(*stack()) == 6


def test_softmax_over_ten_classes_costs_at_most_twenty_rounds():
    stack = [layers.Dense(8, activation="relu"), layers.Dense(10)]
    extra = rounds_of(*stack, layers.Softmax(), shape=(6,)) - rounds_of(*stack, shape=(6,))
    assert extra == 20


def test_the_largest_is_found_before_the_rectifier():
    first = lower(sequential((8, 8, 1), layers.Conv2D(2, 3, activation="relu"), layers.MaxPooling2D(2))).program
    second = lower(sequential((8, 8, 1), layers.Conv2D(2, 3), layers.MaxPooling2D(2), layers.ReLU())).program
    assert first == second
    compared = [value.size for op, value in zip(first.ops, infer(first), strict=True) if isinstance(op, Select)]
    assert compared == [6 * 3 * 2, 3 * 3 * 2, 3 * 3 * 2]


def test_a_rectifier_that_others_read_stays_where_it_is():
    def build(x):
        y = layers.ReLU()(layers.Conv2D(2, 3)(x))
        return layers.Concatenate()([layers.Flatten()(y), layers.Flatten()(layers.MaxPooling2D(2)(y))])

    assert_same(functional((6, 6, 1), build))


ENDS = [(2.0, 3.0), (0.5, 0.75), (20.0, 30.0), (100.0, 101.0), (3.0, 3.01), (1.0, 1.0001), (0.0, 0.001)]


@pytest.mark.parametrize(("low", "high"), [*ENDS, *((-high, -low) for low, high in ENDS)])
@pytest.mark.sample(5)
def test_a_curve_whose_range_lies_beyond_an_asymptote(low, high):
    """There it is one straight line."""
    names = set(CURVES) | {"soft_shrink", "hard_tanh", "relu6", "leaky_relu", "elu", "selu", "celu"}
    for name in sorted(names & set(dir(keras.activations)) - {"exponential", "erf"}):
        model = sequential((64,), layers.Activation(name))
        lowered = lower(model, input_range=(low, high))
        scale = lowered.program.input_scale
        x = np.rint(np.linspace(low, high, 128).reshape(2, 64) / scale) * scale
        ring = encode(x, scale)
        y = decode(Deployment(lowered.program, lowered.weights).output(ring), lowered.program.output_scale)
        np.testing.assert_allclose(y, np.asarray(model(x.astype(np.float32))), atol=2.0**-11 + 2.0**-13, rtol=2.0**-16, err_msg=name)


@pytest.mark.parametrize("layer", [lambda: layers.ELU(0.5), lambda: layers.ELU(2.0), lambda: layers.Activation("celu")])
def test_layers_of_curves_beyond_an_asymptote(layer):
    for low, high in ((2.0, 3.0), (-40.0, -39.0)):
        model = sequential((64,), layer())
        lowered = lower(model, input_range=(low, high))
        x = np.linspace(low, high, 64)[None]
        y = decode(
            Deployment(lowered.program, lowered.weights).output(encode(x, lowered.program.input_scale)), lowered.program.output_scale
        )
        np.testing.assert_allclose(y, np.asarray(model(x.astype(np.float32))), atol=2.0**-10)
