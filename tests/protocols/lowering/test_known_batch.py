"""Layers that are called with a known number of examples: what depends on shapes only follows, and examples do not mix."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering import lower
from protocols.lowering.nodes.numbers import EXAMPLES
from protocols.mpc.numbers.fixed_point import decode, encode

STEPS, WIDTH = 6, 4
TABLE = np.random.default_rng(0).normal(size=(STEPS, WIDTH)).astype(np.float32)


def functional(build):
    keras.utils.set_random_seed(0)
    x = layers.Input((STEPS, WIDTH))
    return keras.Model(x, build(x))


def answers(model, x, input_range=(-1.0, 1.0)):
    lowered = lower(model, input_range=input_range)
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x, lowered.program.input_scale))
    return decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)


def assert_same(model):
    x = np.random.default_rng(1).uniform(-1, 1, (5, STEPS, WIDTH))
    x[0], x[1] = -1, 0
    expected = np.asarray(model(x.astype(np.float32), training=False), np.float64)
    np.testing.assert_allclose(answers(model, x).reshape(expected.shape), expected, atol=0.003, rtol=2e-3)


class Computed(layers.Layer):
    """A layer of a function."""

    def __init__(self, function, **settings):
        super().__init__(**settings)
        self.function = function

    def call(self, x):
        return self.function(x)


class Raised(layers.Layer):
    """One more than what it is given, by shapes."""

    def call(self, x):
        return x + ops.broadcast_to(ops.ones((1, 1, WIDTH)), ops.shape(x))


class Classed(layers.Layer):
    """A row of its own before all others, then positions, as vision transformers begin."""

    def build(self, shape):
        self.row = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal")
        self.places = self.add_weight(shape=(20, shape[-1]), initializer="normal")

    def call(self, x):
        examples, steps, width = ops.shape(x)
        row = ops.broadcast_to(self.row, (examples, 1, width))
        together = ops.concatenate([row, x], axis=1)
        return together + ops.broadcast_to(ops.slice(self.places, (0, 0), (steps + 1, width)), ops.shape(together))


class Attending(layers.Layer):
    """Attention as people write it: heads by reshape with the number of examples, a causal mask, a softmax that is given it by position."""

    def __init__(self, by_position):
        super().__init__()
        self.projected, self.softmax, self.by_position = layers.Dense(3 * WIDTH), layers.Softmax(), by_position

    def call(self, x):
        examples, steps = ops.shape(x)[0], ops.shape(x)[1]
        query, key, value = (
            ops.transpose(ops.reshape(one, (examples, steps, 2, WIDTH // 2)), (0, 2, 1, 3)) for one in ops.split(self.projected(x), 3, -1)
        )
        place = ops.arange(steps)
        seen = ops.broadcast_to(place[None, :, None] >= place[None, None, :], (examples, steps, steps))[:, None]
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        weights = self.softmax(scores, seen) if self.by_position else self.softmax(scores, mask=seen)
        return ops.reshape(ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3)), (examples, steps, WIDTH))


class Doubled(layers.Dense):
    """Not what it extends."""

    def call(self, x):
        return 2 * super().call(x)


class Named(layers.Dense):
    """What it extends."""


class Pair(layers.Layer):
    """Gives nothing beside its result, and takes what no layer of Keras does."""

    def __init__(self):
        super().__init__()
        self.dense = layers.EinsumDense("btd,de->bte", (None, WIDTH))

    def call(self, x, cache=None):
        return self.dense(x), None


class Around(layers.Layer):
    """Calls one that gives nothing beside its result."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def call(self, x):
        y, _ = self.pair(x, cache=None)
        return ops.reshape(y, (ops.shape(y)[0], ops.shape(y)[1] * WIDTH))


def free_length(x):
    """A nested model for sequences of any length, called with one that is known."""
    start = layers.Input((None, WIDTH))
    return keras.Model(start, Raised()(layers.Dense(WIDTH)(start)))(x)


def of_two(x):
    """A nested model that is given a value, and a constant in the place of its second input."""
    a, b = layers.Input((STEPS, WIDTH)), layers.Input((STEPS, WIDTH))
    return keras.Model([a, b], layers.Dense(3)(a) + layers.Dense(3)(b))([x, ops.ones_like(x)])


