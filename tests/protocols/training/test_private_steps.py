"""Private steps: each example's part of a sum is at most C, whatever it is; noise of each server; clipped sums beside Keras."""

import itertools
import math

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from training_deployment import SCALE, Trainers

from gradient_oracle import clipped_sum, each_gradient
from protocols.errors import ModelError
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.wires import Given
from protocols.owner.compiled import places, weights
from protocols.owner.compiled import plan as plan_of
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import (
    AffineLayer,
    JoinedLayer,
    Layer,
    MultipliedLayer,
    PermutedLayer,
    ProductLayer,
    ShapedLayer,
    ShiftedLayer,
    SumLayer,
    TakenLayer,
    Variable,
    Weight,
)
from protocols.training.networks.losses import gradient_scale
from protocols.training.networks.nonlinear import ExtremeLayer
from protocols.training.networks.optimizers import Adam, GradientDescent
from protocols.training.private import factors, norms
from protocols.training.private.clipped import noisy
from protocols.training.private.settings import Private, fitted
from protocols.training.private.uses import uses
from protocols.training.step import Plan, _network, step

RING = np.random.default_rng(11)
BATCH = 4


def chain(shape, *hidden, outputs=4):
    return lambda: keras.Sequential([layers.Input(shape), *(make() for make in hidden), layers.Flatten(), layers.Dense(outputs)])


def twice():
    x = layers.Input((5,))
    shared = layers.Dense(5, "relu")
    return keras.Model(x, layers.Dense(4)(shared(shared(layers.Dense(5)(x)))))


def residual():
    x = layers.Input((6, 6, 2))
    y = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    y = layers.Add()([y, layers.Conv2D(3, 3, padding="same")(y)])
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.ReLU()(y))))


NETWORKS = {
    "one layer": chain((6,)),
    "hidden layers": chain((6,), lambda: layers.Dense(8, "relu"), lambda: layers.Dense(5, "tanh")),
    "without biases": chain((6,), lambda: layers.Dense(8, "relu", use_bias=False)),
    "convolutions": chain((6, 6, 2), lambda: layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D),
    "strides, groups and padding": chain((6, 6, 2), lambda: layers.Conv2D(4, 3, strides=2, groups=2, padding="same", activation="relu")),
    "dilation": chain((6, 6, 2), lambda: layers.Conv2D(3, 2, dilation_rate=(2, 3))),
    "Conv1D": chain((7, 3), lambda: layers.Conv1D(4, 3, strides=2, padding="same", activation="relu")),
    "DepthwiseConv2D": chain((6, 6, 2), lambda: layers.DepthwiseConv2D(3, activation="relu"), lambda: layers.AveragePooling2D(2)),
    "Dense over steps": chain((7, 3), lambda: layers.Dense(4, "relu")),
    "a skip connection": residual,
    "a layer used twice": twice,
    "LSTM": chain((3, 2), lambda: layers.LSTM(2)),
    "PReLU": chain((5,), lambda: layers.Dense(6), lambda: layers.PReLU("random_uniform")),
    "a frozen base": chain((5,), lambda: layers.Dense(6, "relu", trainable=False), lambda: layers.Dense(5, "relu")),
}
LOSSES = {
    "crossentropy": keras.losses.CategoricalCrossentropy(from_logits=True),
    "binary_crossentropy": keras.losses.BinaryCrossentropy(from_logits=True),
    "mse": "mse",
}


def built(make, loss="crossentropy", seed=3):
    keras.utils.set_random_seed(seed)
    model = make()
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape) * 0.5)
    model.compile(keras.optimizers.SGD(1.0), LOSSES[loss])
    return model, plan_of(model)


def private(plan, clip, *, noise=0.0, batch=BATCH):
    """`clip` is of the gradients of Keras, as `max_grad_norm`."""
    raw = clip / (gradient_scale(plan.loss, plan.outputs) * plan.weight)
    found = fitted(Private(raw, noise, batch), plan.optimizer, gradient_scale(plan.loss, plan.outputs) / batch)
    return msgspec.structs.replace(plan, private=found)


