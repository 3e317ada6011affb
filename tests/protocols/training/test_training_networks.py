"""Convolutional networks trained in the simulator: every gradient against Keras' own, curves, rounds and bytes, what is refused."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError, ProgramError, UnsupportedLayer
from protocols.mpc.circuit import Builder
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.bilinear import Convolve, InputGradient, KernelGradient
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.moves import Put, Reshape, Take
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.wires import Given, Open
from protocols.owner.compiled import plan as plan_of
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION, WINDOW
from protocols.training.networks.layers import AveragePoolLayer, ProductLayer, Variable, Weight
from protocols.training.networks.nonlinear import MaxPoolLayer, RectifierLayer
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.networks.window import SUMS, Watched, outside, summed
from protocols.training.step import Plan, step

BATCH = 4


def compiled(shape, *hidden, outputs=3, rate=1.0, momentum=0.0, loss="mse", seed=0):
    model = keras.Sequential([layers.Input(shape), *hidden, layers.Dense(outputs)])
    rng = np.random.default_rng(seed)  # layers that are there already have drawn their seeds
    for weight in model.trainable_weights:
        if weight.name == "kernel":
            weight.assign(rng.normal(size=weight.shape) * (2 / np.prod(weight.shape[:-1])) ** 0.5)
    if model.layers[-1].use_bias:
        model.layers[-1].bias.assign(rng.normal(size=outputs) * 0.05)
    model.compile(keras.optimizers.SGD(rate, momentum), loss)
    return model


def examples(model, count=BATCH, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, *model.input_shape[1:])).astype(np.float32)
    x[:, : x.shape[1] // 3] = 0  # equal values: who is the largest, and the gradient of ReLU at 0
    return x, rng.normal(size=(count, model.output_shape[1])).astype(np.float32)


def values_of(model, plan):
    weights = {name: weight.numpy() for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    return weights | {name: np.zeros(shape) for name, shape in plan.states.items()}


def assert_gradients_equal_those_of_keras(model, atol=0.002):
    """A step with rate 1 moves each weight by its gradient."""
    import tensorflow as tf

    plan, (x, y) = plan_of(model), examples(model)
    with tf.GradientTape() as tape:
        loss = keras.losses.MeanSquaredError()(y, model(x))
    gradients = tape.gradient(loss, model.trainable_weights)
    before = values_of(model, plan)
    outputs = Trainers(step(plan, BATCH)).real({**before, "x": x, "y": y})
    for (name, old), expected in zip(((name, before[name]) for name in plan.shapes), gradients, strict=True):
        assert np.abs(expected).max() > 0.001, f"a gradient of zero for {name} tests nothing"
        np.testing.assert_allclose(old - outputs[name], expected, rtol=0.004, atol=atol, err_msg=name)  # a rate has 8 bits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [((3, 3), (1, 1)), ((2, 3), (2, 1)), ((5, 4), (3, 2)), ((1, 1), (1, 1)), ((1, 2), (2, 3))])
def test_gradients_of_two_convolutions(size, strides, padding, bias):
    settings = {"strides": strides, "padding": padding, "use_bias": bias}
    first = layers.Conv2D(9, size, activation="relu", **settings)
    second = layers.Conv2D(4, (2, 2), padding=padding, activation="relu")
    assert_gradients_equal_those_of_keras(compiled((9, 8, 2), first, second, layers.Flatten()))


POOLS = {
    "largest": lambda **settings: layers.MaxPooling2D(**settings),
    "mean": lambda **settings: layers.AveragePooling2D(**settings),
}


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize(("size", "strides"), [((2, 2), None), ((3, 3), (2, 2)), ((3, 2), (1, 1)), ((1, 4), None), ((1, 1), (2, 2))])
def test_gradients_through_pooling(kind, size, strides):
    pool = POOLS[kind](pool_size=size, strides=strides)
    second = layers.Conv2D(3, (2, 2), activation="relu")
    assert_gradients_equal_those_of_keras(compiled((8, 10, 2), layers.Conv2D(4, (2, 2)), pool, second, layers.Flatten()))


@pytest.mark.parametrize("shape", [(7, 7, 2), (5, 6, 1)])
@pytest.mark.parametrize(("size", "strides"), [((2, 2), None), ((3, 3), (2, 2)), ((3, 3), (1, 1))])
def test_gradients_through_max_pooling_that_reaches_over_the_edge(shape, size, strides):
    """Padding is never the largest, also where all values are negative."""
    pool = layers.MaxPooling2D(size, strides, padding="same")
    negative = keras.initializers.Constant(-3.0)
    first = layers.Conv2D(3, (2, 2), bias_initializer=negative)
    assert_gradients_equal_those_of_keras(compiled(shape, first, pool, layers.Flatten()), atol=0.01)


@pytest.mark.parametrize(
    "hidden",
    [
        lambda: [layers.Conv2D(4, 3), layers.ReLU(), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(5, "relu")],
        lambda: [layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.Activation("relu"), layers.GlobalAveragePooling2D()],
        lambda: [layers.MaxPooling2D(), layers.Conv2D(4, 2, activation="relu"), layers.AveragePooling2D(2), layers.Flatten()],
        lambda: [layers.AveragePooling2D(3), layers.Conv2D(5, 2), layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()],
        lambda: [layers.ReLU(), layers.AveragePooling2D(2), layers.AveragePooling2D(3), layers.Flatten(), layers.Dense(4), layers.ReLU()],
        lambda: [layers.Conv2D(4, 3), layers.AveragePooling2D(3), layers.ReLU(), layers.MaxPooling2D(2, 1), layers.Flatten()],
        lambda: [layers.Conv2D(4, 3, activation="relu"), layers.AveragePooling2D(2), layers.MaxPooling2D(), layers.Flatten()],
    ],
)
def test_gradients_of_chains(hidden):
    assert_gradients_equal_those_of_keras(compiled((10, 10, 2), *hidden()))


@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate])  # a value within a rounding of 0 may go the other way
@given(st.data())
def test_gradients_of_any_chain(data):
    draw = data.draw
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    hidden = []
    for _ in range(draw(st.integers(1, 2))):
        padding = draw(st.sampled_from(["same", "valid"]))
        hidden.append(layers.Conv2D(draw(st.integers(1, 9)), draw(pair), draw(pair), padding=padding))
        hidden += [layers.ReLU()] * draw(st.booleans())
        hidden += [layers.MaxPooling2D(draw(pair), draw(pair), padding="same")] * draw(st.booleans())
    shape = (*draw(st.tuples(st.integers(9, 12), st.integers(9, 12))), draw(st.integers(1, 3)))
    try:
        model = compiled(shape, *hidden, layers.Flatten(), seed=draw(st.integers(0, 99)))
    except ValueError:  # the image is used up
        return
    plan, (x, y) = plan_of(model), examples(model)
    before = values_of(model, plan)
    outputs = Trainers(step(plan, BATCH)).real({**before, "x": x, "y": y})
    model.train_on_batch(x, y)
    for name, weight in zip(plan.shapes, model.trainable_weights, strict=True):
        np.testing.assert_allclose(outputs[name], weight.numpy(), rtol=0.01, atol=0.01, err_msg=name)


def test_the_curve_of_many_steps_beside_keras():
    """Weights and how many are right, step by step, with momentum."""
    keras.utils.set_random_seed(5)
    hidden = [layers.Conv2D(6, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(12, "relu")]
    model = keras.Sequential([layers.Input((8, 8, 1)), *hidden, layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.05, 0.9), keras.losses.CategoricalCrossentropy(from_logits=True))
    plan, rng = plan_of(model), np.random.default_rng(2)
    x = rng.uniform(0, 1, (24, 8, 8, 1)).astype(np.float32)
    y = np.eye(3)[(x.reshape(24, 64) @ rng.normal(size=(64, 3))).argmax(1)]
    weights, circuit, right = values_of(model, plan), step(plan, 24), []
    for number in range(40):
        weights = Trainers(circuit, str(number)).real({**weights, "x": x, "y": y})
        right.append(weights.pop("metric"))
        assert abs(right[-1] - (model(x).numpy().argmax(1) == y.argmax(1)).sum()) <= 1
        model.train_on_batch(x, y)
    assert right[-1] >= 20 > right[0]
    for name, weight in zip(plan.shapes, model.trainable_weights, strict=True):
        np.testing.assert_allclose(weights[name], weight.numpy(), atol=0.03, err_msg=name)


def test_layers_give_the_same_in_a_functional_model():
    tensor = inputs = layers.Input((8, 8, 2))
    chain = [layers.Conv2D(4, 3), layers.ReLU(), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3)]
    for layer in chain:
        tensor = layer(tensor)
        layer(layers.Input(layer.input.shape[1:]))  # used elsewhere as well
    functional, sequential = keras.Model(inputs, tensor), keras.Sequential([layers.Input((8, 8, 2)), *chain])
    for model in (functional, sequential):
        model.compile("sgd", "mse")
    assert plan_of(functional) == plan_of(sequential)


def pooled(order, loss="mse"):
    return plan_of(compiled((6, 6, 1), layers.Conv2D(4, 3), *order, layers.Flatten(), loss=loss))


def test_max_pooling_goes_before_relu():
    """Four times fewer comparisons for the same function; a mean stays where it is."""
    kinds = [type(layer) for layer in pooled([layers.ReLU(), layers.MaxPooling2D()]).layers[1:3]]
    assert kinds == [type(layer) for layer in pooled([layers.MaxPooling2D(), layers.ReLU()]).layers[1:3]] == [MaxPoolLayer, RectifierLayer]
    kinds = [type(layer) for layer in pooled([layers.ReLU(), layers.AveragePooling2D(2)]).layers[1:3]]
    assert kinds == [RectifierLayer, AveragePoolLayer]


def transcript(plan, fill=0.0, salt=""):
    given = {name: np.full(shape, fill) for name, shape in (plan.shapes | plan.states).items()}
    given |= {"x": np.full((BATCH, plan.inputs), fill), "y": np.full((BATCH, plan.outputs), fill)}
    encoded = {name: (value * 2**FRACTION).astype(np.int64).view(np.uint64) for name, value in given.items()}
    return Trainers(step(plan, BATCH), salt).run(encoded)


@pytest.mark.parametrize(
    ("order", "more"),
    [
        ([], 1),  # to check the activations takes longer than the way back
        ([layers.AveragePooling2D(2)], 1),
        ([layers.ReLU()], 2 + 1),  # [X > 0]; what is multiplied by it is opened anyway, both ways
        ([layers.MaxPooling2D()], 6 + 2),  # 6 before the truncation that is there anyway; back one for each level
        ([layers.MaxPooling2D(4)], 12 + 4),
        ([layers.MaxPooling2D(), layers.ReLU()], 6 + 2 + 2),  # [X > 0] of what the truncation has opened
    ],
)
def test_rounds_of_a_layer(order, more):
    """1 to open kernels, 2 before the dense layer, 1 for its Z, 1 for the gradient, 2 back to the convolution, 1 to update; and more."""
    assert transcript(pooled(order)).rounds == 1 + 2 + 1 + 1 + 2 + 1 + more


def check_bytes(plan, made):
    """What a server sends to check that nothing has left its window, alone."""
    build = Builder()
    before = build(Given("outside", (1,), "share"))
    activations = [Signal(build(Given(f"z{i}", (BATCH, *shape), "share")), 2 * FRACTION) for i, shape in enumerate(made)]
    sums = Watched(build(Given("sums", (1, SUMS), "share")), 2.0**54)
    circuit = build.circuit({"outside": outside(build, before, activations, [sums])})
    given = {op.name: np.zeros(op.shape, np.uint64) for op in circuit.ops if isinstance(op, Given)}
    return Trainers(circuit).run(given).sent[0, 1]


@pytest.mark.parametrize(("edge", "what"), [(512.0, "activation"), (16384.0, "weight")])
def test_the_edges_of_the_window(edge, what):
    """Of one number alone the sums with random signs are plus or minus itself: it is inside up to the edge, and found from there on."""
    build = Builder()
    before = build(Given("outside", (1,), "share"))
    x = build(Given("x", (1, 1), "share"))
    activations, sums = ([Signal(x)], []) if what == "activation" else ([], [summed(build, [Watched(x, edge * 2**FRACTION)])])
    circuit = build.circuit({"outside": outside(build, before, activations, sums)})
    near = 1 if what == "activation" else edge / 128
    for size, expected in [(edge - near, 0), (near - edge, 0), (edge + near, 1), (-near - edge, 1), (1.9 * edge, 1), (1e9 * edge, 1)]:
        found = Trainers(circuit).outputs({"x": encode(np.array([[size]]), 2.0**-FRACTION)})
        assert int(found["outside"][0]) == expected, size


def test_two_numbers_of_opposite_signs_do_not_hide_each_other():
    """As the logits, biases and gradients of two classes are: both sums of them had the same sign for both, and were always 0."""
    build = Builder()
    before = build(Given("outside", (1,), "share"))
    x = build(Given("x", (1, 2), "share"))
    circuit = build.circuit({"outside": outside(build, before, [Signal(x)], [])})
    for pair in [(600.0, -600.0), (600.0, 600.0), (-600.0, 600.0), (-600.0, -600.0)]:
        assert Trainers(circuit).outputs({"x": encode(np.array([pair]), 2.0**-FRACTION)})["outside"].all(), pair


APART = [(150.0, 300.0), (200.0, 400.0), (250.0, 500.0), (260.0, 520.0), (400.0, 800.0), (500.0, 1000.0)]
"""How far logits are from 0, and two of them from each other."""


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.parametrize(("size", "distance"), APART)
def test_logits_of_a_softmax_are_no_further_apart_than_its_exponential_reaches(classes, size, distance):
    """Each within +-512, but e^x of a difference beyond -512 was any number, and so were weights, without a word."""
    weights = (Variable("kernel0", (1, classes)), Variable("bias0", (classes,)))
    dense = ProductLayer((0,), *(Weight(one.name, one.shape) for one in weights))
    plan = Plan((dense,), (1,), classes, weights, "crossentropy", GradientDescent(0.01), value=True)
    for first, second in list(itertools.permutations(range(classes), 2))[:6]:
        bias = np.zeros(classes)
        bias[first], bias[second] = size, size - distance
        values = {"kernel0": np.zeros((1, classes)), "bias0": bias, "x": np.zeros((1, 1)), "y": np.eye(classes)[[first]]}
        found = Trainers(step(plan, 1, last=True)).outputs({name: encode(value, SCALE) for name, value in values.items()})
        assert found["outside"].any() == (distance > 512), (first, second)
        if distance < 512:
            assert abs(decode(found["loss"], SCALE**2)[0]) < 0.02
            np.testing.assert_allclose(decode(found["bias0"], SCALE), bias, atol=0.001)


def test_bytes_of_a_convolution_and_a_max_pooling():
    """64 bits an element wherever something is opened, the bits of comparisons, both ways alike."""
    plans = pooled([]), pooled([layers.MaxPooling2D()])
    runs = [transcript(plan) for plan in plans]
    checks = [check_bytes(plan, [(4, 4, 4), (3,)]) for plan in plans]
    for run in runs:
        assert run.sent[0, 1] == run.sent[1, 0]
    image, pool = BATCH * 4 * 4 * 4, BATCH * 2 * 2 * 4
    weights = [9 * 4 + 4 + 64 * 3 + 3, 9 * 4 + 4 + 16 * 3 + 3]
    kernels = [9 * 4 + 64 * 3, 9 * 4 + 16 * 3]
    dense = 2 * 3 * BATCH  # Z and its gradient
    signs = (2 + 1) * (blocks_for(WINDOW).opened + 1)  # 128 and 64 comparisons fill 2 words and 1 in every plane
    assert runs[0].sent[0, 1] - checks[0] == 8 * (weights[0] + kernels[0] + dense + 4 * image)
    forward, back = image // 2 + pool + pool + pool, pool + pool + pool + 2 * pool  # two levels of differences, the pooled, rounded
    assert runs[1].sent[0, 1] - checks[1] == 8 * (weights[1] + kernels[1] + dense + forward + back + signs)


@pytest.mark.parametrize(("size", "strides", "sent"), [(3, 1, 12600), (2, 1, 14712), (3, None, 7144)])
def test_bytes_of_windows_that_overlap(size, strides, sent):
    """As many as when each layer had a way back of its own: what is opened for one gradient is not opened again in a sum of gradients."""
    assert transcript(pooled([layers.MaxPooling2D(size, strides)])).sent[0, 1] <= sent


def test_what_a_server_sees_is_as_uniform_for_one_secret_as_for_another():
    plan = pooled([layers.ReLU(), layers.MaxPooling2D()])
    for fill in (0.0, 1.0):
        words = np.concatenate([array.reshape(-1) for array in transcript(plan, fill).seen_by(1) if array.size > 30])
        ones = np.unpackbits(words.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * words.size)


def test_no_mask_serves_two_values():
    """All values are the same, so that a mask that served twice would show, within a step and between steps."""
    plan = pooled([layers.ReLU(), layers.MaxPooling2D()])
    first, second = (np.concatenate([a.reshape(-1) for a in transcript(plan, 0.0, salt).seen_by(0)]) for salt in "ab")
    assert not np.isin(first, second).any()
    large = first[first > 2**32]
    assert len(np.unique(large)) == len(large)


def test_randomness_of_a_step_of_the_published_network():
    """B of the tables, 128 images: what `fit` may hold by default is enough, and a comparison costs less than 80 bytes."""
    block = [layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D()]
    again = [layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D()]
    plan = plan_of(compiled((28, 28, 1), *block, *again, layers.Flatten(), layers.Dense(100, "relu"), outputs=10))
    layout = step(plan, 128).layout
    comparisons = 128 * (3 * 12 * 12 * 16 + 12 * 12 * 16 + 3 * 4 * 4 * 16 + 4 * 4 * 16 + 100)
    assert 30 * comparisons < layout.bytes_per_example < 160e6


@pytest.mark.parametrize(
    "make",
    [
        lambda image, kernel: Convolve(image, image, (1, 1), ((0, 0), (0, 0))),
        lambda image, kernel: Convolve(image, kernel, (0, 1), ((0, 0), (0, 0))),
        lambda image, kernel: Convolve(image, kernel, (1, 1), ((2, 0), (0, 0))),
        lambda image, kernel: KernelGradient(image, image, (2, 2), (1, 1), ((0, 0), (0, 0))),
        lambda image, kernel: InputGradient(image, kernel, (5, 5), (1, 1), ((0, 0), (0, 0))),
        lambda image, kernel: Reshape(image, (2, 3)),
        lambda image, kernel: Take(image, 1, (0, 9)),
        lambda image, kernel: Take(image, 9, (0,)),
        lambda image, kernel: Put((image,), 1, ((0,),), 9),
        lambda image, kernel: Sign(image),
        lambda image, kernel: Sign(image, 64),
    ],
)
def test_circuits_that_are_not_well_formed(make):
    build = Builder()
    image, kernel = build(Given("image", (2, 4, 4, 1), "wire")), build(Given("kernel", (2, 2, 1, 3), "wire"))
    with pytest.raises(ProgramError):
        build(make(image, kernel))


def test_signs_of_a_wire():
    x = np.array([[-3.0, -SCALE, 0.0, SCALE, 500.0, -500.0]])
    build = Builder()
    wire = build(Open(build(Given("x", x.shape, "share"))))
    signs = {"at least": build(Sign(wire, WINDOW)), "more": build(Sign(wire, WINDOW, strict=True))}
    outputs = Trainers(build.circuit(signs)).real({"x": x}, 1.0)
    np.testing.assert_array_equal(outputs["at least"], x >= 0)
    np.testing.assert_array_equal(outputs["more"], x > 0)


def test_largest_of_a_window_and_its_gradient_alone():
    """Of integers, so that nothing is rounded: each gradient goes where the first largest is."""
    rng = np.random.default_rng(3)
    x, g = rng.integers(-3, 3, (2, 5, 6, 3)).astype(float), rng.integers(-9, 9, (2, 3, 3, 3)).astype(float)
    layer = MaxPoolLayer((0,), (3, 2), (1, 2), ((0, 0), (0, 0)))
    draft = StepDraft()
    given = draft.put(Given("x", x.shape, "share"))
    value = layer.write(draft, {}, [given])
    below = draft.gradients({value: draft.put(Given("g", g.shape, "share"))}, [given])[given]
    outputs = Trainers(draft.circuit({"value": value, "below": below})).real({"x": x, "g": g})
    expected, back = np.zeros(g.shape), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(g.shape):
        window = x[n, i : i + 3, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected[n, i, j, c] = window.max()
        back[n, i + row, 2 * j + column, c] += g[n, i, j, c]
    np.testing.assert_array_equal(outputs["value"], expected)
    np.testing.assert_array_equal(outputs["below"], back)


@pytest.mark.parametrize(
    ("hidden", "match"),
    [
        ([layers.Conv2D(2, 3, kernel_regularizer="orthogonal_regularizer")], "kernel has a regularizer, OrthogonalRegularizer"),
        ([layers.Conv2D(2, 3, activation="log_softmax")], r"'conv2d\w*' \(Conv2D\) cannot be trained on shares"),
        ([layers.Conv2D(2, 3, activation="exponential")], "grows beyond any bound"),
        ([layers.Conv2D(2, 1, data_format="channels_first")], "channels"),
    ],
)
def test_layers_that_are_refused(hidden, match):
    with pytest.raises(UnsupportedLayer, match=match):
        plan_of(compiled((7, 7, 2), *hidden, layers.Flatten()))


class Ninefold(keras.losses.MeanSquaredError):
    def call(self, y_true, y_pred):
        return 9 * super().call(y_true, y_pred)


def test_what_has_a_name_of_keras_and_is_something_else_is_refused():
    def relu(x):
        return keras.ops.sin(x) * 2

    with pytest.raises(UnsupportedLayer, match="Sin"):
        plan_of(compiled((7, 7, 2), layers.Conv2D(2, 3, activation=relu), layers.Flatten()))
    with pytest.raises(UnsupportedLayer, match="activity_regularizer"):
        plan_of(compiled((7, 7, 2), layers.Activation("relu", activity_regularizer="orthogonal_regularizer"), layers.Flatten()))
    for setting, value in (("regularizer", keras.regularizers.L2(5.0)), ("constraint", keras.constraints.MinMaxNorm())):
        model = compiled((7, 7, 2), layers.Flatten())
        setattr(model.layers[-1].kernel, setting, value)
        with pytest.raises(UnsupportedLayer, match=r"/kernel(: a penalty on 'kernel0' counts 5 times| has a constraint, MinMaxNorm)"):
            plan_of(model)
    model = compiled((7, 7, 2), layers.Flatten())
    model.compile("sgd", Ninefold(name="mean_squared_error"))
    with pytest.raises(ModelError, match="one of your own"):
        plan_of(model)


def test_models_that_are_refused():
    inputs = layers.Input((4,))
    left, right = layers.Dense(3)(inputs), layers.Dense(3)(inputs)
    two = keras.Model(inputs, [left, right])
    two.compile("sgd", ["mse", None])
    with pytest.raises(ModelError, match="have no loss"):
        plan_of(two)
