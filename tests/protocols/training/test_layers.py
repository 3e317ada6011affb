"""Layers that are trained on shares beside `keras.Model.fit`, from the same weights: each one that has a derivative; what is watched."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from trained_networks import BATCH, EPOCHS, compiled, data, drawn_tables, on_shares
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError
from protocols.lowering.nodes.numbers import Marks
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.drawn import Drawn
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.wires import Given
from protocols.owner.compiled import plan as plan_of
from protocols.owner.compiled import weights
from protocols.training.networks.attention import SoftmaxLayer
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.lookup import OneHotLayer
from protocols.training.networks.normalisation import BatchNormalisedLayer, NormalisedLayer, standardised
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.networks.random import DroppedLayer, tables
from protocols.training.networks.roots import InverseLayer
from protocols.training.step import Plan, step

IMAGE, ROWS, STEPS, INDICES, WORDS = (8, 8, 2), (5,), (7, 3), (6,), 9


def chain(shape, *hidden):
    return lambda: keras.Sequential([layers.Input(shape), *(make() for make in hidden), layers.Flatten(), layers.Dense(4)])


def graph(shape, build):
    def made():
        x = keras.Input(shape)
        return keras.Model(x, layers.Dense(4)(layers.Flatten()(build(x))))

    return made


def dense(units=6, activation=None):
    return lambda: layers.Dense(units, activation)


def attended(kind, *arguments, call=(), **settings):
    """An attention layer on two values of the same steps."""

    def build(x):
        query, value = layers.Dense(4)(x), layers.Dense(4)(x)
        layer = getattr(layers, kind)(*arguments, **settings)
        said = dict.fromkeys(call, True)
        return layer(query, value, **said) if kind in ("MultiHeadAttention", "GroupQueryAttention") else layer([query, value], **said)

    return build


def transformed(x):
    """A block of a transformer."""
    x = layers.Dense(4)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x + layers.MultiHeadAttention(2, 3)(x, x))
    return layers.LayerNormalization(epsilon=1e-6)(x + layers.Dense(4)(layers.Dense(6, "gelu")(x)))


class Block(layers.Layer):
    """A layer of the user's own that is told whether it trains, and tells some layers and others not."""

    def __init__(self, *, frozen=False, **settings):
        super().__init__(**settings)
        self.dense, self.norm, self.other = layers.Dense(4), *(layers.BatchNormalization(momentum=0.5) for _ in range(2))
        self.drop, self.other.trainable = layers.Dropout(0.5), not frozen

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build((None, 4))
        self.other.build((None, 4))

    def call(self, x, training=None):
        y = self.drop(self.norm(self.dense(x)), training=False)
        return self.other(y, training=training) * 2.0 if training else y


class Factors(layers.Layer):
    """Multiplies by a trainable number and a row, and adds a number."""

    def build(self, shape):
        self.one, self.row = self.add_weight(shape=(), name="one"), self.add_weight(shape=(shape[-1],), name="row")
        self.more = self.add_weight(shape=(), name="more")

    def call(self, x):
        return x * self.one + x * self.row + self.more


def twice_normalised(x):
    shared = layers.BatchNormalization(momentum=0.5)
    return shared(layers.ReLU()(shared(layers.Dense(6)(x))))


def said_in_a_graph(x):
    """What Keras does not hear: a graph trains as a whole."""
    inner = keras.Sequential([layers.Dense(4), layers.BatchNormalization()])
    return layers.BatchNormalization()(inner(x, training=False), training=False)


