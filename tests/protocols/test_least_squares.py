"""Least squares on columns that nearly follow from each other, in the simulator: right within 1 % beside scikit-learn, or it says so."""

import warnings

import numpy as np
import pytest
from simulated_run import SimulatedRun, stored
from sklearn import linear_model

from protocols import LinearRegression, PrecisionWarning, Ridge
from protocols.estimators import linear
from protocols.estimators.least_squares import Normal, solve

SHARED = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(linear, "Run", SimulatedRun)


def problem(condition, noise, seed, n=40, d=5, targets=None):
    """Features whose singular values are a geometric row, and targets with coefficients of about 1 and noise."""
    rng = np.random.default_rng(seed)
    left, right = np.linalg.qr(rng.normal(size=(n, d)))[0], np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = left * np.geomspace(1, 1 / condition, d) @ right.T
    x = x / x.std(0).max() + rng.normal(size=d)
    shape = (n,) if targets is None else (n, targets)
    return x, x @ rng.normal(size=(d, *shape[1:])) + noise * rng.normal(size=shape)


async def fitted(estimator, x, y, shared, *weights):
    """The estimator, and whether it has warned."""
    data = (stored("x", x) if shared[0] else x, stored("y", y) if shared[1] else y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = await estimator.fit(*data, *weights)
    assert all(issubclass(one.category, PrecisionWarning) for one in caught)
    return model, bool(caught)


def off(model, theirs):
    return np.abs(model.coef_ - theirs.coef_).max() / np.abs(theirs.coef_).max()


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("power", range(1, 9))
async def test_what_is_off_by_more_than_1_percent_says_so(shared, power):
    for noise in (1e-8, 1e-3, 0.1, 1.0, 10.0):
        x, y = problem(10.0**power, noise, power)
        model, warned = await fitted(LinearRegression(object()), x, y, shared)
        assert warned or off(model, linear_model.LinearRegression().fit(x, y)) < 0.01, noise
        assert not (warned and power < 2), noise  # nor is everything warned of


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("alpha", [1e-8, 1e-3, 1.0])
async def test_the_same_with_a_penalty(shared, alpha):
    for power in range(1, 9):
        x, y = problem(10.0**power, 0.1, power, targets=2)
        model, warned = await fitted(Ridge(object(), alpha=alpha), x, y, shared)
        assert warned or off(model, linear_model.Ridge(alpha, solver="svd").fit(x, y)) < 0.01, power
        assert not (warned and alpha == 1.0)


@pytest.mark.parametrize("shared_y", [False, True])
@pytest.mark.parametrize("power", [2, 4, 5])
@pytest.mark.parametrize("intercept", [False, True])
async def test_features_that_are_here_are_solved_rightly(shared_y, power, intercept):
    """Far beyond what 24 bits and normal equations of the columns would tell apart; with weights, some of which are 0."""
    x, y = problem(10.0**power, 1.0, 1)
    w = np.random.default_rng(power).integers(0, 3, len(x)).astype(float)
    for weights in ((), (w,)):
        model, warned = await fitted(LinearRegression(object(), fit_intercept=intercept), x, y, (False, shared_y), *weights)
        theirs = linear_model.LinearRegression(fit_intercept=intercept, tol=1e-15).fit(x, y, *weights)
        assert off(model, theirs) < 0.01
        np.testing.assert_allclose(model.predict(x), theirs.predict(x), atol=0.02)
        assert not warned or (shared_y and power == 5)


async def test_a_condition_beyond_what_libraries_agree_on_is_named():
    x, y = problem(1e7, 1.0, 0)
    with pytest.warns(PrecisionWarning, match=r"their condition number is 1e\+07.*scikit-learn leaves out"):
        model = await LinearRegression(object()).fit(x, y)
    assert off(model, linear_model.LinearRegression(tol=1e-15).fit(x, y)) < 0.01


async def test_columns_of_all_scales_are_not_taken_for_rounding():
    x, y = problem(3.0, 0.1, 0)
    x = x * [1e-9, 1.0, 1e3, 1e6, 1e9]
    model, warned = await fitted(LinearRegression(object()), x, y, (False, False))
    expected = np.linalg.lstsq((x - x.mean(0)) / x.std(0), y - y.mean(), rcond=None)[0] / x.std(0)
    np.testing.assert_allclose(model.coef_, expected, rtol=1e-4)
    assert not warned


def test_a_penalty_on_columns_of_any_size_that_nearly_follow_from_each_other():
    """Eigenvectors mixed columns of which the penalty is 10^20 times that of others: NumPy's error, or coefficients off by over 1 %."""
    for seed in range(100):
        random = np.random.default_rng(seed)
        n, d = int(random.integers(8, 60)), int(random.integers(3, 7))
        x = random.normal(size=(n, d)) * 10.0 ** random.integers(-4, 5, d)
        a, b = random.choice(d, 2, replace=False)
        x[:, a] = x[:, b] * random.choice([1, -2, 1000, 1e-3]) + x[:, b].std() * random.choice([1e-10, 1e-7]) * random.normal(size=n)
        x, y, alpha = x - x.mean(0), random.normal(size=n), float(10.0 ** random.integers(-8, 4))
        left, values, right = np.linalg.svd(x, full_matrices=False)
        factor = 256 / np.abs(left).max()
        stored_columns, back = np.rint(left * factor * 65536) / 65536, right.T / values * factor
        normal = Normal(stored_columns.T @ stored_columns, stored_columns.T @ y[:, None], float(n), (np.zeros(d), np.zeros(1)))
        found, exact = back @ solve(normal, back, alpha).coefficients[0], right.T @ (values / (values**2 + alpha) * (left.T @ y))
        np.testing.assert_allclose(found, exact, atol=1e-3 * np.abs(exact).max())
