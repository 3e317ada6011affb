"""Networks of any graph: trained on shares beside `keras.Model.fit`, from the same weights in the same order; what is refused by name."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, ops
from trained_networks import BATCH, EPOCHS, compiled, data, on_shares
from training_deployment import Trainers

from protocols.errors import ModelError, ProgramError, UnsupportedLayer
from protocols.owner.compiled import plan as plan_of
from protocols.training.networks.layers import ConvolutionLayer, ProductLayer, RescaleLayer, SumLayer, Variable, Weight
from protocols.training.networks.nonlinear import CurveLayer, Pieces, RectifierLayer
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan, step


def functional(shape, build):
    x = keras.Input(shape)
    return lambda: keras.Model(x, build(x))


def chain(shape, *hidden):
    return lambda: keras.Sequential([layers.Input(shape), *(make() for make in hidden), layers.Flatten(), layers.Dense(4)])


def residual(x):
    y = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    z = layers.Conv2D(3, 3, padding="same")(y)
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([y, z]))))


def gated(x):
    a, b = layers.Dense(6, "sigmoid")(x), layers.Dense(6, "tanh")(x)
    return layers.Dense(4)(layers.Subtract()([layers.Multiply()([a, b]), layers.Dense(6)(x)]))


def joined(x):
    a, b = layers.Conv2D(2, 3, activation="relu")(x), layers.Conv2D(3, 1)(layers.Cropping2D(1)(x))
    return layers.Dense(4)(layers.Flatten()(layers.MaxPooling2D()(layers.Concatenate()([a, b]))))


def extremes(x):
    a, b, c = (layers.Dense(5)(x) for _ in range(3))
    return layers.Dense(4)(layers.Average()([layers.Maximum()([a, b, c]), layers.Minimum()([a, c])]))


def twice(x):
    shared = layers.Dense(5, "relu")
    return layers.Dense(4)(shared(shared(layers.Dense(5)(x))))


def nested(x):
    inner = keras.Sequential([layers.Input((5,)), layers.Dense(4, "relu"), layers.Dense(5)])
    return layers.Dense(4)(layers.Add()([layers.Dense(5)(x), inner(layers.Dense(5, "relu")(x))]))


def operations(x):
    y = ops.concatenate([ops.square(layers.Dense(4)(x)) * 0.5 - 1.0, x[:, ::2]], axis=1)
    return layers.Dense(4)(ops.relu(y) - ops.flip(y, axis=1))


class Mixed(layers.Layer):
    """A layer of one's own, that is followed into its call."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.first, self.second = layers.Dense(5, "relu"), layers.Dense(5)

    def call(self, x):
        return self.first(x) * self.second(x)


def head_on_a_frozen_base(x):
    base = keras.Sequential(
        [layers.Input((8, 8, 2)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.DepthwiseConv2D(2), layers.ReLU()]
    )
    statistics = np.random.default_rng(7)
    base.layers[1].set_weights([statistics.uniform(0.5, 2, 4) for _ in range(4)])
    base.trainable = False
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(base(x)))


def frozen_in_between(x):
    y = layers.Dense(5, "relu", trainable=False)(layers.Dense(6, "relu")(x))
    return layers.Dense(4)(y)


def normalised(x):
    y = layers.BatchNormalization(trainable=False)(layers.Dense(6)(x))
    return layers.Dense(4)(layers.ReLU()(y))


def adapted(x):
    return layers.Dense(4)(layers.Normalization(mean=[1.0, -2.0, 0.5, 0.0, 3.0], variance=[2.0, 1.0, 0.5, 4.0, 1.0])(x))


