"""What estimators are given: missing values, extreme numbers, weights of 0; what fits, predictions and scores refuse."""

import numpy as np
import pytest
from simulated_run import SimulatedRun, stored
from sklearn import linear_model

from protocols import (
    PCA,
    GammaRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    KMeans,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    PrecisionWarning,
    RandomForestClassifier,
    RandomForestRegressor,
    Ridge,
)
from protocols.errors import InputError, ModelError
from protocols.estimators import linear, logistic, loglinear
from protocols.estimators.trees import boosting, forest
from protocols.estimators.unsupervised import kmeans, pca

X = np.random.default_rng(1).normal(size=(30, 3))
LABELS = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)
NUMBERS = np.round(np.exp(X[:, 0])) + 1.0
SMALL = {"n_estimators": 1, "max_bins": 4, "max_depth": 1}
CLASSIFIERS = [(LogisticRegression, {}), (GradientBoostingClassifier, SMALL), (RandomForestClassifier, SMALL)]
REGRESSORS = [
    *((kind, {}) for kind in (LinearRegression, Ridge, PoissonRegressor, GammaRegressor)),
    (GradientBoostingRegressor, SMALL),
    (RandomForestRegressor, SMALL),
]
OTHERS = [(KMeans, {"n_clusters": 2, "n_init": 1}), (PCA, {})]
ALL = [*((*one, (LABELS,)) for one in CLASSIFIERS), *((*one, (NUMBERS,)) for one in REGRESSORS), *((*one, ()) for one in OTHERS)]
NAMED = pytest.mark.parametrize(("kind", "settings", "y"), ALL, ids=lambda one: getattr(one, "__name__", ""))


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    for module in (boosting, forest, kmeans, linear, logistic, loglinear, pca):
        monkeypatch.setattr(module, "Run", SimulatedRun)


def changed(value):
    x = X.copy()
    x[4, 1] = value
    return x


@NAMED
async def test_what_is_no_table_of_finite_numbers_is_refused_by_fits_and_predictions(kind, settings, y):
    """A missing value became the first class, the right child, the first centre."""
    model = kind(object(), **settings)
    use = "predict" if hasattr(model, "predict") else "transform"
    with pytest.raises(ModelError, match=f"this {kind.__name__} is not fitted yet"):
        getattr(model, use)(X)
    for x, match in (
        (np.ma.masked_greater(X, 1.0), "x has .* masked values"),
        ([[1.0, 2.0], [3.0]], "x has rows of different lengths"),
        (X * 1e150, "x has at most .*e.150 in column 0: from 1e-100 to 1e.100 is possible"),
        (X * 1e-300, "x has at most .*e-300 in column 0"),
        (X[:0], "there is no example|a table .* is needed"),
        (None, "x is missing|x is made of object"),
    ):
        with pytest.raises(InputError, match=match):
            await kind(object(), **settings).fit(x, *y)
    await model.fit(X, *y)
    for x, match in (
        (changed(np.nan), r"x has NaN or infinite values in columns \[1\]"),
        (changed(-np.inf), r"x has NaN or infinite values in columns \[1\]"),
        (X.astype(str), "x is made of <U32: numbers are needed"),
        (X + 1j, "x is made of complex128"),
        (np.ma.masked_greater(X, 1.0), "x has .* masked values"),
    ):
        with pytest.raises(InputError, match=match):
            getattr(model, use)(x)


@pytest.mark.parametrize(("kind", "settings"), REGRESSORS)
async def test_scores_of_what_is_missing_are_none(kind, settings):
    """R^2 was 1.0 for targets or weights of NaN."""
    model = await kind(object(), **settings).fit(X, NUMBERS)
    for y, w, match in (
        (np.where(np.arange(30) == 2, np.nan, NUMBERS), None, r"y has NaN or infinite values in places \[2\]"),
        (NUMBERS[:, None], None, r"y has shape \(30, 1\); \(30,\) is needed"),
        (NUMBERS[:1], None, r"y has shape \(1,\); \(30,\) is needed"),
        (NUMBERS, np.full(30, np.nan), "sample_weight has NaN"),
        (NUMBERS, -np.ones(30), "sample_weight has values below 0"),
        (NUMBERS, np.zeros(30), "none above 0"),
        (NUMBERS, np.ones(29), "29 weights for a score of 30 rows"),
    ):
        with pytest.raises(InputError, match=match):
            model.score(X, y, w)
    assert model.score(X, np.full(30, 2.0)) == 0.0  # as in scikit-learn: there is nothing to explain, and it is not met
    weights = np.arange(30) % 2
    assert model.score(X, NUMBERS, weights) == pytest.approx(model.score(X[1::2], NUMBERS[1::2]))