LAYERS = {
    "BatchNormalization": chain(IMAGE, lambda: layers.Conv2D(3, 3), layers.BatchNormalization, layers.ReLU),
    "BatchNormalization without scale": chain(ROWS, dense(), lambda: layers.BatchNormalization(scale=False, momentum=0.5), layers.ReLU),
    "BatchNormalization alone": chain(ROWS, dense(), lambda: layers.BatchNormalization(scale=False, center=False, epsilon=1e-5)),
    "BatchNormalization of what comes in": chain((30, 30, 2), layers.BatchNormalization, lambda: layers.Conv2D(2, 3, strides=3)),
    "BatchNormalization of thousands": chain((33, 23, 1), layers.BatchNormalization, lambda: layers.AveragePooling2D(11)),
    "BatchNormalization twice": graph(ROWS, twice_normalised),
    "BatchNormalization told in a graph": graph(ROWS, said_in_a_graph),
    "a block that is told": chain(ROWS, dense(), Block),
    "a block with a frozen part": chain(ROWS, dense(), lambda: Block(frozen=True)),
    "LayerNormalization": chain(ROWS, dense(), layers.LayerNormalization, dense(5, "relu")),
    "LayerNormalization of two axes": chain(STEPS, dense(), lambda: layers.LayerNormalization(axis=[1, 2], epsilon=1e-6)),
    "GroupNormalization": chain(IMAGE, lambda: layers.Conv2D(4, 3), lambda: layers.GroupNormalization(2)),
    "RMSNormalization": chain(STEPS, dense(), layers.RMSNormalization),
    "UnitNormalization": chain(STEPS, dense(), layers.UnitNormalization),
    "Softmax": chain(STEPS, dense(), layers.Softmax, dense(5)),
    "a softmax of steps": chain(STEPS, dense(5), lambda: layers.Softmax(axis=1)),
    "MultiHeadAttention": graph(STEPS, attended("MultiHeadAttention", 2, 3)),
    "MultiHeadAttention, causal": graph(STEPS, attended("MultiHeadAttention", 2, 3, use_bias=False, call=("use_causal_mask",))),
    "GroupQueryAttention": graph(STEPS, attended("GroupQueryAttention", 3, 4, 2)),
    "Attention": graph(STEPS, attended("Attention", use_scale=True)),
    "AdditiveAttention": graph(STEPS, attended("AdditiveAttention")),
    "a transformer's block": graph(STEPS, transformed),
    "GRU": chain((3, 2), lambda: layers.GRU(2)),
    "GRU of sequences": chain((3, 2), lambda: layers.GRU(2, return_sequences=True, use_bias=False)),
    "Bidirectional LSTM": chain((3, 2), lambda: layers.Bidirectional(layers.LSTM(2))),
    "Embedding": chain(INDICES, lambda: layers.Embedding(WORDS, 3), layers.GlobalAveragePooling1D),
    "Embedding with a mask": chain((3,), lambda: layers.Embedding(WORDS, 3, mask_zero=True), lambda: layers.LSTM(2)),
    "a mean of what is not masked": chain(
        INDICES, lambda: layers.Embedding(WORDS, 3, mask_zero=True), dense(), layers.GlobalAveragePooling1D
    ),
    "Conv2DTranspose": chain((4, 4, 2), lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu")),
    "Conv1DTranspose": chain(STEPS, lambda: layers.Conv1DTranspose(3, 3, strides=2)),
    "PReLU with shared slopes": chain(IMAGE, lambda: layers.Conv2D(3, 3), lambda: layers.PReLU("ones", shared_axes=[1, 2])),
    "ELU, LeakyReLU": chain(ROWS, dense(), lambda: layers.ELU(0.5), lambda: layers.LeakyReLU(0.1)),
    "trainable numbers": chain(ROWS, dense(), Factors),
    "EinsumDense": chain(STEPS, lambda: layers.EinsumDense("abc,cd->abd", (7, 4), bias_axes="d")),
    "TimeDistributed convolutions": chain((2, 4, 4, 1), lambda: layers.TimeDistributed(layers.Conv2D(2, 2))),
    "Dot": graph(STEPS, lambda x: layers.Dot(axes=2)([layers.Dense(4)(x), layers.Dense(4)(x)])),
    "UpSampling2D, bilinear": chain((4, 4, 2), lambda: layers.Conv2D(2, 1), lambda: layers.UpSampling2D(interpolation="bilinear")),
    "steps cut, padded, repeated": chain(
        STEPS, dense(), lambda: layers.Cropping1D(1), lambda: layers.ZeroPadding1D(2), lambda: layers.UpSampling1D(2)
    ),
    "GlobalMaxPooling1D, RepeatVector": chain(STEPS, dense(), layers.GlobalMaxPooling1D, lambda: layers.RepeatVector(2)),
    "a quotient": graph(ROWS, lambda x: layers.Dense(6)(x) / (1.0 + ops.square(layers.Dense(6)(x)))),
    "square roots": graph(ROWS, lambda x: ops.sqrt(ops.square(layers.Dense(6)(x)) + 1.0) + ops.rsqrt(ops.square(layers.Dense(6)(x)) + 0.5)),
}
DAILY = ("BatchNormalization", "a transformer's block", "GRU", "a mean of what is not masked", "a block that is told", "trainable numbers")


@pytest.mark.parametrize("name", [name if name in DAILY else pytest.param(name, marks=pytest.mark.long) for name in LAYERS])
def test_a_layer_is_trained_as_by_keras(name):
    model = compiled(LAYERS[name])
    (x, y), before = data(model, WORDS if model.input_shape[1:] in (INDICES, (3,)) else 0), [np.array(one) for one in model.get_weights()]
    made, told = on_shares(model, x, y)
    assert len(told) == 4
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    after = model.get_weights()
    moved = [np.abs(one - other).max() for one, other in zip(after, before, strict=True)]
    assert np.mean([move > 1e-5 for move in moved]) > 0.5  # not the bias before a normalisation, nor that of keys, nor what is frozen
    for weight, one, other in zip(model.weights, made, after, strict=True):
        np.testing.assert_allclose(one, other, atol=0.005 * max(moved) + 0.0003, err_msg=weight.path)


# What is drawn at random.


def dropped(x):
    return layers.Dropout(0.25, noise_shape=(None, 1, 3))(x)


RANDOM = {
    "Dropout": graph(STEPS, lambda x: layers.Dropout(0.25)(layers.Dense(3, "relu")(x))),
    "Dropout of what comes in": graph(STEPS, layers.Dropout(0.5)),
    "Dropout with a noise shape": graph(STEPS, dropped),
    "SpatialDropout2D": graph(IMAGE, lambda x: layers.SpatialDropout2D(0.3)(layers.Conv2D(4, 3)(x))),
    "GaussianDropout": graph(STEPS, lambda x: layers.GaussianDropout(0.2)(layers.Dense(3)(x))),
    "GaussianNoise": graph(STEPS, lambda x: layers.GaussianNoise(0.5)(layers.Dense(3)(x))),
    "AlphaDropout": graph(STEPS, lambda x: layers.AlphaDropout(0.3)(layers.Dense(3, "selu")(x))),
    "dropout of attention": graph(STEPS, attended("MultiHeadAttention", 2, 3, dropout=0.3)),
    "dropout of a GRU": chain(STEPS, lambda: layers.GRU(2, dropout=0.3)),
}


def drawing(monkeypatch, rates):
    """Have Keras draw what the servers drew: the list that is returned holds the table of the next step, and a scale."""
    random, held = keras.src.backend.random, []

    def kept(shape):
        (table, _) = held
        return np.broadcast_to(table.reshape(shape) if np.size(table) == np.prod(shape) else table, shape).astype(np.float32)

    def dropout(inputs, rate, noise_shape=None, seed=None):
        rates.add(rate)
        shape = tuple(inputs.shape)
        table = held[0] if held[0].ndim == len(shape) else held[0].reshape(len(held[0]), -1)
        return inputs * np.broadcast_to(table, shape).astype(np.float32) / (1 - rate)

    def normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
        return mean + kept(tuple(shape)) * held[1]

    monkeypatch.setattr(random, "dropout", dropout)
    monkeypatch.setattr(random, "uniform", lambda shape, **settings: kept(tuple(shape)))
    monkeypatch.setattr(random, "normal", normal)
    return held


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.sample(3)
def test_what_is_drawn_at_random_is_what_keras_would_do_with_the_same_draws(name, monkeypatch):
    model = compiled(RANDOM[name])
    (x, y), before = data(model), [np.array(one) for one in model.get_weights()]
    circuit = step(plan_of(model), BATCH)
    (op,) = {op.name: op for op in circuit.ops if isinstance(op, Drawn)}.values()
    made, _ = on_shares(model, x, y)
    held = drawing(monkeypatch, set())
    optimizer, seen = model.optimizer, []
    model.compile(optimizer, "mse", run_eagerly=True)
    for number in range(EPOCHS * len(x) // BATCH):
        (table,) = drawn_tables(circuit, str(number)).values()
        signed = table.view(np.int64).astype(np.float64)
        bits = op.bits if op.bits else FRACTION if not op.added else circuit_bits(op)
        held[:] = [signed - (1 << op.bits if op.sigma and not op.added else 0), 2.0**-bits]
        seen.append(table)
        rows = slice(number * BATCH % len(x), number * BATCH % len(x) + BATCH)
        model.train_on_batch(x[rows], y[rows])
    assert not np.array_equal(seen[0], seen[1])
    moved = max(np.abs(one - other).max() for one, other in zip(model.get_weights(), before, strict=True))
    for weight, one, other in zip(model.weights, made, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.005 * moved + 0.0003, err_msg=weight.path)


RECURRENT = {
    "LSTM": (lambda: layers.LSTM(2, recurrent_dropout=0.5), 4),
    "LSTM, and its inputs": (lambda: layers.LSTM(2, dropout=0.25, recurrent_dropout=0.5, return_sequences=True), 8),
    "GRU": (lambda: layers.GRU(2, dropout=0.25, recurrent_dropout=0.5), 6),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, recurrent_dropout=0.5), 1),
    "both ways": (lambda: layers.Bidirectional(layers.GRU(2, recurrent_dropout=0.25)), 6),
}
"""Layers whose state is dropped, and how many draws a step has: one for each gate, for all places of a sequence."""


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.sample(2)
def test_states_of_recurrent_layers_are_dropped_as_in_keras_with_the_same_draws(name, monkeypatch):
    layer, count = RECURRENT[name]
    model = compiled(chain(STEPS, layer))
    (x, y), before = data(model), [np.array(one) for one in model.get_weights()]
    circuit, waiting = step(plan_of(model), BATCH), []
    made, _ = on_shares(model, x, y)

    def dropout(inputs, rate, noise_shape=None, seed=None):
        table = waiting.pop(0)
        return inputs * table.reshape(inputs.shape).astype(np.float32) / (1 - rate)

    monkeypatch.setattr(keras.src.backend.random, "dropout", dropout)
    model.compile(model.optimizer, "mse", run_eagerly=True)
    for number in range(EPOCHS * len(x) // BATCH):
        tables = drawn_tables(circuit, str(number))
        assert len(tables) == count
        waiting[:] = [tables[one] for one in sorted(tables, key=lambda one: int(one.removeprefix("drawn")))]
        rows = slice(number * BATCH % len(x), number * BATCH % len(x) + BATCH)
        model.train_on_batch(x[rows], y[rows])
        assert not waiting
    moved = max(np.abs(one - other).max() for one, other in zip(model.get_weights(), before, strict=True))
    for weight, one, other in zip(model.weights, made, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.005 * moved + 0.0003, err_msg=weight.path)


def circuit_bits(op):
    """Of a noise that is added: it has the bits of what it is added to, a product."""
    return 2 * FRACTION


def test_tables_have_the_frequencies_that_were_asked_for():
    """Zeros in 30 % of 40,000 draws within five standard deviations; a Gaussian of the standard deviation asked for; others per name."""
    key = bytes(range(16))
    drawn = Drawn(0, "a", (200, 200), round(0.3 * 2**16)).table(key)
    assert set(np.unique(drawn)) == {0, 1}
    assert abs((drawn == 0).mean() - 0.3) < 5 * (0.3 * 0.7 / 40000) ** 0.5
    noise = Drawn(0, "a", (200, 200), 0, 1 << 12, 0, True).table(key).view(np.int64) / 2**12
    assert abs(noise.mean()) < 5 / 200
    assert abs(noise.std() - 1) < 5 / 200
    assert not np.array_equal(drawn, Drawn(0, "b", (200, 200), round(0.3 * 2**16)).table(key))


# Numbers at the ends of what can be.


def test_normalised_are_small_and_large_numbers_alike():
    """Standard deviations from 2^-9 to 2^8, within a relative 2^-10 and roundings of the numbers themselves, with and without a mean."""
    random = np.random.default_rng(0)
    deviations = 2.0 ** np.arange(-9, 9)
    for n, epsilon, centred in ((64, 1e-6, True), (37, 1e-3, True), (37, 1e-6, False)):
        x = random.normal(size=(len(deviations), n)) * deviations[:, None] + centred * 3 * np.sign(random.normal(size=(18, 1)))
        x = np.clip(x, -511, 511)
        draft = StepDraft()
        given = draft.put(Given("x", x.shape, "share"))
        y = standardised(draft, given, 1, epsilon, centred=centred).y
        made = Trainers(draft.circuit({"y": y})).real({"x": x})["y"]
        x = np.round(x * 2**FRACTION) / 2**FRACTION
        mean = x.mean(1, keepdims=True) * centred
        root = np.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + epsilon)
        np.testing.assert_array_less(np.abs(made - (x - mean) / root), 2.0**-10 * np.abs((x - mean) / root) + 2.0**-15 + 2.0**-16 / root)


