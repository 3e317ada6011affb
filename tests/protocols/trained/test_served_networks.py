"""Networks that are trained on shares as programs of predictions: what they answer, when they say that an answer means nothing."""

from functools import partial

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, ops
from training_deployment import SCALE, Trainers

from deployment import Deployment
from protocols.errors import ModelError, UnsupportedLayer, WindowError
from protocols.lowering import lower
from protocols.lowering.forms import check_predicts
from protocols.lowering.scales.noise import noisy
from protocols.mpc import encoding
from protocols.mpc.circuit import Builder
from protocols.mpc.engine.values import Value
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.sums import Project
from protocols.mpc.operations.wires import Given, Open
from protocols.mpc.program import infer
from protocols.noisy_answers import NoisyAnswers
from protocols.owner.compiled import ending, weights
from protocols.owner.compiled import plan as plan_of
from protocols.trained import served
from protocols.trained.bounds import reach
from protocols.training.asked import Derivation, SharedEvaluation
from protocols.training.networks.layers import AffineLayer, ShiftedLayer, Variable, Weight
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.nonlinear import RectifierLayer
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan


def compiled(model, loss="sparse_categorical_crossentropy"):
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def chain(shape, *hidden, outputs=3, last="softmax"):
    return keras.Sequential([layers.Input(shape), *hidden, layers.Flatten(), layers.Dense(outputs, last)])


def functional(shape, build):
    x = keras.Input(shape)
    return keras.Model(x, layers.Dense(3, "softmax")(build(x)))


def residual(x):
    y = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    z = layers.ReLU()(layers.Add()([y, layers.Conv2D(3, 3, padding="same")(y)]))
    return layers.Flatten()(layers.MaxPooling2D()(z))


def gated(x):
    a, b = layers.Dense(6, "sigmoid")(x), layers.Dense(6, "tanh")(x)
    return layers.Subtract()([layers.Multiply()([a, b]), layers.Maximum()([a, b])])


def moved(x):
    y = ops.concatenate([layers.Dense(4)(x), ops.flip(x, axis=1)[:, ::2]], axis=1)
    return ops.leaky_relu(y, negative_slope=0.25) * 0.5 - 1.0


def attended(x):
    y = layers.LayerNormalization(epsilon=0.1)(layers.Dense(4)(x))
    return layers.Flatten()(layers.MultiHeadAttention(2, 2)(y, y, use_causal_mask=True))


def frozen(*inner, shape=(6, 6, 2)):
    base = keras.Sequential([layers.Input(shape), *inner])
    base.trainable = False
    return chain(shape, base)


NETWORKS = {
    "dense": lambda: chain((6,), layers.Dense(8, "relu")),
    "sequence": lambda: chain((4, 5), layers.Dense(6, "tanh"), layers.Permute((2, 1)), layers.Dense(3)),
    "convolutions": lambda: chain((8, 8, 2), layers.Conv2D(4, 3, dilation_rate=2, groups=2), layers.ReLU(max_value=1.0)),
    "pools": lambda: chain((8, 8, 2), layers.ZeroPadding2D(1), layers.AveragePooling2D(3, padding="same"), layers.MaxPooling2D(2)),
    "depthwise": lambda: chain((6, 6, 2), layers.DepthwiseConv2D(3, padding="same"), layers.LeakyReLU(0.3)),
    "residual": lambda: functional((6, 6, 2), residual),
    "gated": lambda: functional((5,), gated),
    "moved": lambda: functional((6,), moved),
    "frozen": lambda: frozen(layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()),
    "normalised by statistics": lambda: chain((5, 5, 2), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()),
    "drawn": lambda: chain((6,), layers.Dense(8), layers.Dropout(0.5), layers.GaussianNoise(0.5), layers.GaussianDropout(0.5)),
    "looked up": lambda: chain((3,), layers.Embedding(2, 3)),
    "compared": lambda: functional((6,), lambda x: layers.Dense(3)(x) * ops.cast(x[:, :3] >= x[:, 3:], "float32")),
    "matrices": lambda: functional((3, 4), lambda x: layers.Flatten()(layers.Dot(axes=2)([layers.Dense(4)(x), layers.Dense(4)(x)]))),
    "attended": lambda: functional((3, 4), attended),
    "a quotient": lambda: functional((4,), lambda x: layers.Dense(3)(x) / (1.0 + ops.square(layers.Dense(3)(x)))),
    "penalised": lambda: chain((6,), layers.Dense(4, "relu"), layers.ActivityRegularization(0.01, 0.02)),
    "scaled": lambda: frozen(layers.BatchNormalization(), layers.Rescaling(0.5, 0.25)),
}


