"""`keras.ops` between layers, and layers that are followed into their `call`: equal to Keras, in the simulator."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.errors import UnsupportedLayer, WindowError
from protocols.lowering import lower
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Shift
from protocols.mpc.operations.wires import Open

STEPS, WIDTH = 6, 4
TABLE = np.random.default_rng(0).normal(size=(STEPS, WIDTH)).astype(np.float32)


def functional(build, shape=(STEPS, WIDTH)):
    keras.utils.set_random_seed(0)
    x = layers.Input(shape)
    return keras.Model(x, build(x))


def answers(model, x, input_range=(-1.0, 1.0), calibration=None):
    lowered = lower(model, input_range=input_range, calibration=calibration)
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x, lowered.program.input_scale))
    return decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)


def examples(shape=(STEPS, WIDTH)):
    x = np.random.default_rng(1).uniform(-1, 1, (6, *shape))
    x[0], x[1], x[2] = -1, 1, 0
    return x


def assert_same(model, tolerance=0.003):
    x = examples(tuple(model.inputs[0].shape[1:]))
    expected = np.asarray(model(x.astype(np.float32), training=False), np.float64)
    np.testing.assert_allclose(answers(model, x).reshape(expected.shape), expected, atol=tolerance, rtol=2e-3)


OPERATIONS = {
    "sums with numbers": lambda x: (2 * x - x[:, 1:2] / 3 + 1) * -0.5,
    "a number minus": lambda x: 1 - x,
    "a table added": lambda x: x + TABLE,
    "a table times": lambda x: x * TABLE[None],
    "a row added": lambda x: x - TABLE[0],
    "a matrix": lambda x: ops.matmul(x, TABLE[:WIDTH]),
    "matrices": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "letters": lambda x: ops.einsum("bij,bkj->bik", x, x),
    "letters of a batch": lambda x: ops.einsum("bij,bij->bi", x, x),
    "letters of a table": lambda x: ops.einsum("bij,jk->bki", x, TABLE[:WIDTH]),
    "means": lambda x: ops.mean(x, axis=1),
    "means of all": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "sums": lambda x: ops.sum(x, -1),
    "variances": lambda x: ops.var(x, 1),
    "sums so far": lambda x: ops.cumsum(x, 1),
    "largest": lambda x: ops.max(x, 1),
    "smallest": lambda x: ops.min(x, -1, keepdims=True),
    "another shape": lambda x: ops.reshape(x, (-1, 3, 8)),
    "stacked": lambda x: ops.stack([x, x * 2], 1),
    "joined": lambda x: ops.concatenate([x, x * 2], -1),
    "split": lambda x: ops.multiply(*ops.split(x, 2, -1)),
    "turned": lambda x: ops.flip(ops.roll(x, 1, 1), 2),
    "slices": lambda x: x[:, ::2, None, -1],
    "repeated": lambda x: ops.tile(ops.repeat(x, 2, 1), (1, 1, 2)),
    "padded": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1))),
    "mirrored": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1)), mode="reflect"),
    "a triangle": lambda x: ops.tril(x),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "log sum exp": lambda x: ops.logsumexp(x, -1),
    "clipped": lambda x: ops.clip(3 * x, -1, 2),
    "absolute": ops.abs,
    "at least": lambda x: ops.maximum(x, 0.25),
    "at most": lambda x: ops.minimum(x, 0.25),
    "the smaller": lambda x: ops.minimum(x, x[:, :1]),
    "exponentials": lambda x: ops.exp(2 * x),
    "logarithms": lambda x: ops.log(ops.exp(x) + 0.1),
    "reciprocals": lambda x: 1 / (x + 2),
    "reciprocal roots": lambda x: ops.rsqrt(x * x + 0.1),
    "roots": lambda x: ops.sqrt(x * x + 0.1),
    "powers": lambda x: x**3 + ops.square(x),
    "quotients": lambda x: x / (ops.softplus(x) + 0.5),
    "chosen": lambda x: ops.where(x > 0.1, x, -2 * x),
    "chosen by a public truth": lambda x: ops.where(TABLE > 0, x, 0.5),
    "compared": lambda x: ops.cast(x >= 0.1, "float32") + ops.cast(x < -0.5, "float32"),
    "both and either": lambda x: ops.cast(ops.logical_or(ops.logical_and(x > -0.5, x < 0.5), ops.logical_not(x > -0.9)), "float32"),
    "equal": lambda x: ops.cast(ops.equal(x, 0.0), "float32") - ops.cast(ops.not_equal(x, 1.0), "float32"),
    "the largest two": lambda x: ops.top_k(ops.mean(x, 1), 2)[0],
    "where the largest two are": lambda x: ops.cast(ops.top_k(ops.mean(x, 1) + TABLE[0], 2)[1], "float32"),
    "where the largest is": lambda x: ops.cast(ops.argmax(ops.mean(x, 1) + TABLE[0], -1), "float32"),
    "GELU": ops.gelu,
    "error function": ops.erf,
    "leaky": lambda x: ops.leaky_relu(x, 0.3) + ops.relu6(8 * x) + ops.elu(x, 0.5) + ops.hard_sigmoid(4 * x),
    "normalised": lambda x: ops.layer_normalization(x, epsilon=1e-3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_between_layers(name):
    assert_same(functional(OPERATIONS[name]))


REFUSED = {
    "over the batch": (lambda x: x - ops.mean(x, 0, keepdims=True), "its axis is 0"),
    "between examples": (lambda x: ops.flip(x, 0), "from one example to another"),
    "an exponent": (lambda x: ops.power(x, 0.5), "its exponent is not 1, 2, 3 or 4"),
    "a constant joined": (lambda x: ops.concatenate([x, TABLE[None]], 1), "for one example only"),
    "no rule": (lambda x: ops.sin(x), r"\(Sin\) cannot be shared: it has no private form here"),
    "a cast": (lambda x: ops.cast(ops.cast(3 * x, "int32"), "float32"), "casts to int32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_private_form_are_refused(name):
    build, complaint = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=complaint):
        lower(functional(build), input_range=(-1, 1))


@pytest.mark.parametrize("build", [lambda x: 1 / x, ops.log, ops.rsqrt, lambda x: ops.exp(60 * x)])
def test_ranges_in_which_a_function_cannot_be_computed_are_refused(build):
    with pytest.raises(WindowError, match=r"well above 0|more than 256 knots"):
        lower(functional(build), input_range=(-1, 1))


def test_a_table_is_added_without_a_message():
    program = lower(functional(lambda x: layers.Dense(3)(x + TABLE)), input_range=(-1, 1)).program
    assert sum(isinstance(op, Shift) for op in program.ops) == 1
    assert sum(isinstance(op, Open | Truncate) for op in program.ops) == 1


def test_what_the_output_does_not_need_is_not_computed():
    program = lower(functional(lambda x: ops.top_k(ops.mean(x, 1), 1)[1] * 1.0), input_range=(-1, 1)).program
    both = lower(functional(lambda x: ops.sum(ops.stack([*ops.top_k(ops.mean(x, 1), 1)], 1), 1)), input_range=(-1, 1)).program
    assert len(program.ops) < len(both.ops)


class TokenAndPosition(layers.Layer):
    """Rows of a table for each token, and for each position."""

    def __init__(self, steps, words, width):
        super().__init__()
        self.words = layers.Embedding(words, width)
        self.positions = layers.Embedding(steps, width)

    def call(self, x):
        return self.words(x) + self.positions(ops.arange(0, ops.shape(x)[-1], 1))


class Block(layers.Layer):
    """An encoder block as it is usually written."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.dense = keras.Sequential([layers.Dense(hidden, activation="gelu"), layers.Dense(width)])
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()
        self.dropout = layers.Dropout(0.1)

    def call(self, x, training=None):
        x = self.first(x + self.dropout(self.attention(x, x), training=training))
        return self.second(x + self.dropout(self.dense(x), training=training))