@pytest.mark.parametrize("n", [128, 96])
def test_a_scaled_batch_normalisation_goes_back_as_by_its_formula_and_by_few_products(n):
    """Element by element: c c and c r; back G y, of which the gradient by gamma is made as well, s G, and y times one for each column."""
    random, columns = np.random.default_rng(1), 3
    x, g = random.normal(size=(n, columns)) * (0.02, 1, 30) + 2, random.normal(size=(n, columns)) / 8
    gamma = np.array([0.5, -1.5, 2])
    draft = StepDraft()
    of_x, of_gamma, of_g = (
        draft.put(Given(name, shape, kind))
        for name, shape, kind in (("x", x.shape, "share"), ("gamma", (columns,), "share"), ("g", x.shape, "wire"))
    )
    y = standardised(draft, of_x, 0, 1e-3).y
    scaled = draft.put(Multiply(y, draft.opened(of_gamma)), 2 * FRACTION)
    back = draft.gradients({scaled: of_g}, (of_x, of_gamma))
    circuit = draft.circuit({"x": draft.rounded(back[of_x], None), "gamma": draft.rounded(back[of_gamma], None)})
    assert sum(isinstance(op, Multiply) and value.size == x.size for op, value in zip(circuit.ops, circuit.values, strict=True)) == 5
    made = Trainers(circuit).real({"x": x, "gamma": gamma, "g": g})
    root = 1 / np.sqrt(x.var(0) + 1e-3)
    y = (x - x.mean(0)) * root
    dx = gamma * root * (g - g.mean(0) - y * (g * y).mean(0))
    np.testing.assert_allclose(made["gamma"], (g * y).sum(0), atol=2.0**-10 * np.abs(g * y).sum())
    np.testing.assert_array_less(np.abs(made["x"] - dx), 2.0**-10 * np.abs(gamma * root) * np.abs(g).max() * (1 + np.abs(y)) + 2.0**-14)


