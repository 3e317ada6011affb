"""Logistic regression in the simulator beside scikit-learn: penalties of all strengths, weights, columns of all scales."""

import numpy as np
import pytest
from simulated_run import SimulatedRun, stored
from sklearn import linear_model

from protocols import LogisticRegression, PrecisionWarning
from protocols.errors import InputError
from protocols.estimators import logistic


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(logistic, "Run", SimulatedRun)


def drawn(classes=2, n=60, rare=None):
    """Classes that are not apart, in three features of spread 1."""
    rng = np.random.default_rng(classes)
    y = np.minimum(rng.geometric(0.5, n) - 1, classes - 1) if rare is None else (np.arange(n) < rare).astype(int)
    x = rng.normal(size=(n, 3)) + 0.8 * rng.normal(size=(classes, 3))[y]
    return (x - x.mean(0)) / x.std(0), y


async def same(x, y, *weights, shared=(False, False, False), near=0.01, probability=0.004, **settings):
    """The fit has converged, is that of scikit-learn, and says nothing."""
    given = [stored("x", x) if shared[0] else x, stored("y", y) if shared[1] else y]
    given += [stored("w", weights[0] / weights[0].max()) if shared[2] else weights[0]] if weights else []
    own = [weights[0] / weights[0].max()] if weights and shared[2] else weights
    ours = await LogisticRegression(object(), **settings).fit(*given)
    theirs = linear_model.LogisticRegression(tol=1e-10, max_iter=100_000, **settings).fit(x, y, *own)
    assert ours.converged_
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=near * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=probability)
    largest = max(np.abs(theirs.coef_).max(), np.abs(theirs.intercept_).max(), 1.0)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=2 * near * largest)
    return ours


SETTINGS = [{}, {"fit_intercept": False}, {"class_weight": "balanced"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [1e-6, 1e-4, 1.0, *(pytest.param(c, marks=pytest.mark.long) for c in (1e-5, 1e-3, 1e-2, 1e3, 1e6))])
@pytest.mark.sample(8)  # several settings of each strength, with two and with three classes
async def test_a_penalty_of_any_strength_is_that_of_scikit_learn(c, classes, settings):
    near = 0.01 if c < 1 else 0.02  # a weak penalty leaves an error of `tol` times what it is divided by
    ours = await same(*drawn(classes), C=c, near=near, probability=0.01, **settings)
    assert ours.n_iter_[0] <= (30 if c < 1e-2 else 400)


@pytest.mark.parametrize("c", [1e-6, *(pytest.param(c, marks=pytest.mark.long) for c in (1e-4, 1e-2))])
async def test_strong_penalties_with_data_of_others_and_weights(c):
    x, y = drawn()
    w = np.random.default_rng(0).integers(0, 4, len(x)).astype(float)
    await same(x, y, C=c, shared=(True, True, False))
    await same(x, y, C=c, shared=(True, True, False), class_weight="balanced")
    await same(x, y, w, C=c)
    await same(x, y, w, C=c, shared=(True, True, True))
    await same(*drawn(rare=3), C=c)
    await same(*drawn(rare=3), C=c, class_weight="balanced")


@pytest.mark.parametrize("shared", [(False, False, False), (False, True, False), (False, False, True), (True, True, True)])
@pytest.mark.parametrize("c", [0.1, pytest.param(1.0, marks=pytest.mark.long)])
@pytest.mark.sample(3)
async def test_what_is_subtracted_changes_no_optimum(shared, c):
    """The mean is that of weights where they are here; it is not where they are shared, and nothing at all where x is."""
    x, y = drawn()
    w = np.where(y == 0, 0.2, 3.0) * np.random.default_rng(0).uniform(0.5, 1.0, len(x))
    assert np.abs(np.average(x, 0, w) - x.mean(0)).max() > 0.2
    await same(x + np.array([1.0, 0.0, -1.0]), y, w, C=c, shared=shared, near=0.02, probability=0.01)


@pytest.mark.parametrize("settings", [{}, {"fit_intercept": False}], ids=str)
async def test_columns_of_all_scales(settings):
    x, y = drawn()
    scales = np.array([1e-3, 1.0, 1e4])
    ours = await LogisticRegression(object(), **settings).fit(x * scales, y)
    theirs = linear_model.LogisticRegression(tol=1e-12, max_iter=100_000, solver="newton-cg", **settings).fit(x * scales, y)
    np.testing.assert_allclose(ours.coef_ * scales, theirs.coef_ * scales, atol=0.02 * np.abs(theirs.coef_ * scales).max())
    np.testing.assert_allclose(ours.predict_proba(x * scales), theirs.predict_proba(x * scales), atol=0.01)


async def test_rows_that_do_not_count_and_columns_that_do_not_move():
    x, y = drawn()
    x = np.c_[x, np.full(len(x), 7.0)]
    w = np.ones(len(x))
    w[:2], x[0], x[1] = 0.0, 1e9, 300.0
    ours = await LogisticRegression(object()).fit(x, y, w)
    theirs = linear_model.LogisticRegression(tol=1e-10).fit(x[2:, :3], y[2:])
    np.testing.assert_allclose(ours.coef_[:, :3], theirs.coef_, atol=0.01)
    assert ours.coef_[0, 3] == 0


async def test_coefficients_of_a_few_units_are_told():
    x, y = drawn()
    with pytest.warns(PrecisionWarning, match="the largest coefficient is .*e-06, and coefficients are known to"):
        await LogisticRegression(object(), C=1e-4).fit(x * 1e-3, y)


async def test_small_features_of_others_are_told_when_they_are_stored():
    x, _ = drawn()
    with pytest.warns(PrecisionWarning, match="'x': columns 0, 1, 2 of 3 spread over"):
        stored("x", x * 1e-3)
    with pytest.raises(InputError, match="nothing of them would be left"):
        stored("x", x * 1e-6)


@pytest.mark.parametrize("shared", [False, True])
async def test_what_the_tolerance_leaves_is_told(shared):
    """Two columns that are almost the same: only the penalty tells them apart, and the gradient is small before it has."""
    x, y = drawn()
    alike = np.c_[x, x[:, 0] + 0.02 * np.random.default_rng(0).normal(size=len(x))]
    features = stored("x", alike) if shared else alike
    with pytest.warns(PrecisionWarning, match=r"may leave coefficients off by \d+% of the largest, .* use tol=1e-05"):
        loose = await LogisticRegression(object(), C=100.0, tol=1e-3).fit(features, y)
    theirs = linear_model.LogisticRegression(C=100.0, tol=1e-10, max_iter=100_000).fit(alike, y)
    assert np.abs(loose.coef_ - theirs.coef_).max() > 0.1 * np.abs(theirs.coef_).max()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("value", [0.0, 5.0])
async def test_columns_none_of_which_moves_leave_the_intercept(value, classes):
    y = drawn(classes)[1]
    x = np.full((len(y), 2), value)
    ours = await LogisticRegression(object()).fit(x, y)
    assert not ours.coef_.any()
    np.testing.assert_allclose(ours.predict_proba(x)[0], np.bincount(y) / len(y), atol=0.004)


async def test_labels_of_several_types_are_named():
    x, y = drawn(3)
    with pytest.raises(InputError, match="labels of several types, bytes, int, str: labels of one type are needed"):
        await LogisticRegression(object()).fit(x, np.array(["a", 1, b"b"], object)[y])