def test_layers_of_the_user_are_followed():
    keras.utils.set_random_seed(0)
    start = layers.Input((10,), dtype="int32")
    x = Block(8, 2, 8)(Block(8, 2, 8)(TokenAndPosition(10, 9, 8)(start)))
    model = keras.Model(start, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    tokens = np.random.default_rng(0).integers(0, 9, (50, 10))
    expected = model.predict(tokens, verbose=0)
    with pytest.raises(WindowError, match="calibration="):
        lower(model, input_range=(0, 8))
    y = answers(model, tokens[:8], (0, 8), calibration=tokens[8:])
    np.testing.assert_allclose(y, expected[:8], atol=0.02)


class Own(keras.Model):
    """A model with a call of its own."""

    def __init__(self):
        super().__init__()
        self.hidden, self.last = layers.Dense(5, activation="relu"), layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x) + 1)


def test_a_model_with_a_call_of_its_own_inside_of_another():
    assert_same(functional(Own()))


def test_nested_models_with_several_inputs_and_outputs():
    a, b = layers.Input((STEPS, WIDTH)), layers.Input((STEPS, WIDTH))
    inner = keras.Model([a, b], [layers.Dense(3)(a + b), layers.Dense(3)(a - b)])
    assert_same(functional(lambda x: layers.Multiply()(inner([x, 2 * x]))))


def test_the_selectors_of_a_maximum_with_a_number_are_those_of_a_rectifier():
    program = lower(functional(lambda x: ops.maximum(x, 0.25)), input_range=(-1, 1)).program
    assert sum(isinstance(op, Select) for op in program.ops) == 1