@functools.wraps(keras.activations.relu)
def wrapped(x):
    """Not what it has the name of."""
    return keras.activations.relu(x) * 2 - 1


FOLLOWED = {
    "moved inside of an example": lambda x: ops.roll(x, (1, 2), axis=(1, -1)),
    "ones": lambda x: x + ops.ones_like(x),
    "zeros": lambda x: ops.zeros_like(x) - x,
    "full": lambda x: x * ops.full_like(x, 2.5),
    "nothing times": lambda x: x + (x * 0 + 1),
    "constants of constants": lambda x: x * ops.cumsum(ops.ones_like(x), 1),
    "a layer of a constant": lambda x: x + layers.Dense(WIDTH)(ops.ones_like(x)),
    "a constant in a layer": lambda x: layers.Concatenate(1)([ops.ones_like(x), x]),
    "a constant beside": lambda x: Computed(lambda y: ops.stack([y, ops.broadcast_to(TABLE, ops.shape(y))], 1))(x),
    "ones around": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0)), constant_values=1.5),
    "the number of examples": lambda x: Computed(lambda y: ops.reshape(y, (ops.shape(y)[0], -1)))(x),
    "a row of its own": lambda x: Classed()(x),
    "attention, a mask by position": lambda x: Attending(by_position=True)(x),
    "attention, a mask by name": lambda x: Attending(by_position=False)(x),
    "a mask that hides a row": lambda x: layers.Softmax()(x, mask=np.tril(np.ones((1, STEPS, WIDTH)), -1)),
    "a class of one's own": lambda x: Named(3)(x),
    "one that does something else": lambda x: Doubled(3)(x),
    "one that gives nothing beside": lambda x: Around()(x),
    "any length": free_length,
    "a constant as an input": of_two,
    "an activation of one's own": lambda x: layers.Dense(3, activation=lambda y: ops.relu(y) * 2 + 1)(x),
    "an activation that wraps another": lambda x: layers.Dense(3, activation=wrapped)(x),
    "truths as whole numbers": lambda x: ops.cast(ops.cast(ops.not_equal(x, 0), "int32") + ops.cast(x > 0.5, "int32"), "float32"),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_depends_on_shapes_follows(name):
    assert_same(functional(FOLLOWED[name]))