def sums(plan, batch):
    """The circuit of the private sums alone, and the fractional bits of each."""
    network = _network(plan, batch, 1.0)
    draft = network.draft.copy()
    gradients = noisy(draft, plan.private, network.gradients)
    return draft.circuit({name: at for name, (at, _) in gradients.items()}), {name: bits for name, (_, bits) in gradients.items()}


def norm(circuit, bits, given):
    """Of the sums that a circuit gives, exactly: no number is rounded before it is a Python integer."""
    outputs = Trainers(circuit).outputs(given)
    most = max(bits.values())
    square = sum((int(x) << (most - bits[name])) ** 2 for name, one in outputs.items() for x in one.view(np.int64).reshape(-1))
    return math.isqrt(square) * 2.0**-most


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_a_step_without_noise_moves_weights_by_the_clipped_mean(name, clip):
    model, plan = built(NETWORKS[name])
    random = np.random.default_rng(4)
    x = random.normal(size=(BATCH, *model.input_shape[1:])) * np.geomspace(0.05, 3, BATCH).reshape(-1, *[1] * (len(model.input_shape) - 1))
    y = np.eye(plan.outputs)[random.integers(plan.outputs, size=BATCH)]
    given = dict(zip(plan.shapes, weights(model), strict=True))
    made = Trainers(step(private(plan, clip), BATCH)).real({**given, "x": x, "y": y})
    each = each_gradient(model, x.astype(np.float32), y.astype(np.float32))
    expected = clipped_sum(each, clip) / BATCH
    moved = np.concatenate([(given[one] - made[one]).reshape(-1) for one in plan.trained])
    assert (np.linalg.norm(each, axis=1) > clip).sum() in ((1, 2, 3, 4) if clip < 1 else (0,))
    length = np.minimum(np.linalg.norm(each, axis=1), clip).sum() / BATCH
    np.testing.assert_allclose(moved, expected, atol=0.02 * length + 0.004)
    assert np.linalg.norm(moved - expected) < 0.02 * length + 0.0005 * math.sqrt(len(moved)) + 0.005
    assert places(model)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", [GradientDescent(0.5), GradientDescent(0.5, 0.9), Adam(0.01)])
def test_every_loss_and_optimizer_on_the_clipped_mean(loss, optimizer):
    """Beside the same step that is not private, where no example is long enough to be clipped."""
    model, plan = built(NETWORKS["hidden layers"], loss)
    plan = msgspec.structs.replace(plan, optimizer=optimizer)
    random = np.random.default_rng(4)
    x, y = random.normal(size=(BATCH, 6)), np.eye(4)[random.integers(4, size=BATCH)]
    given = dict(zip(plan.shapes, weights(model), strict=True)) | {name: np.zeros(shape) for name, shape in plan.states.items()}
    values = {**given, "x": x, "y": y}
    plain, made = (Trainers(step(one, BATCH)).real(values) for one in (plan, private(plan, 50.0)))
    for name in plan.trained:
        np.testing.assert_allclose(made[name], plain[name], atol=0.002 if isinstance(optimizer, GradientDescent) else 0.004)


EXTREMES = {
    "huge": lambda shape: np.full(shape, 511.99),
    "huge, of both signs": lambda shape: np.where(np.arange(math.prod(shape)).reshape(shape) % 2, 511.99, -511.99),
    "zero": np.zeros,
    "the smallest there are": lambda shape: np.full(shape, SCALE),
    "one among zeros": lambda shape: np.eye(1, math.prod(shape)).reshape(shape) * 300,
    "usual": lambda shape: np.random.default_rng(1).normal(size=shape),
}
LARGE = {"usual": 1.0, "large": 100.0, "outside of every window": 1e9}


