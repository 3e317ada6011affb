"""Penalties on activations: gradients and told losses are those of `keras.Model.fit`, or they are refused by name."""

import keras
import msgspec
import numpy as np
import pytest
from compiled_trainings import LABELS, MANY, NUMBERS, SGD, X, model, same_as_keras, trained
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError
from protocols.lowering.forms import check_predicts
from protocols.lowering.keras_graph import read_all
from protocols.lowering.nodes.training import Penalised
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan, weights
from protocols.training.asked import SharedEvaluation
from protocols.training.base import parts
from protocols.training.networks.activity import PenalisedLayer
from protocols.training.networks.losses import Told
from protocols.training.private.settings import Private
from protocols.training.step import step

L1, L2, L1L2 = keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2
SUM = keras.losses.MeanSquaredError(reduction="sum")


def hidden(activation, penalty, *others, **settings):
    return model(hidden=(layers.Dense(4, activation, activity_regularizer=penalty), *others), **settings)


def functional(build, loss="mse"):
    """With the same weights always."""
    keras.utils.set_random_seed(2)
    x = keras.Input((4,))
    built = keras.Model(x, build(x))
    random = np.random.default_rng(2)
    for weight in built.weights:
        weight.assign(random.normal(size=weight.shape) * 0.6)
    built.compile(SGD(0.1), loss)
    return built


def shared(x):
    """One layer, called twice, of the same value and of another one."""
    layer = layers.Dense(4, "tanh", activity_regularizer=L1L2(0.05, 0.1))
    return layers.Dense(3)(layers.Add()([layer(x), layer(x), layer(layers.Rescaling(0.5)(x))]))


def frozen(x):
    base = layers.Dense(4, trainable=False, activity_regularizer=L2(0.1))
    return layers.Dense(3)(base(layers.Dense(4, trainable=False)(x)))


def nested(x):
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(3, "relu", activity_regularizer="l2"), layers.ActivityRegularization(0.1)])
    return layers.Dense(3)(inner(x))


def attended(x):
    rows = layers.Reshape((2, 2))(x)
    return layers.Dense(3)(layers.Flatten()(layers.MultiHeadAttention(1, 2, activity_regularizer="l2")(rows, rows)))


def unmoved():
    """A layer of zeros: the sign of 0 is 0, so that nothing but the loss moves its biases."""
    built = hidden(None, L1(0.5))
    for weight in built.layers[0].weights:
        weight.assign(np.zeros(weight.shape))
    return built


CELLS = {
    "l2 of outputs": lambda: model(last=layers.Dense(3, activity_regularizer=L2(0.1))),
    "l1 of a rectifier": lambda: hidden("relu", L1(0.1)),
    "both of a curve": lambda: hidden("tanh", L1L2(0.05, 0.1)),
    "by name": lambda: hidden(None, "l2"),
    "nothing": lambda: hidden("relu", L1L2()),
    "a layer of its own": lambda: hidden(None, None, layers.ActivityRegularization(0.05, 0.02), layers.ReLU()),
    "two of one value": lambda: hidden(None, L2(0.05), layers.ActivityRegularization(0.05, 0.02)),
    "zeros": unmoved,
    "images": lambda: hidden("relu", None, layers.Reshape((2, 2, 1)), layers.Conv2D(2, 2, activity_regularizer=L2(0.1)), layers.Flatten()),
    "beside a penalty on weights, clipped": lambda: model(
        last=layers.Dense(3, kernel_regularizer=L2(0.1), activity_regularizer=L1(0.2)), optimizer=SGD(0.1, clipnorm=0.4)
    ),
    "adam, and a loss that counts half": lambda: hidden("relu", L1L2(0.2, 0.1), optimizer=keras.optimizers.Adam(0.05), loss_weights=[0.5]),
    "gathered, a loss that counts twice": lambda: hidden(
        "relu", L2(0.2), optimizer=SGD(0.1, gradient_accumulation_steps=2), loss_weights=2.0
    ),
    "a sum": lambda: hidden("relu", L1L2(0.5, 0.4), loss=SUM, optimizer=SGD(0.03)),
    "cross-entropy": lambda: hidden("relu", L2(0.1), last=layers.Dense(3, "softmax"), loss="sparse_categorical_crossentropy"),
    "truths": lambda: hidden("tanh", L1(0.05), last=layers.Dense(3, "sigmoid"), loss="binary_crossentropy"),
    "called twice": lambda: functional(shared),
    "nested": lambda: functional(nested),
    "sequences": lambda: hidden(None, None, layers.Reshape((2, 2)), layers.LSTM(2, activity_regularizer=L2(0.1))),
}
TARGETS = {"cross-entropy": LABELS, "truths": MANY}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.sample(5)
def test_weights_and_loss_are_those_of_keras(name):
    same_as_keras(CELLS[name], TARGETS.get(name, NUMBERS), near=0.03)


