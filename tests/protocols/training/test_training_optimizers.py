"""Losses and optimizers on shares against Keras and float64: values, gradients, many steps, rounds, what is refused."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given
from protocols.owner.compiled import plan as plan_of
from protocols.training.networks.functions import FRACTION, PRECISE, SPLINE, logarithm, sigmoid, softplus
from protocols.training.networks.moments import MEAN, QUOTIENT, SQUARE, UNIT, divided, inverse_root, larger
from protocols.training.networks.optimizers import Adam, GradientDescent, factor, rates, reach
from protocols.training.networks.optimizers.descent import FINE
from protocols.training.step import step


def ring(x, bits):
    return np.rint(np.asarray(x) * 2.0**bits).astype(np.int64).view(np.uint64)


@pytest.mark.parametrize(("function", "exact"), [(sigmoid, lambda x: 1 / (1 + np.exp(-x))), (softplus, lambda x: np.logaddexp(0, x))])
def test_sigmoid_and_softplus_over_their_range(function, exact):
    x = np.concatenate([np.linspace(-20, 20, 900), [-511.9, -100, 100, 511.9]]).reshape(4, -1)
    build = Builder()
    circuit = build.circuit({"y": function(build, build(Given("x", x.shape, "share")))})
    np.testing.assert_allclose(Trainers(circuit).real({"x": x}, 2.0**-SPLINE)["y"], exact(x), atol=2.0**-10)
    assert Trainers(circuit).run({"x": ring(x, FRACTION)}).rounds == 3


@pytest.mark.parametrize("greatest", [2, 10, 100])
def test_logarithm_over_its_range(greatest):
    x = np.linspace(1, greatest, 700)[None]
    build = Builder()
    given = build(Combine((build(Given("x", x.shape, "share")),), (1 << (PRECISE - FRACTION),)))
    y = Trainers(build.circuit({"y": logarithm(build, given, greatest)})).real({"x": x}, 2.0**-SPLINE)["y"]
    np.testing.assert_allclose(y, np.log(x), atol=2.0**-10)


def test_the_inverse_root_between_1_and_4():
    x = np.linspace(0, 4, 1000)[None]
    build = Builder()
    cut = build(Truncate(build(Combine((build(Given("x", x.shape, "share")),), (1 << 8,))), 8 + FRACTION - UNIT, 40))
    y = Trainers(build.circuit({"y": inverse_root(build, cut)})).real({"x": x}, 2.0**-UNIT)["y"]
    inside = x >= 1
    np.testing.assert_allclose(y[inside] * np.sqrt(x[inside]), 1, atol=0.001)
    assert np.abs(y).max() < 2.1


def test_means_divided_by_roots_of_squares_over_eleven_decimal_orders():
    v = np.geomspace(2.0**-38, 2.0**13.9, 3000).reshape(3, -1)
    m = np.sqrt(v) * np.random.default_rng(0).uniform(-7, 7, v.shape)
    m[0, :10] = 0
    mean, square = ring(m, MEAN), ring(v, SQUARE)
    build = Builder()
    circuit = build.circuit({"u": divided(build, build(Given("m", m.shape, "share")), build(Given("v", v.shape, "share")))})
    trainers = Trainers(circuit)
    u = decode(trainers.outputs({"m": mean, "v": square})["u"], 2.0**-QUOTIENT)
    exact = mean.view(np.int64) * 2.0**-MEAN / np.sqrt(square * 2.0**-SQUARE)
    np.testing.assert_allclose(u, exact, rtol=0.0015, atol=2.0**-19)
    assert trainers.run({"m": mean, "v": square}).rounds == 20


def test_nothing_is_divided_by_zero():
    m = np.array([[0.0, 2.0**-24, -(2.0**-20), 2.0**-19]])
    build = Builder()
    circuit = build.circuit({"u": divided(build, build(Given("m", m.shape, "share")), build(Given("v", m.shape, "share")))})
    u = decode(Trainers(circuit).outputs({"m": ring(m, MEAN), "v": np.zeros(m.shape, np.uint64)})["u"], 2.0**-QUOTIENT)
    assert u[0, 0] == 0
    np.testing.assert_allclose(u, m * 2.0**21, rtol=0.01)


def test_the_larger_of_two():
    rng = np.random.default_rng(1)
    x, y = np.exp2(rng.uniform(-40, 13.9, (2, 5, 40)))
    y[0] = x[0]
    build = Builder()
    found = larger(build, build(Given("x", x.shape, "share")), build(Given("y", y.shape, "share")))
    trainers = Trainers(build.circuit({"z": found}))
    given = {"x": ring(x, SQUARE), "y": ring(y, SQUARE)}
    np.testing.assert_array_equal(trainers.outputs(given)["z"], np.maximum(given["x"], given["y"]))
    assert trainers.run(given).rounds == 3


def network(widths, optimizer, loss, *, value=False, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(n, "relu", bias_initializer="random_normal") for n in widths[1:-1]]
    model = keras.Sequential([layers.Input((widths[0],)), *hidden, layers.Dense(widths[-1])])
    model.compile("sgd", LOSSES[loss]())
    return model, msgspec.structs.replace(plan_of(model), optimizer=optimizer, value=value)


LOSSES = {
    "crossentropy": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "binary_crossentropy": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "mse": keras.losses.MeanSquaredError,
}


def targets(loss, rng, rows, outputs):
    match loss:
        case "crossentropy":
            return np.eye(outputs)[rng.integers(outputs, size=rows)]
        case "binary_crossentropy":
            return rng.integers(2, size=(rows, outputs)).astype(float)
        case _:
            return rng.normal(size=(rows, outputs))


@pytest.mark.parametrize("outputs", [1, 4])
def test_gradients_of_binary_crossentropy_equal_those_of_keras(outputs):
    import tensorflow as tf

    model, plan = network([7, 6, outputs], GradientDescent(1.0), "binary_crossentropy")
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-2, 2, (16, 7)).astype(np.float32), targets("binary_crossentropy", rng, 16, outputs)
    before = {name: weight.numpy() for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    outputs_made = Trainers(step(plan, 16)).real({**before, "x": x, "y": y})
    with tf.GradientTape() as tape:
        value = LOSSES["binary_crossentropy"]()(y, model(x))
    for (name, old), expected in zip(before.items(), tape.gradient(value, model.trainable_weights), strict=True):
        np.testing.assert_allclose(old - outputs_made[name], expected, atol=0.001, err_msg=name)
    assert outputs_made["metric"] == ((model(x).numpy() > 0) == y).sum()


@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_value_of_a_loss_takes_no_round_more(loss):
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-2, 2, (32, 7)).astype(np.float32), targets(loss, rng, 32, 3)
    rounds = []
    for value in (False, True):
        model, plan = network([7, 6, 3], GradientDescent(0.1), loss, value=value)
        weights = {name: weight.numpy() for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
        trainers = Trainers(step(plan, 32))
        rounds.append(trainers.run({name: ring(v, FRACTION) for name, v in {**weights, "x": x, "y": y}.items()}).rounds)
    found = trainers.real({**weights, "x": x, "y": y}, SCALE**2)["loss"] / 32 / (1 if loss == "crossentropy" else 3)
    assert found == pytest.approx(float(LOSSES[loss]()(y, model(x))), abs=0.005)
    assert rounds[1] == rounds[0]


OPTIMIZERS = {
    "nesterov": (GradientDescent(0.05, 0.9, nesterov=True), lambda: keras.optimizers.SGD(0.05, 0.9, nesterov=True), 0.01),
    "decay": (GradientDescent(0.1, decay=0.2), lambda: keras.optimizers.SGD(0.1, weight_decay=0.2), 0.01),
    "adam": (Adam(0.01), lambda: keras.optimizers.Adam(0.01), 0.02),
    "amsgrad": (Adam(0.01, 0.8, 0.95, amsgrad=True), lambda: keras.optimizers.Adam(0.01, 0.8, 0.95, amsgrad=True), 0.02),
    "adamw": (Adam(0.01, decay=0.1), lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1), 0.02),
}


def bits_of(name):
    return {"mean": MEAN, "square": SQUARE, "largest": SQUARE}.get(name.split()[0], FRACTION)


def trained(plan, model, optimizer, loss, x, y, steps):
    """The weights and states on shares after some steps; trains the model in the clear as well."""
    state = {name: ring(weight.numpy(), FRACTION) for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    state |= {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    model.compile(optimizer, LOSSES[loss]())
    for number in range(steps):
        state = Trainers(step(plan, len(x), number), str(number)).outputs({**state, "x": ring(x, FRACTION), "y": ring(y, FRACTION)})
        del state["metric"]
        assert not state["outside"].any()
        model.train_on_batch(x, y)
    return {name: decode(value, 2.0 ** -bits_of(name)) for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "loss"), [*((name, "mse") for name in ("nesterov", "decay", "adamw")), ("adam", "binary_crossentropy"), ("amsgrad", "mse")]
)
@pytest.mark.sample(2)
def test_many_steps_beside_keras(name, loss):
    ours, theirs, tolerance = OPTIMIZERS[name]
    model, plan = network([6, 8, 2], ours, loss)
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (32, 6)).astype(np.float32)
    y = x @ rng.normal(size=(6, 2))
    y = (y > 0).astype(float) if loss == "binary_crossentropy" else y
    optimizer = theirs()
    found = trained(plan, model, optimizer, loss, x, y, 40)
    for weight_name, weight in zip(plan.shapes, model.trainable_weights, strict=True):
        np.testing.assert_allclose(found[weight_name], weight.numpy(), atol=tolerance, err_msg=weight_name)
    for kind in ("mean", "square", "largest square"):
        kept = {"mean": "_momentums", "square": "_velocities", "largest square": "_velocity_hats"}[kind]
        for weight_name, expected in zip(plan.shapes, getattr(optimizer, kept, []), strict=False):
            if f"{kind} of {weight_name}" in found:
                np.testing.assert_allclose(
                    found[f"{kind} of {weight_name}"], expected.numpy(), atol=0.002, err_msg=f"{kind} of {weight_name}"
                )


@pytest.mark.parametrize("loss", list(LOSSES))
def test_activations_and_weights_that_leave_are_found_and_stay_found(loss):
    """Rows and weights far inside never count as outside; one that is outside does in one of a few tries, and then for ever."""
    _, plan = network([4, 6, 3], GradientDescent(0.01), loss)
    weights = {name: np.full(shape, 0.5) for name, shape in plan.shapes.items()}
    x, y = np.ones((8, 4)), np.eye(3)[[0] * 8]
    circuit = step(plan, 8)

    def run(x, weights, before=0):
        given = {name: ring(value, FRACTION) for name, value in {**weights, "x": x, "y": y}.items()}
        return [int(Trainers(circuit, f"{n}").outputs(given | {"outside": np.array([before], np.uint64)})["outside"][0]) for n in range(3)]

    assert run(x, weights) == [0, 0, 0]
    assert run(x, weights, 1) == [1, 1, 1]
    for size in (700.0, 1e5, 1e8):
        far = x.copy()
        far[3:] = size
        assert run(far, weights) == [1, 1, 1]
        assert run(x, weights | {"bias0": np.array([0, 0, 0, 0, 0, size * 2])}) == [1, 1, 1]
    huge = weights["kernel0"].copy()
    huge[0] = 3e4
    assert run(x * 0, weights | {"kernel0": huge}) == [1, 1, 1]


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("far", [1.0, 50.0, 120.0, 140.0, 300.0, 3e3, 5e4])
@pytest.mark.sample(5)
def test_gradients_that_adam_cannot_square_are_found(far, amsgrad):
    """Of targets that are not scaled: the gradient by the bias is up to twice of them, and its square would wrap around."""
    model, plan = network([3, 1], Adam(0.1, amsgrad=amsgrad), "mse")
    weights = {name: ring(weight.numpy() * 0, FRACTION) for name, weight in zip(plan.shapes, model.trainable_weights, strict=True)}
    state = weights | {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    rows = 512 if far > 1e3 else 4  # features of 512 for the largest
    x = np.full((rows, 3), [[0.1, 0.0, 400.0 if far > 1e3 else 0.2]])
    y = np.full((rows, 1), far / 2 / (400.0 if far > 1e3 else 1.0))
    for number in range(8):
        state = Trainers(step(plan, rows, number), str(number)).outputs({**state, "x": ring(x, FRACTION), "y": ring(y, FRACTION)})
    assert bool(state["outside"].any()) == (far > 128)
    if 1 < far < 128:  # constant gradients move by the rate
        np.testing.assert_allclose(decode(state["bias0"], SCALE), [0.8], rtol=0.05)


@pytest.mark.parametrize(
    "optimizer", [GradientDescent(1e-3), GradientDescent(1e-3, 0.5), GradientDescent(1e-3, schedule=(1e-3, 1e-4))], ids=str
)
@pytest.mark.parametrize("part", [0.5, 1.3, 8.0])
def test_sums_of_gradients_that_would_wrap_around_are_found_in_the_next_step(optimizer, part):
    """Features of 400 and errors of the same sign: their products add up over the batch."""
    rows = 512
    _, plan = network([3, 1], optimizer, "mse")
    error = min(450.0, part * reach(optimizer, 2 / rows, 2 * FRACTION) / rows / 400.0)
    rows = round(rows * part * reach(optimizer, 2 / rows, 2 * FRACTION) / (rows * 400.0 * error))
    state = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    x, y = np.full((rows, 3), [[0.1, 0.0, 400.0]]), np.full((rows, 1), error)
    found = []
    for number in range(4):
        state = Trainers(step(plan, rows, number), str(number)).outputs({**state, "x": ring(x, FRACTION), "y": ring(y, FRACTION)})
        found.append(bool(state["outside"].any()))
        state |= {name: np.zeros_like(value) for name, value in state.items() if "kernel" in name}  # the same again
    assert found == [False, False, False, False] if part < 1 else found[0] is False and found[-1]
    given = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()} | {"x": ring(x, 16), "y": ring(y, 16)}
    last = [bool(Trainers(step(plan, rows, 0, last=True), f"last{n}").outputs(given)["outside"].any()) for n in range(3)]
    assert last == [part > 1] * 3
    if part < 1:
        assert not Trainers(step(plan, rows, 0, last=True)).outputs(given)["sums"].any()  # nothing is left to be looked at


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("speed", "found"), [(0.4, False), (1.2, True), (-1.2, True), (3.9, True), (40.0, True)])
def test_velocities_that_would_wrap_around_are_found(speed, found, last):
    """They add up 1 / (1 - momentum) gradients, each of which is small enough."""
    _, plan = network([3, 1], GradientDescent(1e-3, 0.99), "mse")
    given = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    given |= {"x": np.zeros((32, 3), np.uint64), "y": np.zeros((32, 1), np.uint64)}
    _, shift = factor(plan.optimizer, 2 / 32)
    edge = 2.0 ** (61 - FRACTION - (shift + FRACTION))  # 2^61 less the bits that a step of this rate and batch drops
    for number in range(3):
        before = given | {"momentum of kernel0": ring(np.array([[0], [speed * edge], [0]]), FRACTION + FINE)}
        made = Trainers(step(plan, 32, number, last=last), str(number)).outputs(before)
        assert bool(made["outside"].any()) == found


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_momentum_is_that_of_keras_or_leaves_the_window(momentum):
    """Gradients of the same sign over many steps, each far below what would be found: velocities left the ring without a word."""
    _, plan = network([3, 1], GradientDescent(1e-3, momentum), "mse")
    state = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    x, y, velocity, left = np.full((32, 3), [[100.0, -100.0, 100.0]]), np.full((32, 1), -450.0), 0.0, False
    for number in range(40):
        made = Trainers(step(plan, 32, number, last=True), str(number)).outputs({**state, "x": ring(x, FRACTION), "y": ring(y, FRACTION)})
        velocity = momentum * velocity - 1e-3 * 2 * 450 * 100
        left = left or bool(made["outside"].any())
        if not left:
            np.testing.assert_allclose(
                decode(made["momentum of kernel0"], SCALE * 2.0**-FINE)[:, 0], [velocity, -velocity, velocity], rtol=0.01
            )
        state |= {"momentum of kernel0": made["momentum of kernel0"], "sums": made["sums"]}
    assert left


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.99, False), (0.99, True), (0.999, False)])
@pytest.mark.sample(3)
def test_momentum_is_exact_where_rates_are_large_and_batches_small(momentum, nesterov):
    """Of a bias and a gradient times 1 the factor of the velocity had 8 bits: 0.999 was 1, and nothing ever came to rest."""
    optimizer = keras.optimizers.SGD(0.5, momentum, nesterov=nesterov)
    model, plan = network([1, 1], GradientDescent(0.5, momentum, nesterov), "mse")
    model.set_weights([np.zeros((1, 1)), np.zeros(1)])
    model.compile(optimizer, "mse")
    state = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    for number, y in enumerate(np.random.default_rng(0).normal(size=(40, 1, 1))):
        x = np.zeros((1, 1))
        state = Trainers(step(plan, 1, number), str(number)).outputs({**state, "x": ring(x, FRACTION), "y": ring(y, FRACTION)})
        model.train_on_batch(x, y)
        np.testing.assert_allclose(decode(state["bias0"], SCALE), model.get_weights()[1], atol=0.003, err_msg=str(number))


def test_rates_of_a_schedule_change_public_factors_only():
    falling = (0.1, 0.05, 0.001)
    for optimizer in (
        Adam(0.1),
        *(kind(0.1, decay=decay, schedule=falling) for decay in (0.0, 0.1) for kind in (GradientDescent, Adam)),
        GradientDescent(0.1, 0.9, nesterov=True, decay=1e-3, schedule=(0.0, 0.1, 0.05)),
    ):
        _, plan = network([4, 3], optimizer, "mse")
        first, second = step(plan, 8, 0), step(plan, 8, 2)
        different = [(a, b) for a, b in zip(first.ops, second.ops, strict=True) if a != b]
        assert different
        assert all(isinstance(a, Combine) and a.xs == b.xs for a, b in different)
    shifts = {factor(optimizer, 1 / 8, number)[1] for number in range(3)}
    assert len(shifts) == 1
    for number, rate in enumerate((0.1, 0.05, 0.001)):
        q, shift = factor(GradientDescent(0.1, schedule=(0.1, 0.05, 0.001)), 1 / 8, number)
        assert q / 2**shift == pytest.approx(rate / 8, abs=0.001 * 0.1 / 8)
    with pytest.raises(ModelError, match="1e-07, the largest of all steps, vanishes"):
        factor(GradientDescent(0.0, schedule=(0.0, 1e-7)), 1.0)


@pytest.mark.parametrize(
    ("rate", "what"), [(np.nan, "not a number"), (np.inf, "infinite"), (-np.inf, "infinite"), (-0.1, "below 0"), (65.0, "too large")]
)
@pytest.mark.parametrize("kind", [GradientDescent, Adam])
def test_rates_that_are_none_are_refused_for_what_they_are(kind, rate, what):
    for optimizer, when in ((kind(rate), ""), (kind(0.1, schedule=(0.1, 0.0, rate)), " of step 3")):
        with pytest.raises(ModelError, match=f"the learning rate {rate:g}{when} is {what}"):
            rates(optimizer)


def test_large_slopes_of_a_schedule_do_not_wrap_around():
    """Features of 50 and errors of 300, in a batch of 32, at a rate that they bear: beside a schedule they left the ring without a word."""
    model, plan = network([2, 1], GradientDescent(1e-5, schedule=(2e-5, 1e-5)), "mse")
    model.set_weights([np.zeros((2, 1)), np.zeros(1)])
    state = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    x, y = np.full((32, 2), [[50.0, -40.0]]), np.full((32, 1), 300.0)
    found = Trainers(step(plan, 32)).outputs({**state, "x": ring(x, FRACTION), "y": ring(y, FRACTION)})
    np.testing.assert_allclose(decode(found["kernel0"], SCALE)[:, 0], [0.6, -0.48], rtol=0.002)


@pytest.mark.parametrize("small", [1e-2, 1e-4, 3e-5])
def test_rates_far_below_the_largest_are_right_in_sum(small):
    """Each was rounded by itself: 3e-5 beside 0.5 was nothing at all, for however many steps."""
    optimizer = GradientDescent(0.5, schedule=(0.5, *[small] * 999))
    made = [factor(optimizer, 1 / 24, number) for number in range(2000)]
    assert len({shift for _, shift in made}) == 1
    assert min(q for q, _ in made) >= 0
    for count in (1, 2, 100, 1000, 2000):
        unit = 2.0 ** -made[0][1]
        assert sum(q for q, _ in made[:count]) * unit == pytest.approx((0.5 + small * (count - 1)) / 24, abs=unit)


@pytest.mark.parametrize(
    ("optimizer", "last", "rounds", "sent"),
    [
        (GradientDescent(0.1), False, 29, 27200),
        (GradientDescent(0.1), True, 34, 27344),
        (GradientDescent(0.1, 0.9), False, 29, 31280),
        (GradientDescent(0.1, 0.9), True, 35, 31456),
        (Adam(0.01), False, 52, 113552),
        (Adam(0.01), True, 52, 113552),
        (Adam(0.01, amsgrad=True), False, 55, 118560),
    ],
)
def test_rounds_and_bytes_of_an_update(optimizer, last, rounds, sent):
    _, plan = network([20, 16, 10], optimizer, "crossentropy")
    names = {**plan.shapes, **plan.states, "x": (8, 20), "y": (8, 10)}
    transcript = Trainers(step(plan, 8, last=last)).run({name: np.zeros(shape, np.uint64) for name, shape in names.items()})
    assert (transcript.rounds, transcript.sent[0, 1]) == (rounds, sent)


@pytest.mark.parametrize(("optimizer", "rounds"), [(GradientDescent(0.03, 0.9), 35), (Adam(0.001), 58)])
def test_rounds_of_two_hidden_layers(optimizer, rounds):
    """As network A of the benchmarks: rounds do not depend on how wide layers are."""
    _, plan = network([6, 5, 5, 10], optimizer, "crossentropy")
    names = {**plan.shapes, **plan.states, "x": (2, 6), "y": (2, 10)}
    assert Trainers(step(plan, 2)).run({name: np.zeros(shape, np.uint64) for name, shape in names.items()}).rounds == rounds