def test_a_layer_says_in_a_prediction_what_keras_predicts():
    """A batch normalisation goes by the statistics that are kept, and nothing is drawn."""
    model = compiled(chain(ROWS, dense(), layers.BatchNormalization, lambda: layers.Dropout(0.5), lambda: layers.GaussianNoise(0.5)))
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    norm.moving_mean.assign(np.linspace(-1, 1, 6))
    norm.moving_variance.assign(np.geomspace(0.01, 9, 6))
    (x, _), plan = data(model), plan_of(model)
    draft = StepDraft(predicts=True)
    positions = {name: draft.put(Given(name, shape, "share")) for name, shape in plan.shapes.items()}
    made = [draft.put(Given("x", x.shape, "wire"))]
    for layer in plan.layers:
        made.append(layer.write(draft, positions, [made[at] for at in layer.inputs]))
    given = dict(zip(plan.shapes, weights(model), strict=True)) | {"x": x}
    outputs = Trainers(draft.circuit({"y": draft.affine(made[-1])})).real(given)["y"]
    normalised = keras.Model(model.inputs, norm.output).predict(x, verbose=0)
    terms = np.abs(normalised) @ np.abs(model.layers[-1].get_weights()[0])  # 1 / sqrt is right to a relative 2^-11
    np.testing.assert_array_less(np.abs(outputs - model.predict(x, verbose=0)), 2.0**-11 * terms + 0.002)


