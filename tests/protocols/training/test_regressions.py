"""What the estimators run on shares, in the simulator: exact sums up to the edge of the ring, gradients, the bit, rounds and bytes."""

import numpy as np
import pytest
from training_deployment import Trainers

from protocols.datasets.dataset import Dataset
from protocols.errors import InputError
from protocols.mpc.numbers.fixed_point import encode
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import Logistic, Moments
from protocols.training.regression.logistic import WEIGHT_BITS
from protocols.training.regression.moments import BATCH
from protocols.training.terms import TrainingTerms, check

SCALE = 2.0**-FRACTION
ALL = ("gram", "cross", "features", "targets", "weight", "squares")


def ring(x, bits=FRACTION):
    return encode(np.asarray(x, np.float64), 2.0**-bits)


def summed(plan, x, y, w=None, salt=""):
    given = {"x": ring(x), "y": ring(y)} | ({} if w is None else {"w": ring(w)})
    outputs = Trainers(plan.circuit(len(x)), salt).outputs(given)
    outside = outputs.pop("outside")
    return {name: value.view(np.int64) for name, value in outputs.items()}, int(outside[0])


def data(n=40, d=3, t=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, t)), rng.uniform(size=(n, 1))


def test_products_of_integers_are_exact():
    x, y, _ = data()
    a, b = ring(x).view(np.int64), ring(y).view(np.int64)
    found, outside = summed(Moments(3, 2, ("gram", "cross", "features", "targets")), x, y)
    expected = {"gram": a.T @ a, "cross": a.T @ b, "features": a.sum(0), "targets": b.sum(0)}
    assert outside == 0
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_weighted_sums_are_within_their_rounding():
    x, y, w = data()
    plan = Moments(3, 2, ALL, weighted=True)
    found, _ = summed(plan, x, y, w)
    real = {name: value * 2.0 ** -plan.bits(name) for name, value in found.items()}
    expected = {
        "gram": x.T @ (w * x),
        "cross": x.T @ (w * y),
        "features": x.T @ w,
        "targets": w.T @ y,
        "weight": w.sum(),
        "squares": (w * x * x).sum(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(real[name].reshape(np.shape(value)), value, atol=0.004, err_msg=name)


def test_the_largest_numbers_do_not_wrap_around():
    """Every element is the largest that `Cluster.store` takes, in the largest batch: rounded sums are right to their last digit."""
    x = np.full((BATCH, 1), 512 - SCALE)
    x[::2] *= -1
    plan = Moments(1, 1, ("gram", "cross"), drop=20)
    found, _ = summed(plan, x, -x)
    exact = BATCH * (512 * 2**FRACTION - 1) ** 2
    assert abs(int(found["gram"][0, 0]) - exact / 2**20) <= 1
    assert abs(int(found["cross"][0, 0]) + exact / 2**20) <= 1


@pytest.mark.parametrize(("weight", "improper"), [(0.0, 0), (1.0, 0), (1 + SCALE, 1), (-SCALE, 1), (511.0, 1), (-511.0, 1)])
def test_weights_are_from_0_to_1_or_found_out(weight, improper):
    x, y, w = data(8)
    w[3] = weight
    plan = Moments(3, 2, ("weight",), weighted=True, checked=True)
    assert summed(plan, x, y, w)[1] == improper


def logistic(n, d, outputs, **settings):
    terms = {"intercept": True, "total": float(n), "penalty": 0.01, "rate": 0.5, "tol": 1e-3, "every": 10, "iterations": 100}
    return Logistic(inputs=d, outputs=outputs, examples=n, **{**terms, **settings})


def start(plan, w, b, v=0.0):
    given = {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    given |= {"kernel": ring(w, WEIGHT_BITS), "velocity of kernel": ring(np.full(np.shape(w), v), WEIGHT_BITS)}
    if plan.intercept:
        given |= {"bias": ring(b, WEIGHT_BITS), "velocity of bias": ring(np.full(np.shape(b), v), WEIGHT_BITS)}
    return given


def real(words, bits=WEIGHT_BITS):
    return words.view(np.int64) * 2.0**-bits


def gradient(x, y, w, b, weights, penalty):
    """Of the weighted mean of the cross-entropy and its penalty, in float64: y is one-hot, or (n, 1) for two classes."""
    z = x @ w + b
    if z.shape[1] == 1:
        p = 1 / (1 + np.exp(-z))
    else:
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
    g = weights * (p - y) / weights.sum()
    return x.T @ g + penalty * w, g.sum(0)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.sample(6)
def test_an_iteration_is_that_of_float64(outputs, weighted, classes, intercept):
    """From any weights and velocities, at any iteration, in one batch or two: W and V move as the formula says, and the bit is right."""
    n, d, iteration = 24, 3, 7
    rng = np.random.default_rng(outputs)
    x, w, b = rng.normal(size=(n, d)), rng.normal(size=(d, outputs)), rng.normal(size=outputs) * intercept
    labels = rng.integers(0, max(2, outputs), n)
    y = labels[:, None] * 1.0 if outputs == 1 else np.eye(outputs)[labels]
    by_class = tuple(np.linspace(0.2, 1.0, max(2, outputs))) if classes else ()
    own = rng.uniform(0.1, 1.0, (n, 1)) if weighted else np.ones((n, 1))
    weights = own * (np.array(by_class)[labels][:, None] if classes else 1.0)
    total = float(weights.sum())
    slope, offset = gradient(x, y, w, b, weights, 0.01)
    largest = max(np.abs(slope).max(), np.abs(offset).max() * intercept)
    for batches in (1, 2):
        for tol, steep in ((largest * 0.97, 1), (largest * 1.03, 0)):
            plan = logistic(n, d, outputs, total=total, tol=tol, intercept=intercept, weighted=weighted, classes=by_class, batches=batches)
            state = start(plan, w, b, 0.1)
            for batch, rows in enumerate(np.array_split(np.arange(n), batches)):
                given = {"x": ring(x[rows]), "y": ring(y[rows])} | ({"w": ring(own[rows])} if weighted else {})
                circuit = plan.circuit(len(rows), iteration * batches + batch)
                state = Trainers(circuit, f"{batch}").outputs(state | given)
            beta = min(plan.momentum, iteration / (iteration + 3))
            for name, at, by in (("kernel", w, slope), ("bias", b, offset))[: 2 if intercept else 1]:
                velocity = beta * 0.1 - plan.rate * by
                np.testing.assert_allclose(real(state[f"velocity of {name}"]), velocity, atol=0.002 if outputs > 1 else 7e-4)
                np.testing.assert_allclose(real(state[name]), at + beta * velocity - plan.rate * by, atol=0.003 if outputs > 1 else 1.1e-3)
            assert state["steep"][0] == steep, (batches, tol)
            assert state["outside"][0] == 0


def test_logits_that_leave_are_found():
    plan = logistic(8, 2, 1)
    x, y = np.full((8, 2), 400.0), np.zeros((8, 1))
    found = [
        Trainers(plan.circuit(8), f"{n}").outputs(start(plan, np.ones((2, 1)), np.zeros(1)) | {"x": ring(x), "y": ring(y)})
        for n in range(3)
    ]
    assert all(one["outside"][0] == 1 for one in found)


def test_many_examples_do_not_wrap_around():
    """As if these were one of many batches: sums of gradients lose bits, and nothing else changes."""
    n, d = 64, 2
    rng = np.random.default_rng(0)
    x, y, w, b = rng.normal(size=(n, d)) * 200, rng.integers(0, 2, (n, 1)) * 1.0, np.zeros((d, 1)), np.zeros(1)
    plan = logistic(1_000_000, d, 1, total=1e6, rate=1e-4, batches=15_625)
    state = Trainers(plan.circuit(n, 0)).outputs(start(plan, w, b) | {"x": ring(x), "y": ring(y)})
    slope, offset = gradient(x, y, w, b, np.ones((n, 1)), 0.0)
    lost = 2 * FRACTION - (plan.examples.bit_length() - 12)
    np.testing.assert_allclose(real(state["gradient of kernel"], lost) / n, slope, atol=0.05)
    np.testing.assert_allclose(real(state["gradient of bias"], lost) / n, offset, atol=2e-3)
    np.testing.assert_array_equal(state["kernel"], 0)  # nothing moves before the last batch


def test_rounds_and_what_a_pass_sends():
    x, y, w = data(16)
    given = {"x": ring(x), "y": ring(y), "w": ring(w)}
    assert Trainers(Moments(3, 2, ("gram", "cross", "features", "targets")).circuit(16)).run(given).rounds == 0
    assert Trainers(Moments(3, 2, ("gram", "cross"), drop=3).circuit(16)).run(given).rounds == 1
    run = Trainers(Moments(3, 2, ("gram", "cross"), weighted=True).circuit(16)).run(given)
    assert run.rounds == 2
    assert run.sent[0, 1] == run.sent[1, 0] == 2 * 8 * 16 * 3
    plan = logistic(16, 3, 1)
    labels = {"x": ring(x), "y": ring(np.ones((16, 1)))}
    assert Trainers(plan.circuit(16)).run(start(plan, np.zeros((3, 1)), np.zeros(1)) | labels).rounds == 13


def test_what_a_server_sees_is_as_uniform_for_one_secret_as_for_another():
    plan = logistic(64, 4, 1, weighted=True)
    for fill in (0.0, 1.0):
        x, y, w = np.full((64, 4), fill), np.full((64, 1), fill), np.full((64, 1), fill)
        run = Trainers(plan.circuit(64)).run(start(plan, np.full((4, 1), fill), np.zeros(1)) | {"x": ring(x), "y": ring(y), "w": ring(w)})
        words = np.concatenate([array.reshape(-1) for array in run.seen_by(1) if array.size >= 30])
        ones = np.unpackbits(words.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * words.size)


def test_weights_belong_to_plans_that_have_them():
    x, y, w = (Dataset(name, (8, width), "numbers", name.encode()) for name, width in (("x", 3), ("y", 2), ("w", 1)))

    def terms(plan, weights):
        return TrainingTerms(b"", plan, x, y, 8, None, 1 << 20, False, "name", w=weights)

    check(terms(Moments(3, 2, ("gram",)), None))
    check(terms(Moments(3, 2, ("gram",), weighted=True), w))
    for plan, weights in ((Moments(3, 2, ("gram",)), w), (Moments(3, 2, ("gram",), weighted=True), None)):
        with pytest.raises(InputError, match="were named, and"):
            check(terms(plan, weights))
    with pytest.raises(InputError, match="one weight for each of 8 examples"):
        check(terms(Moments(3, 2, ("gram",), weighted=True), y))