def test_it_is_the_penalty_that_moves_weights():
    """Without one they end elsewhere, further than the tests allow."""
    (first, *_), told = trained(CELLS["l1 of a rectifier"](), NUMBERS)
    (other, *_), plain = trained(CELLS["nothing"](), NUMBERS)
    assert np.abs(first - other).max() > 0.01
    assert (told[:, 0] > plain[:, 0] + 0.05).all()


def test_a_base_ends_before_a_penalty():
    built = plan(functional(frozen))
    cut = parts(built, 10)
    assert (len(cut.base.activities), len(cut.head.activities)) == (0, 1)
    assert cut.base.outputs == 4


class Own(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(x)


REFUSED = {
    "one of one's own": (lambda: hidden(None, Own()), "dense.*activity_regularizer is Own; use instead: L1, L2 or L1L2"),
    "orthogonality": (lambda: hidden(None, "orthogonal_regularizer"), "OrthogonalRegularizer"),
    "of probabilities that belong to the loss": (
        lambda: model(last=layers.Dense(3, "softmax", activity_regularizer="l2"), loss="categorical_crossentropy"),
        "has an activity_regularizer on a softmax that belongs to the loss",
    ),
    "step by step": (
        lambda: hidden(
            None, None, layers.Reshape((2, 2)), layers.TimeDistributed(layers.Dense(2, activity_regularizer="l2")), layers.Flatten()
        ),
        "has an activity_regularizer, which Keras adds to the loss 0 times",
    ),
    "inside of attention": (
        lambda: functional(attended),
        "has an activity_regularizer, which Keras adds to the loss 1 times, and 0 values",
    ),
    "of a state that nothing needs": (
        lambda: functional(
            lambda x: layers.Dense(3)(layers.LSTM(2, return_state=True, activity_regularizer="l2")(layers.Reshape((2, 2))(x))[0])
        ),
        "which Keras adds to the loss 3 times, and 1 values",
    ),
    "a tiny one": (lambda: hidden("relu", L1(1e-9)), "l1=1e-09 cannot be told in fixed point.*between"),
    "a huge one": (lambda: hidden("relu", L2(1e4)), "l2=10000 cannot be told in fixed point"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_by_name(name):
    build, match = REFUSED[name]
    with pytest.raises(ModelError, match=match):
        step(plan(build()), 4)


def test_privacy_refuses_it_by_name():
    with pytest.raises(ModelError, match="activity_regularizer cannot be combined with privacy="):
        msgspec.structs.replace(plan(CELLS["l2 of outputs"]()), private=Private(1.0, 1.0, 4))


def test_what_a_value_is_not_is_refused():
    built = plan(CELLS["l2 of outputs"]())
    for other in (PenalisedLayer((1,), (4,), 0.1), PenalisedLayer((1,), (3,)), PenalisedLayer((1,), (3,), -0.1, 0.2)):
        with pytest.raises(ModelError, match="a penalty on"):
            step(msgspec.structs.replace(built, layers=(built.layers[0], other)), 4)


@pytest.mark.parametrize("lost", [0, 9, 20])
def test_a_loss_is_told_with_fewer_bits(lost):
    """The sum over a batch, with 32 fractional bits less those that are lost."""
    built = CELLS["both of a curve"]()
    asked = SharedEvaluation(msgspec.structs.replace(plan(built), value=True, sums=Told(20, lost)))
    given = {name: encode(number, SCALE) for name, number in zip(asked.plan.shapes, weights(built), strict=True)}
    told = Trainers(asked.circuit(10)).outputs(
        given | {"outside": np.zeros(1, np.uint64), "x": encode(X, SCALE), "y": encode(NUMBERS, SCALE)}
    )
    expected = built.evaluate(X, NUMBERS, batch_size=10, verbose=0)
    np.testing.assert_allclose(decode(told["loss"], 2.0 ** (lost - 32))[0] / 30, expected, atol=0.003)


def test_what_it_adds_is_seen_by_nobody_who_asks_the_network():
    """It predicts what it predicts without, and is not changed by being read."""
    built = CELLS["two of one value"]()
    check_predicts(built)
    plan(built)
    assert built.losses == []
    assert not any(isinstance(node, Penalised) for node in read_all(built).nodes)