class Case:
    """A model, what serves it, and its weights as integers."""

    def __init__(self, model, plan=None, **settings):
        self.model, self.plan = model, plan or plan_of(model)
        shape = tuple(model.outputs[0].shape[1:])
        self.like = lower(model, **settings).program
        self.served = served(self.plan, ending(model), shape, self.like)
        self.program = self.served.program

    def made(self, arrays=None):
        """The weights of the program, and whether they are too large, by the servers' protocol."""
        circuit = self.served.derivation.circuit(1)
        given = {name: encode(array, SCALE) for name, array in zip(self.plan.shapes, arrays or weights(self.model), strict=True)}
        found = Trainers(circuit).outputs(given)
        return [found[f"weight {index}"] for index in range(len(self.program.weights))], int(found["outside"][0])

    def answers(self, x, arrays=None, program=None):
        """Outputs, and the bit."""
        program = program or self.program
        outputs = Deployment(program, self.made(arrays)[0]).output(encoding.encoded(program, np.asarray(x, np.float64)))
        real = decode(outputs, program.output_scale)
        return (real[:, :-1], outputs[:, -1].astype(bool)) if program.checked else (real, np.zeros(len(real), bool))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_as_keras_does_from_weights_that_nobody_knows(name):
    keras.utils.set_random_seed(2)
    case = Case(compiled(NETWORKS[name]()))
    x = np.random.default_rng(0).uniform(0, 1, (4, *case.model.input_shape[1:]))
    x = x.round() if name == "looked up" else x
    assert infer(case.program)
    assert case.served.derivation.weights == list(case.program.weights)
    answers, outside = case.answers(x)
    assert not outside.any()
    np.testing.assert_allclose(answers, case.model.predict(x, verbose=0), atol=0.004)


ENDS = {
    "logits": ("mse", None, 3),
    "one": ("binary_crossentropy", "sigmoid", 1),
    "several": ("binary_crossentropy", "sigmoid", 4),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_model_is_that_of_keras(name):
    loss, last, outputs = ENDS[name]
    keras.utils.set_random_seed(3)
    case = Case(compiled(chain((6,), layers.Dense(8, "relu"), outputs=outputs, last=last), loss), input_range=(-2.0, 3.0))
    x = np.random.default_rng(0).uniform(-2, 3, (4, 6))
    answers, outside = case.answers(x)
    assert not outside.any()
    np.testing.assert_allclose(answers, case.model.predict(x, verbose=0), atol=0.004)
    assert (case.program.label is not None) == (outputs > 1)


def test_every_kind_of_node_is_served():
    """A node that is trained, and not served, is found here."""
    seen = {type(node) for build in NETWORKS.values() for node in plan_of(compiled(build())).layers}
    assert seen >= set(AnyLayer.__args__) - {ShiftedLayer}, "whose weights are added: below"


def test_an_index_outside_of_a_table_says_so():
    case = Case(compiled(NETWORKS["looked up"]()))
    like = msgspec.structs.replace(case.like, input_range=(-4.0, 4.0))  # of indices that nobody has proved
    case.served = served(case.plan, ("softmax",), (3,), like)
    case.program = case.served.program
    x = np.array([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0], [-1.0, 1.0, 0.0]])
    assert case.answers(x)[1].tolist() == [False, True, True]


class Told(layers.Layer):
    """Computes otherwise when it trains."""

    def call(self, x, training=None):
        return x * 2.0 if training else x


def test_a_model_that_predicts_otherwise_than_it_trains_is_not_asked():
    check_predicts(NETWORKS["normalised by statistics"]())
    check_predicts(NETWORKS["drawn"]())
    with pytest.raises(UnsupportedLayer, match=r"computes otherwise when it predicts .*reveal\(\) it"):
        check_predicts(chain((4,), layers.Dense(3), Told()))


