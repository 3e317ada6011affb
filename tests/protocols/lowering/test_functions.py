"""Functions of private values over their whole range against float64, with the rounds that they promise, in the simulator."""

import numpy as np
import pytest
from function_runs import difference, halves, measured, quotient

from protocols.curves.activations import CURVES, TOLERANCE
from protocols.curves.splines import fit
from protocols.errors import WindowError
from protocols.lowering.scales import functions, maxima, products

UNIT = 2.0**-15


def run(function, x, input_range):
    """What it makes of examples x, and how many rounds it took."""
    values, transcript, _, _ = measured(function, x, input_range)
    return values, transcript.rounds


def representable(x, reach):
    """The nearest numbers that inputs up to `reach` can have."""
    unit = 2.0 ** (np.ceil(np.log2(reach)) - 16)
    return np.rint(x / unit) * unit


def grid(low, high, n=1024):
    """Examples that cover a range, its ends included."""
    return np.linspace(low, high, n).reshape(8, -1)


@pytest.mark.parametrize("reach", [2.0, 12.0, 700.0])
@pytest.mark.parametrize("name", sorted(set(CURVES) - {"swish", "hard_swish", "exponential"}))
@pytest.mark.sample(30)
def test_activations_within_their_tolerance(name, reach):
    curve = CURVES[name]
    x = representable(np.concatenate([grid(-reach, reach), grid(-min(8, reach), min(8, reach))]), reach)
    y, rounds = run(lambda w, node, v: functions.curve(w, node, v, curve.spline), x, (-reach, reach))
    assert (np.abs(y - curve.function(x)) <= (TOLERANCE + 2.0**-13) * np.maximum(1.0, np.abs(curve.function(x)) * curve.relative)).all()
    assert rounds == 3


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-700.0, 0.0), (-30.0, 9.0)])
def test_the_exponential_to_its_tolerance_and_above_1_to_a_relative_one(low, high):
    x = representable(grid(low, high), -low)
    y, rounds = run(lambda w, node, v: functions.curve(w, node, v, CURVES["exponential"].spline), x, (low, high))
    assert (np.abs(y - np.exp(x)) <= (TOLERANCE + 2.0**-13) * np.maximum(1.0, np.exp(x))).all()
    assert rounds == 3


def test_an_exponential_that_would_need_too_many_pieces_is_refused():
    with pytest.raises(WindowError, match="more than 256 knots"):
        run(lambda w, node, v: functions.curve(w, node, v, CURVES["exponential"].spline), np.zeros((1, 3)), (-1.0, 40.0))


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.01, 1.0), (1.0, 1000.0)])
def test_logarithms(low, high):
    x = representable(np.geomspace(low, high, 1024).reshape(8, -1), high)
    y, rounds = run(functions.logarithm, x, (low, high))
    assert np.abs(y - np.log(x)).max() < 2.0**-10
    assert rounds == 3
    with pytest.raises(WindowError, match="must be well above 0"):
        run(functions.logarithm, x, (0.0, high))


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("reach", [1.0, 20.0, 3000.0])
def test_softmax_and_its_logarithm(classes, reach):
    random = np.random.default_rng(classes)
    x = random.uniform(-reach, reach, (30, classes))
    x[0], x[1], x[2] = reach, -reach, np.linspace(-reach, reach, classes)
    x[3] = np.maximum(reach - np.arange(classes) / 2, -reach)
    x = representable(x, reach)
    exact = x - x.max(1, keepdims=True)
    logarithm = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    levels = int(np.ceil(np.log2(classes)))
    y, rounds = run(functions.softmax, x, (-reach, reach))
    assert np.abs(y - np.exp(logarithm)).max() < 2.0**-10 + classes * 2.0**-12
    assert rounds == 3 * levels + 7
    y, rounds = run(lambda w, node, v: functions.softmax(w, node, v, log=True), x, (-reach, reach))
    assert np.abs(y - logarithm).max() < 2.0**-10 + classes * 2.0**-12
    assert rounds == 3 * levels + 6


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.01, 1.0), (1.0, 1000.0)])
@pytest.mark.parametrize(("function", "exact"), [(functions.reciprocal, np.reciprocal), (functions.reciprocal_root, lambda x: x**-0.5)])
def test_reciprocals_to_a_relative_thousandth(low, high, function, exact):
    x = representable(np.geomspace(low, high, 1024).reshape(8, -1), high)
    y, rounds = run(function, x, (low, high))
    assert (np.abs(y / exact(x) - 1) < 1e-3).all()
    assert rounds == 3


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_what_may_be_zero_is_not_divided_by(low):
    with pytest.raises(WindowError, match="must be well above 0"):
        run(functions.reciprocal, np.ones((1, 3)), (low, 2.0))


POSITIVE = [(functions.reciprocal, np.reciprocal), (functions.reciprocal_root, lambda x: x**-0.5), (functions.logarithm, np.log)]


@pytest.mark.parametrize(("function", "exact"), POSITIVE)
@pytest.mark.parametrize("reach", [30.0, 10000.0])
def test_outside_of_the_samples_a_function_has_the_value_of_the_nearer_end_and_is_called_calibrated(function, exact, reach):
    samples = np.linspace(1, 4, 60).reshape(20, 3)
    x = representable(np.concatenate([np.geomspace(0.2, 30, 900), np.linspace(-reach, reach, 300)]).reshape(-1, 3), reach)
    y, transcript, _, layers = measured(function, x, (-reach, reach), samples, 2.0)
    clipped = exact(np.clip(x, 1 / 4, 16))
    assert (np.abs(y - clipped) < 2e-3 * np.maximum(np.abs(clipped), 1.0)).all()
    assert transcript.rounds == 3
    assert [layer.source for layer in layers] == ["calibrated"]
    assert (layers[0].least, layers[0].bound) == pytest.approx((1 / 4, 16), rel=1e-2)