@pytest.mark.sample(24)
@pytest.mark.parametrize("clip", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("feature", EXTREMES)
@pytest.mark.parametrize("name", ["hidden layers", "convolutions", "a layer used twice"])
def test_no_example_changes_a_sum_by_more_than_the_bound(name, feature, size, clip):
    """Whatever its features, its labels (wrong ones, large ones) and the weights are: activations may leave every window."""
    _, plan = built(NETWORKS[name], "mse")
    plan = private(plan, clip, batch=1)
    circuit, bits = sums(plan, 1)
    given = {one: encode(np.random.default_rng(2).normal(size=shape) * LARGE[size], SCALE) for one, shape in plan.shapes.items()}
    for target in (0.0, 511.0, -300.0):
        found = norm(circuit, bits, {**given, "x": encode(EXTREMES[feature]((1, plan.inputs)), SCALE), "y": encode([[target] * 4], SCALE)})
        assert found <= plan.private.clip


@pytest.mark.parametrize("name", ["hidden layers", "convolutions"])
def test_not_even_where_weights_and_labels_are_any_ring_elements(name):
    _, plan = built(NETWORKS[name])
    plan = private(plan, 1.0, batch=1)
    circuit, bits = sums(plan, 1)
    found = []
    for _ in range(12):
        given = {one: RING.integers(2**64, size=shape, dtype=np.uint64) for one, shape in {**plan.shapes, "y": (1, 4)}.items()}
        found.append(norm(circuit, bits, {**given, "x": encode(RING.uniform(-512, 512, (1, plan.inputs)), SCALE)}))
    assert max(found) <= plan.private.clip


@pytest.mark.long
@pytest.mark.parametrize("loss", ["crossentropy", "mse"])
@pytest.mark.parametrize("name", NETWORKS)
def test_nor_in_any_network_with_numbers_of_any_size(name, loss):
    random = np.random.default_rng([5, *name.encode()])
    _, plan = built(NETWORKS[name], loss)
    for clip in (0.3, 5.0):
        private_plan = private(plan, clip, batch=1)
        circuit, bits = sums(private_plan, 1)
        for size in 10.0 ** random.uniform(-3, 9, 6):
            given = {one: encode(random.normal(size=shape) * size, SCALE) for one, shape in plan.shapes.items()}
            x = random.uniform(-512, 512, (1, plan.inputs)) * 10.0 ** random.uniform(-6, 0)
            given |= {"x": encode(x, SCALE), "y": encode(random.uniform(-500, 500, (1, plan.outputs)), SCALE)}
            assert norm(circuit, bits, given) <= private_plan.private.clip


def test_an_example_adds_the_same_whatever_the_others_are():
    _, plan = built(NETWORKS["hidden layers"])
    plan = private(plan, 1.0, batch=2)
    circuit, bits = sums(plan, 2)
    random = np.random.default_rng(5)
    given = {name: encode(random.normal(size=shape), SCALE) for name, shape in plan.shapes.items()}
    x, y = encode(random.normal(size=(2, 6)) * 3, SCALE), encode(np.eye(4)[:2], SCALE)
    both = Trainers(circuit).outputs({**given, "x": x, "y": y})
    other = Trainers(circuit).outputs({**given, "x": np.stack([x[0], encode(np.full(6, 400.0), SCALE)]), "y": y})
    one = sum(float(np.square((both[name] - other[name]).view(np.int64) * 2.0 ** -bits[name]).sum()) for name in both)
    assert 0.5 < math.sqrt(one) <= 2 * plan.private.clip  # it is another example: out with one part, in with the other


# Noise.


def test_each_server_adds_all_of_the_noise_by_itself_and_never_the_same():
    _, plan = built(chain((40,), outputs=30))
    loud, quiet = (private(plan, 2.0, noise=noise, batch=8) for noise in (1.5, 0.0))
    loud, quiet = (msgspec.structs.replace(one, private=msgspec.structs.replace(one.private, digits=20)) for one in (loud, quiet))
    random = np.random.default_rng(6)
    given = {name: encode(random.normal(size=shape), SCALE) for name, shape in plan.shapes.items()}
    given |= {"x": encode(random.normal(size=(8, 40)), SCALE), "y": encode(np.eye(30)[:8], SCALE)}
    circuit, bits = sums(loud, 8)
    first, second = Trainers(circuit).run(given).results, Trainers(circuit).run(given).results
    without = Trainers(sums(quiet, 8)[0]).run(given).results
    noise = [
        [np.concatenate([(run[i][name] - without[i][name]).view(np.int64).reshape(-1) * 2.0 ** -bits[name] for name in plan.trained])
         for i in (0, 1)]
        for run in (first, second)
    ]  # fmt: skip
    sigma, count = 1.5 * loud.private.clip, len(noise[0][0])
    drawn = [one for run in noise for one in run]
    for one in drawn:
        assert abs(one.mean()) < 6 * sigma / math.sqrt(count)
        assert abs(one.std() / sigma - 1) < 6 / math.sqrt(2 * count)
    for index, one in enumerate(drawn):
        assert all(abs(np.corrcoef(one, other)[0, 1]) < 6 / math.sqrt(count) for other in drawn[:index])


def test_the_sum_is_divided_by_the_expected_size_of_a_batch():
    model, plan = built(NETWORKS["one layer"], "mse")
    x, y = np.random.default_rng(8).normal(size=(2, 6)), np.zeros((2, 4))
    given = {**dict(zip(plan.shapes, weights(model), strict=True)), "x": x, "y": y}
    whole, fewer = (Trainers(step(private(plan, 1e3, batch=batch), 2)).real(given) for batch in (2, 8))
    for name in plan.trained:
        np.testing.assert_allclose(given[name] - fewer[name], (given[name] - whole[name]) / 4, atol=0.001)


@pytest.mark.parametrize(
    "optimizer", [GradientDescent(1.0), GradientDescent(0.5, schedule=(0.5, 0.1)), GradientDescent(0.5, 0.9), Adam(0.01)]
)
def test_noise_in_many_weights_is_not_taken_for_divergence(optimizer):
    _, plan = built(chain((400,), lambda: layers.Dense(50, "relu"), outputs=10))
    plan = private(msgspec.structs.replace(plan, optimizer=optimizer), 1.0, noise=4.0, batch=8)
    random = np.random.default_rng(9)
    values = {name: encode(random.normal(size=shape) * 0.05, SCALE) for name, shape in plan.shapes.items()}
    values |= {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    given = {"x": encode(random.uniform(size=(8, 400)), SCALE), "y": encode(np.eye(10)[:8], SCALE)}
    for number in range(3):
        values = Trainers(step(plan, 8, number, last=number == 2), str(number)).outputs({**values, **given})
        values = {name: values[name] for name in plan.shapes | plan.states}
    assert not values["outside"].any()
    assert all(np.abs(decode(values[name], SCALE)).max() < 100 for name in plan.shapes)


def test_nothing_about_activations_is_watched_or_told():
    """That numbers have left their window is told; of a private step it depends on weights and noisy sums only."""
    _, plan = built(NETWORKS["one layer"], "mse")
    given = {name: np.zeros(shape) for name, shape in plan.shapes.items()}
    x = np.full((BATCH, 6), 511.0)
    given = given | {"x": x, "y": np.zeros((BATCH, 4)), "kernel0": np.full((6, 4), 100.0)}
    plain, made = (Trainers(step(one, BATCH, last=True)).real(given) for one in (plan, private(plan, 1.0)))
    assert plain["outside"].any()
    assert not made["outside"].any()


# What they are made of.


@pytest.mark.parametrize("terms", [1, 2, 7, 40])
@pytest.mark.parametrize("lost", [0.0, 0.01, 0.1])
def test_a_factor_is_never_more_than_c_by_the_norm(terms, lost):
    """In integers: y^2 p <= 2^(2 FACTOR) for the largest p of each t, at all ends of pieces and between them."""
    line = factors.inverse_root(factors.ends(terms), lost)
    knots = [0, *line.knots, line.knots[-1] * 2]
    near = []
    for piece, (start, stop) in enumerate(itertools.pairwise(knots)):
        for t in {start, stop - 1, (start + stop) // 2, *np.linspace(start, stop - 1, 9).astype(int).tolist()}:
            y = line.slopes[piece] * t + line.offsets[piece]
            most = t + 1  # in units of 2^-SEEN, p is below this
            assert y >= 0
            assert y * y * most <= (1 << (2 * factors.FACTOR + factors.SEEN))
            assert y <= 1 << factors.FACTOR
            if most < min(factors.STRAIGHT, factors.ends(terms)) * 2**factors.SEEN:
                wanted = (1 - lost) * min(1.0, math.sqrt(2.0**factors.SEEN / most)) * 2.0**factors.FACTOR
                near.append(y / wanted)
    assert 0.995 < min(near) <= max(near) <= 1


@pytest.mark.parametrize("bound", [norms.STORED, norms.FOLDED])
@pytest.mark.parametrize("width", [1, 5, 300])
def test_norms_are_never_too_small_and_hardly_too_large(bound, width):
    draft = StepDraft()
    x = draft.put(Given("x", (40, width), "wire"))
    found = norms.squares(draft, x, bound)
    circuit = draft.circuit({"mantissa": found.mantissa, "power": found.power})
    sizes = np.geomspace(1, bound - 1, 40)[:, None]
    values = np.rint(np.random.default_rng(3).uniform(-1, 1, (40, width)) * sizes).astype(np.int64)
    values[0], values[1], values[-1] = 0, 1, int(bound) - 1
    for row in range(2, 30):  # near where one power ends and the next begins
        values[row, 0], values[row, 1:] = int(2.0 ** (row / 2)) + row % 3 - 1, 0
    outputs = Trainers(circuit).outputs({"x": values.view(np.uint64)})
    for row, m, k in zip(values, outputs["mantissa"].reshape(-1), outputs["power"].view(np.int64).reshape(-1), strict=True):
        exact = sum(int(one) ** 2 for one in row) * 2.0 ** (found.bits - 2 * FRACTION)
        most = (int(m) + 1) * 2.0 ** (61 - norms.MANTISSA - norms.STEP * int(k))
        assert exact <= most <= exact * (1 + 2.0**-20) + 2.0**16


@pytest.mark.parametrize("bits", [FRACTION, 2 * FRACTION, 3 * FRACTION])
def test_what_is_folded_is_itself_in_its_window_and_bounded_outside(bits):
    draft = StepDraft()
    x = draft.put(Given("x", (4000,), "share"), bits)
    circuit = draft.circuit({"y": norms.folded(draft, x)})
    inside = encode(np.random.default_rng(1).uniform(-1023, 1023, 4000), 2.0**-bits)
    np.testing.assert_allclose(Trainers(circuit).outputs({"x": inside})["y"].view(np.int64) * SCALE, decode(inside, 2.0**-bits), atol=SCALE)
    anything = np.random.default_rng(2).integers(2**64, size=4000, dtype=np.uint64)
    found = Trainers(circuit).outputs({"x": anything})["y"].view(np.int64)
    assert np.abs(found).max() < norms.FOLDED + 2


# What is refused.


class MixedLayer(ShapedLayer, frozen=True):
    """A node of one's own that may mix examples."""


def test_what_mixes_examples_or_is_not_known_is_refused_by_name():
    _, plan = built(NETWORKS["one layer"])
    nodes = (MixedLayer((0,), (6,)), *(msgspec.structs.replace(one, inputs=(at + 1,)) for at, one in enumerate(plan.layers)))
    with pytest.raises(ModelError, match="MixedLayer"):
        msgspec.structs.replace(plan, layers=nodes, private=Private(1.0, 1.0, 4, 20))


class Squared(Layer, frozen=True):
    """Multiplies by W W^T: a weight times itself."""

    kernel: Weight

    def write(self, draft, weights, xs):
        from protocols.mpc.operations.bilinear import MatMul

        kernel = self.kernel.wire(draft, weights)
        both = draft.opened(draft.put(MatMul(kernel, kernel, transpose_y=True), 2 * FRACTION))
        return draft.put(MatMul(draft.opened(xs[0]), both), 2 * FRACTION)


AXES = {
    "slices of the batch": {"type": "TakenLayer", "inputs": [0], "axis": -1, "indices": [0]},
    "slices of an axis from behind": {"type": "TakenLayer", "inputs": [0], "axis": -2, "indices": [0]},
    "batches side by side": {"type": "JoinedLayer", "inputs": [0, 0], "axis": -1},
    "the batch in another place": {"type": "PermutedLayer", "inputs": [0], "axes": [1, -1]},
}
KINDS = {kind.__name__: kind for kind in (TakenLayer, JoinedLayer, PermutedLayer)}


@pytest.mark.parametrize("how", AXES)
def test_no_node_reaches_for_the_axis_of_the_examples(how):
    """Nor one that a worker is sent."""
    with pytest.raises(msgspec.ValidationError, match="between examples"):
        msgspec.convert(AXES[how], KINDS[AXES[how]["type"]])


WIDE, TALL = Weight("w", (BATCH, BATCH)), Weight("v", (BATCH, 1))
MIXING = {
    "a product over the batch": (ShapedLayer((0,), ()), ProductLayer((1,), WIDE), ShapedLayer((2,), (1,))),
    "a product with the others": (ShapedLayer((0,), ()), MultipliedLayer((0, 1))),
    "a sum with the others": (ShapedLayer((0,), ()), SumLayer((0, 1), (1, 1))),
    "the largest of the others": (ShapedLayer((0,), ()), ExtremeLayer((0, 1))),
    "a shift for each place in a batch": (ShiftedLayer((0,), TALL),),
    "a scale for each place in a batch": (AffineLayer((0,), TALL),),
    "a bias for each place in a batch": (ProductLayer((0,), Weight("u", (1, 1)), TALL),),
}


@pytest.mark.parametrize("how", MIXING)
def test_shapes_by_which_examples_are_mixed_are_refused(how):
    """A plan comes from whoever made it: values that have lost the axis of an example meet those of others where shapes are broadcast."""
    variables = tuple(Variable(name, shape) for name, shape in {"w": (BATCH, BATCH), "v": (BATCH, 1), "u": (1, 1)}.items())
    nodes = (*MIXING[how], ProductLayer((len(MIXING[how]),), Weight("u", (1, 1))))
    plan = Plan(nodes, (1,), 1, variables, "mse", GradientDescent(0.5), private=Private(1.0, 1.0, BATCH, 20))
    with pytest.raises(ModelError, match="by itself"):
        plan.circuit(BATCH)


def test_a_weight_that_is_used_in_another_way_is_refused_by_name():
    draft = StepDraft()
    x, w = draft.put(Given("x", (4, 6), "wire")), draft.put(Given("matrix", (6, 6), "share"))
    Squared((0,), Weight("matrix", (6, 6))).write(draft, {"matrix": w}, [x])
    with pytest.raises(ModelError, match="'matrix'"):
        uses(draft, {"matrix": w})


@pytest.mark.parametrize("settings", [(0.0, 1.0, 4, 20), (math.inf, 1.0, 4, 20), (1.0, -1.0, 4, 20), (1.0, 1.0, 0, 20), (1.0, 1.0, 4, 60)])
def test_settings_that_bound_nothing_are_refused(settings):
    with pytest.raises(ModelError, match="clip="):
        Private(*settings)


@pytest.mark.parametrize("clip", [1e-9, 1e12])
def test_a_norm_that_does_not_fit_fixed_point_is_refused(clip):
    plan = Plan(
        (ProductLayer((0,), Weight("w", (500, 400))),), (500,), 400, (Variable("w", (500, 400)),), "mse", GradientDescent(0.1)
    )  # fmt: skip
    with pytest.raises(ModelError, match="max_grad_norm"):
        step(private(plan, clip), 4)


def test_rounds_of_a_private_step():
    """13 more after the last gradient is known; bytes for each example and layer."""
    _, plan = built(NETWORKS["hidden layers"])
    given = {name: np.zeros(shape, np.uint64) for name, shape in {**plan.shapes, "x": (BATCH, 6), "y": (BATCH, 4)}.items()}
    plain, made = (Trainers(step(one, BATCH)).run(given) for one in (plan, private(plan, 1.0, noise=1.0)))
    assert made.rounds - plain.rounds <= 14