IMAGE, ROWS, STEPS = (8, 8, 2), (5,), (7, 3)
GRAPHS = {
    "a skip connection": functional(IMAGE, residual),
    "gates": functional(ROWS, gated),
    "branches that are joined": functional(IMAGE, joined),
    "largest, smallest and mean of branches": functional(ROWS, extremes),
    "a layer used twice": functional(ROWS, twice),
    "a nested model": functional(ROWS, nested),
    "keras.ops": functional(ROWS, operations),
    "a layer of one's own": chain(ROWS, Mixed),
    "a frozen base": functional(IMAGE, head_on_a_frozen_base),
    "a frozen layer in between": functional(ROWS, frozen_in_between),
    "a frozen normalisation": functional(ROWS, normalised),
    "Normalization": functional(ROWS, adapted),
    "Rescaling": chain(IMAGE, lambda: layers.Rescaling(1 / 3, 0.1), lambda: layers.Conv2D(3, 3, activation="relu")),
    "Reshape, Permute": chain(
        (24,), lambda: layers.Reshape((2, 3, 4)), lambda: layers.Permute((3, 1, 2)), lambda: layers.Conv2D(3, 2, activation="relu")
    ),
    "ZeroPadding2D": chain(IMAGE, lambda: layers.ZeroPadding2D(((0, 1), (2, 0))), lambda: layers.Conv2D(3, 3, activation="relu")),
    "padding beyond a window": chain(IMAGE, lambda: layers.ZeroPadding2D(3), lambda: layers.Conv2D(3, 2, activation="relu")),
    "padding of what is trained": chain(
        IMAGE, lambda: layers.Conv2D(3, 3, activation="relu"), lambda: layers.ZeroPadding2D(1), layers.GlobalAveragePooling2D
    ),
    "UpSampling2D": chain(IMAGE, lambda: layers.Conv2D(2, 3, strides=2), layers.UpSampling2D, lambda: layers.Conv2D(2, 2)),
    "DepthwiseConv2D": chain(IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"), layers.Flatten),
    "SeparableConv2D": chain(IMAGE, lambda: layers.SeparableConv2D(4, 3, padding="same", activation="relu"), layers.MaxPooling2D),
    "groups": chain(IMAGE, lambda: layers.Conv2D(4, 3, groups=2, strides=2, activation="relu"), lambda: layers.Conv2D(4, 2, groups=4)),
    "dilation": chain(IMAGE, lambda: layers.Conv2D(3, 2, dilation_rate=(2, 3), padding="same", activation="relu")),
    "AveragePooling2D over the edge": chain(IMAGE, lambda: layers.Conv2D(3, 2), lambda: layers.AveragePooling2D(3, 2, padding="same")),
    "GlobalMaxPooling2D": chain(IMAGE, lambda: layers.Conv2D(3, 3), layers.GlobalMaxPooling2D),
    "Conv1D": chain(STEPS, lambda: layers.Conv1D(4, 3, strides=2, padding="same", activation="relu"), lambda: layers.Conv1D(3, 2)),
    "causal and dilated Conv1D": chain(STEPS, lambda: layers.Conv1D(4, 2, dilation_rate=2, padding="causal", activation="relu")),
    "pooling of steps": chain(STEPS, lambda: layers.Conv1D(4, 2), layers.MaxPooling1D, lambda: layers.AveragePooling1D(2, 1)),
    "SeparableConv1D": chain(STEPS, lambda: layers.SeparableConv1D(4, 2, activation="relu"), layers.GlobalAveragePooling1D),
    "Dense over steps": chain(STEPS, lambda: layers.Dense(4, "relu"), lambda: layers.TimeDistributed(layers.Dense(2))),
    "PReLU": chain(ROWS, lambda: layers.Dense(6), lambda: layers.PReLU("random_uniform")),
    "LSTM": chain((3, 2), lambda: layers.LSTM(2)),
    "SimpleRNN": chain(STEPS, lambda: layers.SimpleRNN(3, "relu")),
    "a threshold": chain(ROWS, lambda: layers.Dense(6), lambda: layers.ReLU(threshold=0.5, negative_slope=0.25, max_value=1.0)),
    "an end in ReLU": functional(ROWS, lambda x: layers.Dense(4, "relu", bias_initializer="ones")(layers.Dense(6, "relu")(x))),
    "an end in a sigmoid": functional(ROWS, lambda x: layers.Dense(4, "sigmoid")(layers.Dense(6, "relu")(x))),
    "images that come out": functional(IMAGE, lambda x: layers.Conv2D(1, 3)(layers.Conv2D(3, 3, activation="relu")(x))),
}
ACTIVATIONS = ("tanh", "sigmoid", "gelu", "silu", "elu", "softplus", "leaky_relu", "relu6", "selu", "mish", "hard_sigmoid", "hard_silu")
ACTIVATIONS += ("softsign", "celu", "tanh_shrink")
GRAPHS |= {name: chain(ROWS, lambda name=name: layers.Dense(7, name)) for name in ACTIVATIONS}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.sample(26)
def test_a_graph_is_trained_as_by_keras(name):
    model = compiled(GRAPHS[name])
    (x, y), before = data(model), [np.array(weight) for weight in model.get_weights()]
    made, told = on_shares(model, x, y)
    assert told[0] == pytest.approx(((model.predict(x[:BATCH], verbose=0) - y[:BATCH]) ** 2).sum(), rel=0.01)
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    after = model.get_weights()
    moved = [np.abs(one - other).max() for one, other in zip(after, before, strict=True)]
    trained = {id(weight) for weight in model.trainable_weights}
    for weight, one, other, move in zip(model.weights, made, after, moved, strict=True):
        assert (move > 1e-4) == (id(weight) in trained), weight.path
        np.testing.assert_allclose(one, other, atol=0.01 * max(moved) + 0.0005, err_msg=weight.path)


def test_curves_are_as_steep_as_in_keras():
    """From -6 to 6, each derivative within 0.003, and a rounding: a step with rate 1 moves one weight for each number."""
    import tensorflow as tf

    x = np.linspace(-6, 6, 240, dtype=np.float32)[None] + 0.0037
    for name in ("gelu", "silu", "elu", "softplus", "mish", "hard_silu", "tanh", "softsign"):
        curve = getattr(keras.activations, name)
        with tf.GradientTape() as tape:
            given = tf.constant(x)
            tape.watch(given)
            value = curve(given)
        slope = tape.gradient(value, given).numpy()
        single = keras.Sequential([layers.Input((1,)), layers.Dense(240, use_bias=False), layers.Activation(name)])
        single.layers[0].set_weights([x])
        single.compile(keras.optimizers.SGD(1.0), "mse")
        plan = plan_of(single)
        target = value.numpy() - 120  # each gradient is 2 * 120 / 240 times the slope
        outputs = Trainers(step(plan, 1)).real({"kernel0": x, "x": np.ones((1, 1)), "y": target})
        np.testing.assert_allclose(x - outputs["kernel0"], slope, atol=0.005, err_msg=name)


def refused(x, hidden, match, kind=UnsupportedLayer):
    model = keras.Model(x, hidden(x))
    model.compile("sgd", "mse")
    with pytest.raises(kind, match=match):
        plan_of(model)


class Stopped(layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x)


class Scaling(layers.Layer):
    """Multiplies by a trainable row, and by the half of it."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor + x * (self.factor * 0.5)


@pytest.mark.parametrize(
    ("shape", "hidden", "match"),
    [
        (ROWS, lambda x: layers.Dense(3)(Stopped(name="stops")(layers.Dense(4)(x))), "stops gradients"),
        (ROWS, lambda x: layers.Dense(3)(Scaling(name="halves")(x)), "computes with its weights before it uses them"),
        (ROWS, lambda x: layers.Dense(3)(layers.Dense(4, "exponential")(x)), "'dense.*grows beyond any bound"),
        (ROWS, lambda x: layers.Dense(3)(layers.Dense(4, "log_softmax")(x)), "'dense.*cannot be trained"),
        (ROWS, lambda x: layers.Dense(3)(layers.SpectralNormalization(layers.Dense(4))(x)), "changes .*vector_u.* when it trains"),
        (STEPS, lambda x: layers.LSTM(3, recurrent_dropout=0.5)(x), "'lstm.*recurrent_dropout"),
        (STEPS, lambda x: layers.TimeDistributed(layers.BatchNormalization())(x), "'time_distributed.*by its batch, step by step"),
        (
            ROWS,
            lambda x: layers.Dense(3)(layers.LSTM(2)(layers.BatchNormalization()(layers.Embedding(9, 3, mask_zero=True)(x)))),
            "'batch_norm.*mask",
        ),
    ],
)
def test_what_has_no_gradient_on_shares_is_refused_by_its_name(shape, hidden, match):
    refused(keras.Input(shape), hidden, match)


def test_weights_that_move_nothing_are_named():
    refused(
        keras.Input(ROWS),
        lambda x: layers.Dense(3)(x) + 0.0 * layers.Dense(3, name="unused")(x)[:, :1],
        "do not move its outputs",
        ModelError,
    )
    model = keras.Sequential([layers.Input(ROWS), layers.Dense(3, trainable=False)])
    model.compile("sgd", "mse")
    with pytest.raises(ModelError, match="no trainable weights"):
        plan_of(model)


PLAN = Plan(
    (ProductLayer((0,), Weight("kernel0", (4, 3)), Weight("bias0", (3,))),),
    (4,),
    3,
    (Variable("kernel0", (4, 3)), Variable("bias0", (3,))),
    "mse",
    GradientDescent(0.5),
)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": ()},
        {"layers": (SumLayer((0, 2), (1, 1)),)},
        {"layers": (SumLayer((), ()),)},
        {"example": ()},
        {"example": (0, 4)},
        {"outputs": -3},
        {"variables": ()},
        {"variables": (Variable("kernel0", (4, 3)), Variable("kernel0", (4, 3)))},
        {"variables": (Variable("kernel0", (4, 3), trained=False), Variable("bias0", (3,), trained=False))},
        {"variables": (Variable("kernel0", (4, 0)), Variable("bias0", (3,)))},
    ],
)
def test_whoever_receives_what_is_no_plan_refuses_it(change):
    """Servers and dealer know a plan from a message only."""
    sent = msgspec.msgpack.encode(msgspec.to_builtins(PLAN) | msgspec.to_builtins(change))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(sent, type=Plan)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(PLAN), type=Plan) == PLAN


KERNEL = Weight("kernel0", (4, 3))
WRONG = {
    "a name that is none": (ProductLayer((0,), Weight("other", (4, 3))),),
    "a shape that does not fit": (ProductLayer((0,), Weight("kernel0", (3, 3))),),
    "outputs that are others": (ProductLayer((0,), KERNEL), SumLayer((1, 0), (1, 1))),
    "weights that move nothing": (RescaleLayer((0,), 1.0), ProductLayer((1,), KERNEL)),
    "a factor that vanishes": (ProductLayer((0,), KERNEL, Weight("bias0", (3,))), RescaleLayer((1,), 1e-9)),
    "a factor that is no number": (ProductLayer((0,), KERNEL, Weight("bias0", (3,))), RescaleLayer((1,), float("nan"))),
    "a threshold beyond activations": (ProductLayer((0,), KERNEL, Weight("bias0", (3,))), RectifierLayer((1,), 0.0, 1e6)),
    "signs that are none": (ProductLayer((0,), KERNEL, Weight("bias0", (3,))), SumLayer((1,), (7,))),
    "no image": (ProductLayer((0,), KERNEL, Weight("bias0", (3,))), ConvolutionLayer((1,), KERNEL)),
    "knots that fall": (
        ProductLayer((0,), KERNEL, Weight("bias0", (3,))),
        CurveLayer((1,), Pieces((1.0, 0.0), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0)), (1, 0, -1)),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_plan_that_computes_nothing_is_refused_before_a_step(name):
    with pytest.raises((ModelError, ProgramError)):
        step(msgspec.structs.replace(PLAN, layers=WRONG[name]), 2)