@pytest.mark.parametrize(("kind", "settings"), CLASSIFIERS)
async def test_labels_that_are_missing_are_no_class(kind, settings):
    """NaN in an array of objects was a class of its own."""
    for missing in (np.nan, None):
        with pytest.raises(InputError, match="1 labels that are missing"):
            await kind(object(), **settings).fit(X, np.array([missing, *LABELS[1:].tolist()], object))
    model = await kind(object(), **settings).fit(X, LABELS)
    for y, match in (
        (LABELS[:1], r"y has shape \(1,\); \(30,\) is needed"),
        (LABELS.astype(str), "y is made of <U21, and the labels of the fit are made of int64"),
        (np.where(np.arange(30) == 2, np.nan, LABELS), "1 labels that are missing"),
    ):
        with pytest.raises(InputError, match=match):
            model.score(X, y)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(PoissonRegressor, linear_model.PoissonRegressor), (GammaRegressor, linear_model.GammaRegressor)]
)
async def test_examples_without_weight_do_not_count_in_log_linear_fits(ours, theirs):
    """Far examples of weight 0 made columns so small that coefficients of 0 had converged."""
    x, y, w = X.copy(), NUMBERS.copy(), np.ones(30)
    x[:3], y[:3], w[:3] = 1e5, 1e6, 0
    model = await ours(object(), alpha=1e-2).fit(x, y, w)
    expected = theirs(alpha=1e-2, tol=1e-9, max_iter=1000).fit(x[3:], y[3:])
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-3)


@pytest.mark.parametrize("kind", [GradientBoostingRegressor, RandomForestRegressor])
async def test_targets_without_weight_do_not_count_in_trees(kind):
    settings = {"n_estimators": 2, "max_bins": 4, "max_depth": 2} | ({"bootstrap": False} if kind is RandomForestRegressor else {})
    w = (np.arange(30) > 2) * 1.0
    far, near = [await kind(object(), **settings).fit(X, np.where(w > 0, NUMBERS, one), w) for one in (1e9, 1.0)]
    np.testing.assert_allclose(far.predict(X), near.predict(X), atol=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(PoissonRegressor, linear_model.PoissonRegressor), (GammaRegressor, linear_model.GammaRegressor)]
)
async def test_a_constant_column_is_the_intercept_of_a_log_linear_fit_without_one(ours, theirs):
    x = np.c_[X, np.full(30, 7.0)]
    model = await ours(object(), alpha=1e-3, fit_intercept=False).fit(x, NUMBERS)
    expected = theirs(alpha=1e-3, fit_intercept=False, tol=1e-9, max_iter=1000).fit(x, NUMBERS)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=2e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(PoissonRegressor, linear_model.PoissonRegressor), (GammaRegressor, linear_model.GammaRegressor)]
)
async def test_a_penalty_on_a_small_column_leaves_others_alone(ours, theirs):
    """What is added for a column of 1e-7 was so large that the step along others was taken for rounding."""
    scales = np.array([1e-7, 1.0, 1e4])
    model = await ours(object()).fit(X * scales, NUMBERS)
    expected = theirs(tol=1e-9, max_iter=10_000, solver="newton-cholesky").fit(X * scales, NUMBERS)
    np.testing.assert_allclose(model.coef_ * scales, expected.coef_ * scales, atol=1e-3)
    assert model.n_iter_ < 15


@pytest.mark.parametrize("kind", [PoissonRegressor, GammaRegressor])
async def test_columns_that_fixed_point_does_not_tell_apart_are_told(kind):
    x = np.c_[X, X[:, 0] + 1e-6 * X[:, 1] * X[:, 2]]
    with pytest.warns(PrecisionWarning, match="vary in 5 directions, of which fixed point tells 4 apart"):
        await kind(object(), alpha=0.0).fit(x, NUMBERS)


async def test_settings_without_meaning_are_refused():
    for kind, y in ((LinearRegression, NUMBERS), (Ridge, NUMBERS), (PoissonRegressor, NUMBERS), (LogisticRegression, LABELS)):
        with pytest.raises(InputError, match="fit_intercept='no'; True or False is needed"):
            await kind(object(), fit_intercept="no").fit(X, y)
    with pytest.raises(InputError, match="n_clusters=31, and there are 30 examples"):
        await KMeans(object(), n_clusters=31).fit(X)
    for x, match in ((X, "8 times their reach"), (stored("x", X), "than 512")):
        with pytest.raises(InputError, match=match):
            await KMeans(object(), n_clusters=2, init=[[0, 0, 0], [0, 0, 1e4]]).fit(x)
    for kind, y in ((RandomForestClassifier, LABELS), (RandomForestRegressor, NUMBERS)):
        with pytest.raises(InputError, match="min_samples_leaf=31, and a tree has examples of a weight of 30 only"):
            await kind(object(), min_samples_leaf=31, **SMALL).fit(X, y)
    components = await PCA(object(), n_components=2).fit(X)
    with pytest.raises(InputError, match="a table of 2 components is needed"):
        components.inverse_transform(X)


async def test_weights_of_examples_too_small_for_fixed_point_are_refused():
    w = np.full(30, 1e-20)
    with pytest.raises(InputError, match="weights of examples are at most 1e-20 beside a penalty of 1"):
        await LogisticRegression(object()).fit(X, LABELS, w)
    with pytest.raises(InputError, match="over the largest weight of an example, do not fit 30 examples"):
        await GradientBoostingClassifier(object(), **SMALL).fit(X, LABELS, w)