def outside(node, x, variables=(), **more):
    """Whether a step through a node and a product after it says that something was outside."""
    kernel = Variable("kernel0", (3, 2))
    nodes = (node, ProductLayer((len(more.get("first", ())) + 1,), Weight("kernel0", kernel.shape)))
    plan = Plan(nodes, (3,), 2, (kernel, *variables), "mse", GradientDescent(0.01))
    given = {"x": encode(x, SCALE), "y": np.zeros((len(x), 2), np.uint64), "kernel0": encode(np.full((3, 2), 0.5), SCALE)}
    return Trainers(step(plan, len(x), last=True)).outputs(given)["outside"].any()


def test_what_a_node_cannot_compute_is_told():
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert not outside(InverseLayer((0,)), x)
    assert outside(InverseLayer((0,)), x - 1.0)  # 1 / 0
    assert outside(InverseLayer((0,), root=True), x - 1.5)
    assert not outside(SoftmaxLayer((0,)), x * 10)
    assert outside(SoftmaxLayer((0,)), x * 60)
    assert not outside(NormalisedLayer((0,), 1e-3), x * 80)


@pytest.mark.parametrize(("index", "told"), [(0.0, False), (8.0, False), (9.0, True), (-1.0, True), (400.0, True)])
def test_an_index_that_is_none_is_told(index, told):
    model = compiled(chain(INDICES, lambda: layers.Embedding(WORDS, 3)))
    (x, y), plan = data(model, WORDS), plan_of(model)
    x[1, 2] = index
    given = {name: encode(number, SCALE) for name, number in zip(plan.shapes, weights(model), strict=True)}
    given |= {"x": encode(x[:BATCH], SCALE), "y": encode(y[:BATCH], SCALE)}
    assert Trainers(step(plan, BATCH)).outputs(given)["outside"].any() == told