MIXED = {
    "their number": lambda x: x / ops.cast(ops.shape(x)[0], "float32"),
    "their order": lambda x: ops.flip(x, 0),
    "their mean": lambda x: x - ops.mean(x, 0, keepdims=True),
    "all in one": lambda x: ops.broadcast_to(ops.mean(ops.reshape(x, (1, -1)), 1, keepdims=True)[..., None], ops.shape(x)),
    "counted": lambda x: x + ops.cumsum(ops.ones_like(x), 0),
    "the first": lambda x: ops.broadcast_to(x[:1], ops.shape(x)),
    "turned": lambda x: ops.transpose(ops.reshape(x, (ops.shape(x)[0], 1, -1)), (1, 0, 2)),
    "beside each other": lambda x: ops.reshape(x, (-1, ops.shape(x)[0], STEPS * WIDTH)),
    "at random": lambda x: x + keras.random.normal(ops.shape(x)),
    "moved by two": lambda x: ops.roll(x, 2, axis=0),
    "moved by two in a row": lambda x: ops.roll(x, 2 * STEPS * WIDTH),
    "below a diagonal": lambda x: ops.reshape(ops.triu(ops.reshape(x, (ops.shape(x)[0], -1)), -1), ops.shape(x)),
    "counted in pairs": lambda x: x + ops.cast(ops.arange(ops.shape(x)[0]) // 2, "float32")[:, None, None],
    "the first two": lambda x: x * ops.cast(ops.arange(ops.shape(x)[0]) < 2, "float32")[:, None, None],
    "another graph for one": lambda x: x * 2 if x.shape[0] == 1 else ops.relu(x),
}


@pytest.mark.parametrize("name", MIXED)
def test_examples_that_mix_are_refused(name):
    said = r"axis is (0|None)|inside of an example|any number of examples|one answer|fixed shapes"
    with pytest.raises(UnsupportedLayer, match=said):
        lower(functional(Computed(MIXED[name])), input_range=(-1, 1))


class Training(layers.Layer):
    """Says to a layer in it that it trains, always."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x, training=True)


AT_RANDOM = {
    "batch statistics": lambda: layers.BatchNormalization(),
    "draws": lambda: layers.Dropout(0.5),
    "draws of a layer": lambda: layers.LSTM(3, dropout=0.5),
    "draws around a layer": lambda: layers.Bidirectional(layers.LSTM(3, dropout=0.5)),
    "draws two deep": lambda: Training(layers.Dropout(0.5)),
    "noise": lambda: layers.GaussianNoise(0.5),
}


@pytest.mark.parametrize("name", AT_RANDOM)
def test_a_call_that_says_that_it_trains_is_refused_in_a_prediction(name):
    with pytest.raises(UnsupportedLayer, match="training=True"):
        lower(functional(lambda x: Training(AT_RANDOM[name]())(x)), input_range=(-1, 1))


STILL = {
    "no draws": lambda: layers.Dropout(0),
    "frozen": lambda: layers.BatchNormalization(trainable=False),
    "no training within": lambda: layers.LSTM(3),
}


@pytest.mark.parametrize("name", STILL)
def test_a_call_that_says_that_it_trains_may_change_nothing(name):
    assert_same(functional(lambda x: layers.Dense(3)(Training(STILL[name]())(x))))


IN_GRAPHS = {
    "moved by one": lambda x: ops.roll(x, 1, axis=0),
    "moved by two": lambda x: ops.roll(x, 2, axis=0),
    "moved by as many as are tried": lambda x: ops.roll(x, EXAMPLES, axis=-3),
    "where the largest is": lambda x: ops.argmax(x[:, :, 0], axis=0),
    "where the smallest is": lambda x: ops.argmin(x[:, 0], axis=0),
    "in an activation": lambda x: layers.Dense(3, activation=lambda y: ops.roll(y, 2, axis=0))(x),
}


@pytest.mark.parametrize("name", IN_GRAPHS)
def test_examples_that_mix_in_a_graph_are_refused(name):
    with pytest.raises(UnsupportedLayer, match=r"one example|axis is (0|-3)|inside of an example|any number of examples"):
        lower(functional(IN_GRAPHS[name]), input_range=(-1, 1))


def test_examples_that_mix_in_a_batch_of_known_size_are_refused():
    x = layers.Input(batch_shape=(2, WIDTH))
    with pytest.raises(UnsupportedLayer, match=r"axis is 0"):
        lower(keras.Model(x, ops.roll(x, 2, axis=0)), input_range=(-1, 1))


def test_a_vocabulary_is_looked_up_and_spoken_by_one_table():
    class Tied(layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = self.add_weight(shape=(9, WIDTH), initializer="normal")

        def call(self, x):
            taken = ops.take(ops.convert_to_tensor(self.table), ops.cast(x, "int32"), axis=0)
            return ops.matmul(taken, ops.transpose(self.table))

    keras.utils.set_random_seed(0)
    start = layers.Input((STEPS,), dtype="int32")
    model, tokens = keras.Model(start, Tied()(start)), np.random.default_rng(0).integers(0, 9, (5, STEPS))
    np.testing.assert_allclose(answers(model, tokens, (0, 8)), model.predict(tokens, verbose=0).reshape(5, -1), atol=1e-3)


def test_constants_cost_nothing_at_run_time():
    plain, folded = (
        lower(functional(build), input_range=(-1, 1)).program.ops
        for build in (
            lambda x: layers.Dense(3)(x * TABLE - TABLE),
            lambda x: layers.Dense(3)(x * (ops.zeros_like(x) + TABLE) - ops.ones_like(x) * TABLE),
        )
    )
    assert [type(op) for op in plain] == [type(op) for op in folded]


def test_a_model_is_what_it_was_after_it_has_been_read():
    model = functional(lambda x: layers.Dense(2)(free_length(Around()(x)[:, None, :WIDTH])))
    before, x = model.to_json(), np.random.default_rng(0).normal(size=(3, STEPS, WIDTH)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    lower(model, input_range=(-1, 1))
    assert model.to_json() == before
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    assert not any("symbolic_call" in vars(layer) for layer in model.layers)


def test_an_output_without_an_input_is_refused():
    with pytest.raises(ModelError, match="does not depend on its input"):
        lower(functional(lambda x: ops.ones_like(x)), input_range=(-1, 1))
