"""A step of encrypted training in the simulator: functions, gradients and updates against float64 and Keras; rounds; what servers see."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError, ProgramError
from protocols.mpc.circuit import Builder
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.owner.compiled import plan as plan_of
from protocols.training.networks.functions import FRACTION, PRECISE, WINDOW, exp, quotients, softmax
from protocols.training.networks.optimizers import GradientDescent, factor
from protocols.training.step import Plan, step


def affine(build: Builder, shape: tuple[int, ...]) -> int:
    """A given share, made affine by a truncation that changes nothing."""
    x = build(Given("x", shape, "share"))
    return build(Truncate(build(Combine((x,), (1 << FRACTION,))), FRACTION, WINDOW))


def test_products_of_every_pair_of_kinds():
    rng = np.random.default_rng(0)
    x, w = rng.uniform(-3, 3, (5, 4)), rng.uniform(-3, 3, (5, 4))
    build = Builder()
    wire = build(Open(build(Given("w", w.shape, "share"))))
    cut = affine(build, x.shape)
    bit = build(Sign(cut))
    pairs = {"wire cut": (wire, cut), "cut cut": (cut, cut), "wire wire": (wire, wire), "bit cut": (bit, cut), "bit bit": (bit, bit)}
    results = {name: build(Multiply(*pair)) for name, pair in pairs.items()}
    results["broadcast"] = build(Multiply(bit, build(Truncate(build(Sum(build(Combine((cut,), (1 << 8,))), 1)), 8, 40))))
    outputs = Trainers(build.circuit(results)).real({"x": x, "w": w}, 1.0)
    relu = x > 0
    expected = {"wire cut": x * w, "cut cut": x * x, "wire wire": w * w, "bit cut": x * relu, "bit bit": relu}
    expected["broadcast"] = relu * x.sum(1, keepdims=True)
    for name, value in expected.items():
        scale = {"bit cut": SCALE, "bit bit": 1.0, "broadcast": SCALE}.get(name, SCALE**2)
        np.testing.assert_allclose(outputs[name] * scale, value, atol=3e-4, err_msg=name)


@pytest.mark.parametrize(("turn_x", "turn_y"), [(False, False), (True, False), (False, True), (True, True)])
def test_matrix_products_of_two_secrets_are_exact(turn_x, turn_y):
    rng = np.random.default_rng(1)
    x = rng.integers(-1000, 1000, (3, 7)[:: -1 if turn_x else 1])
    y = rng.integers(-1000, 1000, (7, 2)[:: -1 if turn_y else 1])
    build = Builder()
    build(Given("x", x.shape, "wire"))
    build(Given("y", y.shape, "wire"))
    circuit = build.circuit({"z": build(MatMul(0, 1, turn_x, turn_y))})
    z = Trainers(circuit).outputs({"x": x.astype(np.int64).view(np.uint64), "y": y.astype(np.int64).view(np.uint64)})["z"]
    np.testing.assert_array_equal(z.view(np.int64), (x.T if turn_x else x) @ (y.T if turn_y else y))


def test_exp_over_its_range():
    x = -np.concatenate([np.linspace(0, 20, 4000), np.linspace(14, 470, 4000), [500, 511.9]])[None]
    build = Builder()
    out = exp(build, build(Given("x", x.shape, "share")))
    trainers = Trainers(build.circuit({"y": out}))
    y = trainers.real({"x": x}, 2.0**-PRECISE)["y"]
    np.testing.assert_allclose(y[:, :-2], np.exp(x)[:, :-2], atol=3.5e-5)
    np.testing.assert_allclose(y[:, 4000:-2], np.exp(x)[:, 4000:-2], atol=2e-6)
    np.testing.assert_allclose(y[:, -2:], np.exp(-512 - x)[:, -2:], atol=3.5e-5)
    assert trainers.run({"x": np.zeros(x.shape, np.uint64)}).rounds == 8


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("greatest", "rounds"), [(2, 5), (3, 5), (10, 6), (16, 6), (100, 8), (1000, 9), (4096, 11)])
def test_quotients_over_their_range(greatest, rounds, early):
    total = np.linspace(1, greatest, 2000)[:, None]
    x = np.stack([np.ones(2000), np.minimum(total[:, 0] / 2, 1), np.zeros(2000)], 1)
    build = Builder()
    given = [
        build(Combine((build(Given(name, part.shape, "share")),), (1 << (PRECISE - FRACTION),))) for name, part in (("x", x), ("t", total))
    ]
    out = quotients(build, build(Truncate(build(Combine((given[0],), (2,))), 1, 40)), given[1], greatest, early=early)
    trainers = Trainers(build.circuit({"y": out}))
    y = trainers.real({"x": x, "t": total})["y"]
    np.testing.assert_allclose(y, x / total, rtol=2**-15, atol=2.0**-FRACTION)
    ring = {"x": np.zeros(x.shape, np.uint64), "t": np.zeros(total.shape, np.uint64)}
    assert trainers.run(ring).rounds == rounds + (not early)


@pytest.mark.parametrize(("classes", "rounds"), [(2, 16), (10, 19)])
def test_softmax_and_its_rounds(classes, rounds):
    x = np.random.default_rng(2).normal(size=(64, classes)) * np.geomspace(0.1, 80, 64)[:, None]
    build = Builder()
    cut = affine(build, x.shape)
    found = softmax(build, cut, classes)
    trainers = Trainers(build.circuit({"p": found.probabilities, "largest": found.largest}))
    outputs = trainers.real({"x": x})
    exact = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(outputs["p"], exact / exact.sum(1, keepdims=True), atol=2**-12)
    np.testing.assert_array_equal(outputs["largest"].argmax(1), x.argmax(1))
    ring = {"x": np.zeros(x.shape, np.uint64)}
    assert trainers.run(ring).rounds == 1 + rounds


def network(widths: list[int], loss: str, *, bias: bool = True, seed: int = 0) -> tuple[keras.Model, Plan]:
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(n, "relu", use_bias=bias, bias_initializer="random_normal") for n in widths[1:-1]]
    model = keras.Sequential([layers.Input((widths[0],)), *hidden, layers.Dense(widths[-1], use_bias=bias)])
    made = keras.losses.CategoricalCrossentropy(from_logits=True) if loss == "crossentropy" else loss
    model.compile(keras.optimizers.SGD(1.0), made)
    return model, plan_of(model)


def keras_gradients(model: keras.Model, loss: str, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    import tensorflow as tf

    function = keras.losses.CategoricalCrossentropy(from_logits=True) if loss == "crossentropy" else keras.losses.MeanSquaredError()
    with tf.GradientTape() as tape:
        value = function(y, model(x))
    return [np.array(g) for g in tape.gradient(value, model.trainable_weights)]


@pytest.mark.parametrize("loss", ["crossentropy", "mse"])
@pytest.mark.parametrize(("widths", "bias"), [([6, 4], True), ([9, 8, 5], True), ([7, 6, 5, 3], False), ([5, 70, 3], True)])
def test_gradients_and_step_equal_those_of_keras(loss, widths, bias):
    """A step with rate 1 moves each weight by its gradient."""
    model, plan = network(widths, loss, bias=bias)
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (16, widths[0])).astype(np.float32)
    y = np.eye(widths[-1])[rng.integers(widths[-1], size=16)] if loss == "crossentropy" else rng.normal(size=(16, widths[-1]))
    before = {name: weight.numpy() for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    outputs = Trainers(step(plan, 16)).real({**before, "x": x, "y": y})
    for (name, old), expected in zip(before.items(), keras_gradients(model, loss, x, y), strict=True):
        np.testing.assert_allclose(old - outputs[name], expected, atol=0.001, err_msg=name)
    logits = model(x).numpy()
    if loss == "crossentropy":
        assert outputs["metric"] == pytest.approx((logits.argmax(1) == y.argmax(1)).sum(), abs=1e-9)
    else:
        assert outputs["metric"] * SCALE == pytest.approx(((logits - y) ** 2).sum(), rel=1e-3)


@pytest.mark.parametrize(("rate", "momentum"), [(0.5, 0.0), (0.05, 0.9)])
def test_the_curve_of_many_steps_beside_keras(rate, momentum):
    model, plan = network([8, 16, 3], "crossentropy")
    plan = msgspec.structs.replace(plan, optimizer=GradientDescent(rate, momentum))
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (32, 8)).astype(np.float32)
    y = np.eye(3)[(x @ rng.normal(size=(8, 3))).argmax(1)]
    weights = {name: weight.numpy() for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    weights |= {name: np.zeros(shape) for name, shape in plan.states.items()}
    circuit = step(plan, 32)
    model.compile(keras.optimizers.SGD(rate, momentum), keras.losses.CategoricalCrossentropy(from_logits=True))
    for number in range(30):
        weights = Trainers(circuit, str(number)).real({**weights, "x": x, "y": y})
        right = weights.pop("metric")
        assert abs(right - (model(x).numpy().argmax(1) == y.argmax(1)).sum()) <= 1
        model.train_on_batch(x, y)
    assert right >= 26
    for name, weight in zip(plan.shapes, model.trainable_weights, strict=True):
        np.testing.assert_allclose(weights[name], weight.numpy(), atol=0.02, err_msg=name)


def test_rounds_and_bytes_of_a_step():
    _, plan = network([20, 16, 10], "crossentropy")
    values = {name: np.zeros(shape, np.uint64) for name, shape in plan.shapes.items()}
    values |= {"x": np.zeros((8, 20), np.uint64), "y": np.zeros((8, 10), np.uint64)}
    transcript = Trainers(step(plan, 8)).run(values)
    assert transcript.rounds == 1 + 4 + 1 + 19 + 1 + 2 + 1  # the check takes none
    assert transcript.sent[0, 1] == transcript.sent[1, 0]


def test_what_a_server_sees_is_as_uniform_for_one_secret_as_for_another():
    _, plan = network([40, 16, 4], "crossentropy")
    for fill in (0.0, 3.0):
        values = {name: np.full(shape, fill) for name, shape in plan.shapes.items()} | {
            "x": np.full((32, 40), fill),
            "y": np.eye(4)[[0] * 32],
        }
        encoded = {name: (value * 2**FRACTION).astype(np.int64).view(np.uint64) for name, value in values.items()}
        words = np.concatenate([array.reshape(-1) for array in Trainers(step(plan, 32)).run(encoded).seen_by(1) if array.size > 100])
        ones = np.unpackbits(words.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * words.size)


def test_no_mask_serves_two_steps():
    """Weights are opened anew in every step: the same weights under other masks."""
    _, plan = network([6, 4], "mse")
    values = {name: np.zeros(shape, np.uint64) for name, shape in plan.shapes.items()}
    values |= {"x": np.zeros((4, 6), np.uint64), "y": np.zeros((4, 4), np.uint64)}
    seen = [Trainers(step(plan, 4), salt).run(values).seen_by(0) for salt in "ab"]
    assert not any(np.isin(a, b).any() for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("rate", [1e-6, -1e-6, 100.0, float("inf")])
def test_learning_rates_that_fixed_point_cannot_hold(rate):
    with pytest.raises(ModelError, match="learning rate"):
        factor(GradientDescent(rate), 1 / 8)


@pytest.mark.parametrize(("rate", "batch"), [(0.1, 128), (1.0, 1), (64, 1), (2e-5, 1)])
def test_the_factor_is_near_the_rate(rate, batch):
    q, shift = factor(GradientDescent(rate), 1 / batch)
    assert q / 2.0**shift == pytest.approx(rate / batch, rel=0.005)


def test_circuits_that_are_not_well_formed():
    build = Builder()
    x = build(Given("x", (2, 3), "share"))
    for op in (MatMul(x, x), Multiply(x, x), Sign(x), Truncate(x, 32, 32), Sum(x, 2), Open(7), Combine((x,), ())):
        bad = Builder()
        bad(Given("x", (2, 3), "share"))
        with pytest.raises(ProgramError):
            bad.circuit({"y": bad(op)})


def test_decode_is_what_the_servers_hold():
    """The oracle of this file is not the code under test: two shares added and scaled."""
    build = Builder()
    circuit = build.circuit({"x": build(Given("x", (2,), "share"))})
    out = Trainers(circuit).outputs({"x": np.array([1, 2**64 - 1], np.uint64)})["x"]
    np.testing.assert_array_equal(decode(out, 0.5), [0.5, -0.5])