WRONG = {
    "a table without rows": OneHotLayer((0,), 0),
    "a table that is too long": OneHotLayer((0,), 5000),
    "a rate of one": DroppedLayer((0,), "a", 1.0),
    "a rate below zero": DroppedLayer((0,), "a", -0.5),
    "an epsilon below zero": NormalisedLayer((0,), -1.0),
    "a momentum above one": BatchNormalisedLayer((0,), 0.001, 1.5, "statistic0", "statistic1"),
    "statistics that are trained": BatchNormalisedLayer((0,), 0.001, 0.5, "kernel0", "statistic1"),
    "statistics that are not there": BatchNormalisedLayer((0,), 0.001, 0.5, "statistic0", "none"),
    "numbers beyond a weight": ProductLayer((0,), Weight("kernel0", (3, 3), 4, (3, 3), (3, 1))),
    "numbers with gaps": ProductLayer((0,), Weight("kernel0", (3, 1), 0, (3, 1), (2, 0))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_node_that_computes_nothing_is_refused_before_a_step(name):
    """Servers know a plan from a message only."""
    statistics = tuple(Variable(f"statistic{i}", (3,), trained=False) for i in (0, 1))
    with pytest.raises(ModelError):
        outside(WRONG[name], np.ones((2, 3)), statistics)


def test_whose_numbers_an_array_has_is_found():
    shapes = [(4, 3), (5,), (2, 3, 4)]
    marks = Marks(shapes)
    first, second = marks.readings()

    def part(function, of):
        return marks.part(function(first[of]), function(second[of]))

    assert part(lambda w: w, 0)[:3] == (0, 1.0, True)
    assert part(lambda w: w.reshape(2, 6), 0).whole
    assert part(lambda w: w[1:4], 1) == (1, 1.0, False, 1, (3,), (1,))
    turned = part(lambda w: w[::-1].transpose(2, 0, 1) * 0.5, 2)
    assert (turned.variable, turned.view, turned.steps) == (2, (4, 2, 3), (1, -12, 4))
    assert turned.factor == pytest.approx(0.5)
    assert part(lambda w: np.broadcast_to(w, (2, 5)).reshape(-1), 1).steps == (0, 1)
    assert part(lambda w: w + 1, 0) is None
    assert part(lambda w: w**2, 0) is None
    assert part(lambda w: w * np.arange(1, 6), 1) is None
    assert marks.part(np.concatenate([first[0].reshape(-1), first[1]]), np.concatenate([second[0].reshape(-1), second[1]])) is None


def test_numbers_of_a_weight_in_other_places_are_those():
    random = np.random.default_rng(0)
    weight = random.integers(-99, 99, (2, 3, 4)).astype(float)
    moves = lambda w: w[::-1, :, ::-1].transpose(2, 0, 1), lambda w: w.reshape(-1)[5:9], lambda w: np.broadcast_to(w, (2, *w.shape))
    for function in moves:
        marks = Marks([weight.shape])
        part = marks.part(*(function(reading[0]) for reading in marks.readings()))
        draft = StepDraft()
        at = {"w": draft.put(Given("w", weight.shape, "share"))}
        made = Weight("w", function(weight).shape, part.start, part.view, part.steps).share(draft, at)
        outputs = Trainers(draft.circuit({"y": made})).outputs({"w": encode(weight, SCALE)})
        np.testing.assert_array_equal(decode(outputs["y"], SCALE), function(weight))


def test_both_servers_draw_the_same_and_another_step_others():
    model = compiled(RANDOM["Dropout"])
    circuit = step(plan_of(model), BATCH)
    one, same, other = (tables(circuit, key) for key in (bytes(16), bytes(16), bytes(range(16))))
    assert len(one) == 1
    for name, table in one.items():
        np.testing.assert_array_equal(table, same[name])
        assert not np.array_equal(table, other[name])
