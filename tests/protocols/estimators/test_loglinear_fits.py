"""Poisson and gamma regression in the simulator beside scikit-learn: scaled and raw, weights, data of others, refusals."""

import numpy as np
import pytest
from simulated_run import SimulatedRun, stored
from sklearn import datasets, linear_model

from protocols import GammaRegressor, PoissonRegressor
from protocols.errors import InputError
from protocols.estimators import loglinear

BOTH = [(PoissonRegressor, linear_model.PoissonRegressor), (GammaRegressor, linear_model.GammaRegressor)]


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(loglinear, "Run", SimulatedRun)


def drawn(n=80):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    return x, rng.poisson(np.exp(x @ [0.5, -0.3, 0.2] + 1)) + 1.0, rng.uniform(0.2, 2.0, n)


def close(ours, theirs, x, rtol=2e-3):
    largest = np.abs(theirs.coef_ * x.std(0)).max()
    np.testing.assert_allclose(ours.coef_ * x.std(0), theirs.coef_ * x.std(0), atol=rtol * max(largest, 0.1))
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=5 * rtol)


@pytest.mark.parametrize(("ours", "theirs"), BOTH)
@pytest.mark.parametrize("alpha", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("intercept", [True, False])
async def test_coefficients_are_those_of_scikit_learn(ours, theirs, alpha, intercept):
    x, y, w = drawn()
    settings = {"alpha": alpha, "fit_intercept": intercept}
    for weights in ((), (w,)):
        model = await ours(object(), **settings).fit(x, y, *weights)
        reference = theirs(tol=1e-9, max_iter=10_000, **settings).fit(x, y, *weights)
        close(model, reference, x)
        assert model.score(x, y) == pytest.approx(reference.score(x, y), abs=1e-3)
        assert model.n_iter_ < 15


@pytest.mark.parametrize(("ours", "theirs"), BOTH)
async def test_diabetes_as_it_is_shipped_and_raw(ours, theirs):
    x, y = datasets.load_diabetes(return_X_y=True)
    scales = 10.0 ** np.arange(-4, 6)
    model = await ours(object(), alpha=0.0).fit(x * scales, y * 100)
    reference = theirs(alpha=0.0, tol=1e-9, max_iter=10_000, solver="newton-cholesky").fit(x, y * 100)
    np.testing.assert_allclose(model.predict(x * scales), reference.predict(x), rtol=0.01)
    np.testing.assert_allclose(model.coef_ * scales, reference.coef_, atol=0.01 * np.abs(reference.coef_).max())


@pytest.mark.parametrize(("ours", "theirs"), BOTH)
async def test_data_of_others(ours, theirs):
    x, y, w = drawn()
    reference = theirs(alpha=0.1, tol=1e-9, max_iter=10_000)
    close(await ours(object(), alpha=0.1).fit(stored("x", x), stored("y", y)), reference.fit(x, y), x, 5e-3)
    close(await ours(object(), alpha=0.1).fit(stored("x", x), y, stored("w", w / 2)), reference.fit(x, y, w), x, 5e-3)


@pytest.mark.parametrize(
    ("estimator", "settings", "y", "match"),
    [
        (PoissonRegressor, {}, -1.0, "y has values below 0, or 0 only"),
        (GammaRegressor, {}, 0.0, "y has values below 0, or 0: GammaRegressor"),
        (GammaRegressor, {}, 1e-9, "at most a factor of 65,536"),
        (PoissonRegressor, {}, np.nan, "NaN"),
        (PoissonRegressor, {"alpha": -1}, 1.0, "alpha=-1"),
        (PoissonRegressor, {"tol": 0}, 1.0, "tol=0"),
        (PoissonRegressor, {"max_iter": 0}, 1.0, "max_iter=0"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused(estimator, settings, y, match):
    x, targets, _ = drawn()
    targets[3] = y
    with pytest.raises(InputError, match=match):
        await estimator(object(), **settings).fit(x, targets)
    with pytest.raises(InputError, match="80 of x, 79 of y"):
        await estimator(object()).fit(x, np.ones(79))


async def test_few_steps_are_told():
    x, y, _ = drawn()
    with pytest.warns(UserWarning, match="PoissonRegressor has not converged in 1 iterations"):
        await PoissonRegressor(object(), max_iter=1, alpha=0.0).fit(x, y)