def test_a_function_that_is_proved_is_called_so():
    *_, layers = measured(functions.reciprocal, np.ones((1, 3)), (0.5, 2.0), np.ones((4, 3)), 4.0)
    assert [(layer.source, layer.least, layer.bound) for layer in layers] == [("proved", 0.5, 2.0)]


def test_rows_that_vary_less_than_the_samples_are_normalised_as_well():
    random = np.random.default_rng(0)
    samples, x = random.uniform(-1, 1, (30, 16)), random.uniform(-1, 1, (30, 16)) * np.geomspace(1e-3, 1, 30)[:, None]
    x = representable(x, 8.0)
    y, _, _, layers = measured(lambda w, node, v: functions.normalised(w, node, v, 1e-6), x, (-8.0, 8.0), samples, 2.0)
    centred, variance = x - x.mean(1, keepdims=True), x.var(1, keepdims=True)
    assert np.abs(y - centred / np.sqrt(variance + 1e-6)).max() < 2.0**-7
    assert (variance < samples.var(1).min() / 4).any()
    assert layers[-1].least is None or layers[-1].least <= 1e-6 * 1.01
    assert "calibrated" in {layer.source for layer in layers}


def test_too_many_pieces_are_refused():
    def steep(w, node, v):
        return functions.curve(w, node, v, lambda low, high: fit(np.exp, low, high, tolerance=1e-6))

    with pytest.raises(WindowError, match="more than 256 knots"):
        run(steep, np.ones((1, 3)), (-10.0, 10.0))


def test_division():
    x = np.random.default_rng(0).uniform(0.5, 8.0, (20, 40))
    y, rounds = run(lambda w, node, v: quotient(w, node, *halves(w, v)), x, (0.5, 8.0))
    np.testing.assert_allclose(y, x[:, :20] / x[:, 20:], rtol=2e-3)
    assert rounds == 4


def test_comparisons_of_two_private_values():
    x = np.random.default_rng(0).integers(-3, 4, (50, 40)) * UNIT
    y, rounds = run(lambda w, node, v: functions.truth(w, node, difference(w, node, v)), x, (-1.0, 1.0))
    assert (y == (x[:, :20] >= x[:, 20:])).all()
    assert rounds == 3
    y, rounds = run(lambda w, node, v: functions.truth(w, node, difference(w, node, v), equal=True), x, (-1.0, 1.0))
    assert (y == (x[:, :20] == x[:, 20:])).all()
    assert 0 < y.mean() < 1
    assert rounds == 3


@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_the_largest_of_a_vector(n):
    x = representable(np.random.default_rng(n).uniform(-30, 30, (64, n)), 30)
    y, rounds = run(lambda w, node, v: maxima.largest(w, node, v, 0), x, (-30.0, 30.0))
    assert np.abs(y[:, 0] - x.max(1)).max() <= 2 * UNIT
    assert rounds == 3 * int(np.ceil(np.log2(n)))


def test_the_k_largest_with_ties():
    x = np.random.default_rng(0).integers(-3, 4, (60, 7)) / 4
    y, rounds = run(lambda w, node, v: functions.top_k(w, node, v, 3), x, (-1.0, 1.0))
    order = np.argsort(-x, axis=1, kind="stable")[:, :3]
    assert (y == np.eye(7)[order]).all()
    assert rounds == 6


@pytest.mark.parametrize("reach", [1.0, 50.0])
def test_products_of_private_values(reach):
    x = np.random.default_rng(0).uniform(-reach, reach, (20, 24))
    y, rounds = run(lambda w, node, v: products.product(w, node, *halves(w, v)), x, (-reach, reach))
    np.testing.assert_allclose(y, x[:, :12] * x[:, 12:], atol=reach**2 * 2.0**-14)
    assert rounds == 0
    y, _ = run(lambda w, node, v: products.product(w, node, v, v), x, (-reach, reach))
    np.testing.assert_allclose(y, x**2, atol=reach**2 * 2.0**-14)

    def matrices(w, node, v):
        return products.matrix_product(
            w, node, *(w.shaped(shape, half) for shape, half in zip(((3, 4), (4, 3)), halves(w, v), strict=True))
        )

    y, _ = run(matrices, x, (-reach, reach))
    np.testing.assert_allclose(y, x[:, :12].reshape(-1, 3, 4) @ x[:, 12:].reshape(-1, 4, 3), atol=reach**2 * 2.0**-12)


def test_layer_normalisation():
    x = np.random.default_rng(0).uniform(-4, 4, (40, 16)) * np.geomspace(1e-3, 1, 40)[:, None]
    y, rounds = run(lambda w, node, v: functions.normalised(w, node, v, 1e-3), x, (-4.0, 4.0))
    centred = x - x.mean(1, keepdims=True)
    assert np.abs(y - centred / np.sqrt(x.var(1, keepdims=True) + 1e-3)).max() < 2.0**-7
    assert rounds <= 9


def test_a_softmax_that_is_too_long_for_its_error_is_refused():
    with pytest.raises(WindowError, match="too long"):
        run(functions.softmax, np.zeros((1, 4096)), (-20.0, 20.0))


def test_indices_outside_of_a_table_are_refused():
    with pytest.raises(WindowError, match="indices from 0 to 4"):
        run(lambda w, node, v: functions.one_hot(w, node, v, 5), np.zeros((1, 2)), (0.0, 5.0))