@pytest.mark.parametrize(
    ("loss", "last"),
    [("mse", "sigmoid"), ("mse", "tanh"), ("poisson", "softplus"), ("kl_divergence", "softmax"), ("binary_focal_crossentropy", "sigmoid")],
)
def test_an_activation_at_the_end_is_served_once(loss, last):
    case = Case(compiled(chain((4,), last=last), loss))
    x = np.random.default_rng(0).uniform(0, 1, (3, 4))
    np.testing.assert_allclose(case.answers(x)[0], case.model.predict(x, verbose=0), atol=0.004)


def nodes(*made, shape=(4,), outputs=4):
    """A plan without Keras: nodes on weights w0, w1, ..., all of the shape of an example."""
    variables = tuple(Variable(f"w{at}", shape) for at in range(2))
    return Plan(made, shape, outputs, variables, "mse", GradientDescent(0.1))


def test_weights_that_scale_and_shift_are_values_of_each_example():
    plan = nodes(AffineLayer((0,), Weight("w0", (4,)), Weight("w1", (4,))), RectifierLayer((1,)), ShiftedLayer((2,), Weight("w1", (4,))))
    model = compiled(chain((4,), outputs=4, last=None), "mse")
    case = Case(model, plan)
    w0, w1 = np.array([0.5, -1.0, 2.0, 0.25]), np.array([0.1, 0.2, -0.3, -1.0])
    x = np.random.default_rng(0).uniform(0, 1, (5, 4))
    answers, outside = case.answers(x, [w0, w1])
    assert not outside.any()
    np.testing.assert_allclose(answers, np.maximum(w0 * x + w1, 0) + w1, atol=1e-3)


@pytest.mark.parametrize("factor", [0.5, 1.1, 3.0, 200.0])
@pytest.mark.parametrize("hidden", [lambda: layers.Dense(4, "relu"), lambda: layers.Dense(4, "tanh"), lambda: layers.Dense(4)])
def test_an_answer_that_means_nothing_says_so_and_no_other_does(factor, hidden):
    """Numbers `factor` times as large as a window holds, in one of four examples: the others are right whatever became of that one."""
    keras.utils.set_random_seed(4)
    model = compiled(chain((4,), hidden(), last=None, outputs=2), "mse")
    first, bias, *_ = model.get_weights()
    first[:, 0] = 1.0
    model.layers[0].set_weights([first, bias])
    case = Case(model, input_range=(-30000.0, 30000.0))
    x = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    x[2] = 128.0 * factor
    answers, outside = case.answers(x)
    linear = case.model.layers[0].activation.__name__ == "linear"
    assert outside.tolist() == [False, False, factor > 1, False] or linear
    right = ~outside
    np.testing.assert_allclose(answers[right], model.predict(x[right], verbose=0), atol=0.004 * max(1, 128 * factor * linear))
    np.testing.assert_array_equal(answers[outside], 0, "nothing else is told")


def test_weights_that_are_larger_than_sums_are_proved_for_are_refused():
    case = Case(compiled(chain((6,), layers.Dense(8, "relu"))))
    arrays = weights(case.model)
    assert case.made(arrays)[1] == 0
    for at in range(len(arrays)):
        changed = [array.copy() for array in arrays]
        changed[at].reshape(-1)[-1] = 1.01 * case.served.largest
        assert case.made(changed)[1] == 1, f"weight {at}"


def test_statistics_of_what_comes_in_are_no_weights_that_are_too_large():
    """What is watched is of very different sizes then: 1 / sqrt(v) beside weights, of which 2^18 is none in any multiple."""
    model = compiled(chain((6,), layers.BatchNormalization(epsilon=1e-5), layers.Dense(8, "relu")))
    model.layers[0].set_weights([np.full(6, 1.5), np.full(6, 0.25), np.arange(6) / 8, np.geomspace(0.01, 3, 6)])
    case = Case(model)
    x = np.random.default_rng(0).uniform(0, 1, (4, 6))
    answers, outside = case.answers(x)
    arrays = weights(model)
    assert case.made(arrays)[1] == 0
    assert not outside.any()
    np.testing.assert_allclose(answers, model.predict(x, verbose=0), atol=0.004)
    for at in range(len(arrays)):
        changed = [array.copy() for array in arrays]
        changed[at].reshape(-1)[0] = 2.0**18 + 0.25
        assert case.made(changed)[1] == 1, f"weight {at}"


def test_wide_layers_allow_smaller_weights():
    sizes = (4, 9000)
    narrow, wide = (Case(compiled(chain((size,), layers.Dense(2, "relu"))), input_range=(-500.0, 500.0)) for size in sizes)
    assert 2**4 <= wide.served.largest < narrow.served.largest == 2**14
    like = msgspec.structs.replace(narrow.like, input_range=(-(2.0**30), 2.0**30))
    with pytest.raises(WindowError, match=r"reveal\(\) the model, and share what is revealed"):
        served(narrow.plan, ("softmax",), (3,), like)


def test_feature_ranges_clamps_and_labels_are_kept():
    model = compiled(chain((2,), layers.Dense(4, "relu")))
    case = Case(model, input_range=([0.0, -4.0], [1.0, 4.0]), clients="malicious")
    x = np.array([[0.5, 3.0], [0.25, -4.0]])
    np.testing.assert_allclose(case.answers(x)[0], model.predict(x, verbose=0), atol=0.004)
    assert case.program.label_clamped
    far = Deployment(case.program, case.made()[0]).output(encode(np.array([[7.0, -9.0]]), SCALE))
    nearest = model.predict(np.array([[1.0, -4.0]]), verbose=0)
    np.testing.assert_allclose(decode(far[:, :-1], case.program.output_scale), nearest, atol=0.004)


def test_what_nobody_knows_the_size_of_is_refused_by_name():
    with pytest.raises(UnsupportedLayer, match="Project, for which nothing says"):
        reach(Project(0, 1, 1), [Value((1,), "share")], [1.0])


def test_only_weights_of_the_network_are_derived():
    plan, build = plan_of(compiled(chain((4,)))), Builder()
    build(Open(build(Given("x", (1, 4), "share"))))
    ops_of = build.circuit({"it": 1}).ops
    with pytest.raises(ModelError, match="of the weights of a network, and of nothing else"):
        Derivation(plan, ops_of, (1,), 1)


def test_an_evaluation_moves_no_weights():
    plan = plan_of(compiled(chain((4,))))
    outputs = SharedEvaluation(msgspec.structs.replace(plan, value=True)).circuit(3).outputs
    assert set(outputs) == {"metric", "loss", "outside"}


def test_noise_is_in_the_answers_of_all_outputs():
    """As much as for one vector of all of them, each cut to the clip."""
    keras.utils.set_random_seed(1)
    x = keras.Input((4,))
    hidden = layers.Dense(5, "tanh")(x)
    model = keras.Model(x, {"a": layers.Dense(3, "softmax", name="a")(hidden), "b": layers.Dense(2, name="b")(hidden)})
    model.compile("sgd", {"a": "categorical_crossentropy", "b": "mse"})
    noise = NoisyAnswers(clip=0.5, noise_multiplier=0.02, max_epsilon=1e6)
    like, plan = lower(model, input_range=(-1, 1), answers=noise).program, plan_of(model)
    made = served(plan, ending(model), (plan.outputs,), like, end=partial(noisy, answers=noise), watching=False)
    given = {name: encode(array, SCALE) for name, array in zip(plan.shapes, weights(model), strict=True)}
    derived = Trainers(made.derivation.circuit(1)).outputs(given)
    rows = np.random.default_rng(0).uniform(-1, 1, (2000, 4))
    found = Deployment(made.program, [derived[f"weight {index}"] for index in range(len(made.program.weights))])
    answers = decode(found.output(encoding.encoded(made.program, rows)), made.program.output_scale)
    sigma = next(op.sigma for op in made.program.ops if isinstance(op, AddNoise)) * made.program.output_scale
    assert sigma == pytest.approx(0.02 * 2 * 0.5 * 5**0.5, rel=0.01)
    errors = answers - np.clip(np.concatenate(list(model.predict(rows, verbose=0).values()), 1), -0.5, 0.5)
    np.testing.assert_allclose(errors.std(0), sigma * 2**0.5, rtol=0.08)
    assert np.abs(errors.mean(0)).max() < 0.01
    assert [(one.name, one.shape) for one in made.program.outputs.parts] == [("a", (3,)), ("b", (2,))]
    assert not made.program.checked
    assert made.program.label is None
