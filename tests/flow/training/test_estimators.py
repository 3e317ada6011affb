"""The estimators against scikit-learn, on its tables: coefficients, settings, convergence, data that others have shared, refusals."""

import contextlib
import warnings

import numpy as np
import pytest
from sklearn import datasets, exceptions, linear_model, preprocessing
from sklearn.base import clone

from inner_workers import inner_workers
from protocols import ConvergenceWarning, GradientBoostingRegressor, LinearRegression, LogisticRegression, PrecisionWarning, Ridge
from protocols.errors import InputError, ModelError, ProtocolError, UnknownModel, WorkerLost
from protocols.estimators.data import storable
from protocols.estimators.settings import convergence_warning
from protocols.owner.running import Running


def standard(loader):
    data = loader()
    return preprocessing.StandardScaler().fit_transform(data.data), data.target


@pytest.fixture(scope="module")
def diabetes():
    data = datasets.load_diabetes()
    return data.data, data.target


def some(n=60, d=4, t=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + [1.0, 0.0, -3.0, 0.5][:d]
    return x, x @ rng.normal(size=(d, t)) + rng.normal(size=(n, t)) + 2, rng.uniform(0.0, 3.0, n)


def close(ours, theirs, rtol=1e-3):
    """Coefficients and predictions within `rtol` of the largest of theirs."""
    largest = np.abs(theirs.coef_).max()
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=rtol * largest)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=rtol * max(largest, np.abs(theirs.intercept_).max()))
    assert np.shape(ours.intercept_) == np.shape(theirs.intercept_)


# Least squares.


async def test_diabetes_as_it_is_shipped_is_least_squares(cluster, diabetes):
    x, y = diabetes
    ours, theirs = await LinearRegression(cluster).fit(x, y), linear_model.LinearRegression().fit(x, y)
    close(ours, theirs)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=1e-6) == pytest.approx(0.5178, abs=1e-4)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=0.02)
    assert ours.rank_ == 10
    assert ours.n_features_in_ == 10


@pytest.mark.parametrize("kind", ["x", "y"])
async def test_a_row_that_does_not_count_changes_nothing(cluster, kind):
    x, y, w = some()
    w[0] = 0.0
    {"x": x, "y": y}[kind][0] = 1e9
    close(await LinearRegression(cluster).fit(x, y, w), linear_model.LinearRegression().fit(x, y, w))
    close(await Ridge(cluster, alpha=1e-3).fit(x, y, w), linear_model.Ridge(1e-3).fit(x, y, w))


@pytest.mark.parametrize("alpha", [1e-6, 1e-9, 1e-12, 1e-15])
async def test_a_small_penalty_on_columns_that_depend_on_each_other(cluster, alpha):
    x, y, _ = some()
    x = np.c_[x, x[:, 0] + x[:, 1], x[:, :1]]
    close(await Ridge(cluster, alpha=alpha).fit(x, y), linear_model.LinearRegression().fit(x, y), 1e-2)


async def test_diabetes_as_others_have_stored_it(cluster, diabetes):
    x, y = diabetes[0], diabetes[1] / 100
    stored = await cluster.store("x", x), await cluster.store("y", y)
    for model, theirs in (
        (LinearRegression(cluster), linear_model.LinearRegression()),
        (Ridge(cluster, alpha=0.1), linear_model.Ridge(0.1)),
    ):
        close(await model.fit(*stored), theirs.fit(x, y))
    mixed = await LinearRegression(cluster).fit(stored[0], diabetes[1])
    close(mixed, linear_model.LinearRegression().fit(*diabetes))


@pytest.mark.parametrize("loader", [datasets.load_linnerud, datasets.load_breast_cancer, datasets.load_wine, datasets.load_iris])
async def test_raw_tables(cluster, loader):
    """Of any scale, several targets among them: what is here is scaled before it is stored."""
    data = loader()
    x, y = data.data, data.target.astype(float)
    ours, theirs = await LinearRegression(cluster).fit(x, y), linear_model.LinearRegression().fit(x, y)
    spread = x.std(0)
    np.testing.assert_allclose(ours.coef_ * spread, theirs.coef_ * spread, atol=1e-3 * np.abs(theirs.coef_ * spread).max())
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=1e-3 * y.std())
    assert ours.predict(x).shape == y.shape


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 5.0])
async def test_settings_of_least_squares(cluster, weighted, intercept, alpha):
    """Weights and both data here, or any of them shared: the same coefficients as scikit-learn's."""
    x, y, w = some()
    theirs = linear_model.Ridge(alpha=alpha, fit_intercept=intercept).fit(x, y, sample_weight=w if weighted else None)
    ridge = Ridge(cluster, alpha=alpha, fit_intercept=intercept)
    close(await ridge.fit(x, y, sample_weight=w if weighted else None), theirs, 1e-4)
    close(await LinearRegression(cluster, alpha=alpha, fit_intercept=intercept).fit(x, y, w if weighted else None), theirs, 1e-4)
    a, b = await cluster.store("x", x), await cluster.store("y", y)
    close(await ridge.fit(a, b, w if weighted else None), theirs)
    close(await ridge.fit(x, b, w if weighted else None), theirs)
    if weighted:
        shared = await cluster.store("w", w / 3)
        theirs = linear_model.Ridge(alpha=alpha, fit_intercept=intercept).fit(x, y, sample_weight=w / 3)
        close(await ridge.fit(a, y, shared), theirs)


async def test_features_that_depend_on_each_other(cluster):
    """The coefficients of smallest norm, as scikit-learn has them; what only fixed point cannot tell apart is warned of."""
    x, y, _ = some()
    x = np.c_[x, x[:, 0] + x[:, 1], 3 * x[:, 2], np.full(len(x), 7.0)]
    ours, theirs = await LinearRegression(cluster).fit(x, y), linear_model.LinearRegression().fit(x, y)
    close(ours, theirs)
    assert ours.rank_ == theirs.rank_ == 4
    wide = x[:5]
    close(await LinearRegression(cluster).fit(wide, y[:5]), linear_model.LinearRegression().fit(wide, y[:5]), 5e-3)
    nearly = np.c_[x[:, :4], x[:, 0] + 1e-9 * y[:, 1]]
    with pytest.warns(PrecisionWarning, match=r"condition number is \de\+09"):
        model = await LinearRegression(cluster).fit(nearly, y)
    np.testing.assert_allclose(model.predict(nearly), linear_model.LinearRegression(tol=1e-15).fit(nearly, y).predict(nearly), atol=1e-3)
    with pytest.warns(PrecisionWarning, match="5 features vary in 5 directions, of which fixed point tells 4 apart"):
        model = await LinearRegression(cluster).fit(await cluster.store("x", nearly), y)
    np.testing.assert_allclose(model.predict(nearly), linear_model.LinearRegression().fit(x[:, :4], y).predict(x[:, :4]), atol=1e-3)
    nearly[:, 4] = x[:, 0] + 1e-3 * y[:, 1]
    close(await LinearRegression(cluster).fit(nearly, y), linear_model.LinearRegression().fit(nearly, y))
    with pytest.warns(PrecisionWarning, match="'x': column 1 of 4 spread over .*e-04 only, less than 256"):
        coarse = await cluster.store("x", x[:, :4] * [1, 1e-3, 1, 1])
    with pytest.warns(PrecisionWarning, match=r"columns \[1\] were stored with less than 256 steps"):
        await LinearRegression(cluster).fit(coarse, y)


async def test_many_examples_of_somebody_else(cluster):
    """More than could wrap around if all were 512."""
    x, y, _ = some(20_000)
    ours = await LinearRegression(cluster).fit(await cluster.store("x", x), await cluster.store("y", y))
    close(ours, linear_model.LinearRegression().fit(x, y))


async def test_nothing_of_a_fit_stays_at_the_workers(cluster, monkeypatch):
    x, y, _ = some()
    stored = []
    store = type(cluster).store

    async def watched(self, name, array, **settings):
        stored.append(await store(self, name, array, **settings))
        return stored[-1]

    monkeypatch.setattr(type(cluster), "store", watched)
    await LinearRegression(cluster).fit(x, y)
    with pytest.raises(InputError):
        await LogisticRegression(cluster, learning_rate=1e9).fit(x, (y[:, 0] > 2).astype(int))
    assert len(stored) == 4
    for array in stored[:3]:  # the fourth are labels
        with pytest.raises(UnknownModel, match="holds no such features"):
            await LinearRegression(cluster).fit(array, y)


# Logistic regression.


@pytest.mark.long
async def test_breast_cancer_standardised_comes_near_scikit_learn(cluster):
    x, y = standard(datasets.load_breast_cancer)
    theirs = linear_model.LogisticRegression(tol=1e-8, max_iter=10_000).fit(x, y)
    for tol, near in ((1e-4, 0.04), (1e-5, 0.01)):
        ours = await LogisticRegression(cluster, tol=tol).fit(x, y)
        close(ours, theirs, near)
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=0.02)
        assert ours.converged_
        assert 10 < ours.n_iter_[0] < 800
        assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=0.002)


SMALL = datasets.load_iris


def two(x, y):
    return x[y < 2], y[y < 2]


def drawn(classes=2, n=90):
    """Classes of unlike sizes that are not apart, in three features."""
    rng = np.random.default_rng(classes)
    y = np.minimum(rng.geometric(0.5, n) - 1, classes - 1)
    return rng.normal(size=(n, 3)) + 0.8 * rng.normal(size=(classes, 3))[y], y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.sample(1)
async def test_logistic_regression_is_that_of_scikit_learn(cluster, classes):
    """Data here, and shared by others with weights of classes."""
    x, y = drawn(classes)
    theirs = linear_model.LogisticRegression(C=0.2, tol=1e-8).fit(x, y)
    ours = await LogisticRegression(cluster, C=0.2).fit(x, y)
    close(ours, theirs, 0.02)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=0.01)
    assert ours.converged_
    assert ours.n_iter_.shape == (1,)
    shared = await cluster.store("x", x), await cluster.store("y", y)
    theirs = linear_model.LogisticRegression(C=0.2, tol=1e-8, class_weight="balanced").fit(x, y)
    close(await LogisticRegression(cluster, C=0.2, class_weight="balanced").fit(*shared), theirs, 0.02)


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"C": 0.05},
        {"fit_intercept": False},
        {"class_weight": "balanced"},
        {"class_weight": {1: 4.0}},
        {"batch_size": 41},
    ],
    ids=str,
)
async def test_settings_of_logistic_regression(cluster, classes, settings):
    """Data here, and shared."""
    x, y = drawn(classes)
    asked = {name: value for name, value in settings.items() if name != "batch_size"}
    theirs = linear_model.LogisticRegression(tol=1e-8, max_iter=10_000, **asked).fit(x, y)
    for data in ((x, y), (await cluster.store("x", x), await cluster.store("y", y))):
        ours = await LogisticRegression(cluster, **settings).fit(*data)
        close(ours, theirs, 0.03)
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=0.015)
        assert ours.converged_


@pytest.mark.long
async def test_weights_of_examples(cluster):
    x, y = drawn()
    w = np.random.default_rng(0).uniform(0, 2, len(y))
    theirs = linear_model.LogisticRegression(C=0.05, tol=1e-8, class_weight="balanced").fit(x, y, sample_weight=w)
    model = LogisticRegression(cluster, C=0.05, class_weight="balanced", tol=1e-3)
    close(await model.fit(x, y, sample_weight=w), theirs, 0.03)
    model.set_params(class_weight=None)
    a, b, shared = [await cluster.store(name, one) for name, one in (("x", x), ("y", y), ("w", w / 2))]
    theirs = linear_model.LogisticRegression(C=0.05, tol=1e-8).fit(x, y, sample_weight=w / 2)
    for data in ((a, b, shared), (x, y, shared), (a, y, w / 2)):
        close(await model.fit(*data), theirs, 0.03)


@pytest.mark.long
async def test_no_penalty_and_the_penalty_of_the_mean(cluster):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x @ [1.0, -1.0, 0.5] + rng.logistic(size=200) > 0).astype(int)
    theirs = linear_model.LogisticRegression(C=np.inf, tol=1e-8).fit(x, y)
    for settings in ({"C": np.inf}, {"penalty": None, "C": 0.1}, {"l2": 0.0}):
        close(await LogisticRegression(cluster, **settings).fit(x, y), theirs, 0.01)
    theirs = linear_model.LogisticRegression(C=1 / (0.1 * 200), tol=1e-8).fit(x, y)
    close(await LogisticRegression(cluster, l2=0.1).fit(x, y), theirs, 0.01)


async def test_a_fit_that_has_not_converged_says_so(cluster):
    x, y = standard(SMALL)
    assert issubclass(convergence_warning(), exceptions.ConvergenceWarning)
    for settings in ({"max_iter": 13}, {"epochs": 3}):
        with pytest.warns(
            ConvergenceWarning, match="has not converged in (13|3) iterations: an element of the gradient is above tol=0.0001"
        ):
            model = await LogisticRegression(cluster, **settings).fit(x, y)
        assert model.n_iter_.tolist() == list(settings.values())
        assert not model.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        await LogisticRegression(cluster, max_iter=1).fit(x, y)


@pytest.mark.parametrize("labels", [("a", "b"), (-1, 1), (False, True), (0.0, 1.0)])
@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore:a gradient of tol=0.05:protocols.PrecisionWarning")  # which is what is asked for
async def test_labels_of_any_kind(cluster, labels):
    x, y = two(*standard(SMALL))
    model = await LogisticRegression(cluster, tol=0.05).fit(x, np.array(labels)[y])
    assert model.classes_.tolist() == list(labels)
    assert set(model.predict(x)) <= set(labels)
    assert model.score(x, np.array(labels)[y]) > 0.95
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x)).sum(1), 1)


@pytest.mark.long
@pytest.mark.parametrize("loader", [datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer])
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
async def test_tables_standardised(cluster, loader, c):
    x, y = standard(loader)
    ours = await LogisticRegression(cluster, C=c, tol=1e-5, max_iter=3000).fit(x, y)
    theirs = linear_model.LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, y)
    close(ours, theirs, 0.03)
    assert (ours.predict(x) == theirs.predict(x)).mean() > 0.99


@pytest.mark.long
async def test_iris_raw(cluster):
    x, y = datasets.load_iris(return_X_y=True)
    ours = await LogisticRegression(cluster, max_iter=3000).fit(x, y)
    theirs = linear_model.LogisticRegression(tol=1e-8, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=0.02)
    assert (ours.predict(x) == theirs.predict(x)).all()


@pytest.mark.long
async def test_breast_cancer_raw_says_what_it_is(cluster):
    """Features from 0.001 to 4,000 that others have stored are refused; those that are here are scaled, and a fit says if it goes on."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    with pytest.raises(InputError, match=r"columns 3, 13, 23 of 30 reach .*scale them first"):
        await cluster.store("x", x)
    with pytest.warns(ConvergenceWarning, match="standardise the features"):
        ours = await LogisticRegression(cluster, max_iter=100).fit(x, y)
    assert ours.score(x, y) > 0.93


# Bad input, and settings.


async def test_what_cannot_be_fitted_is_refused(cluster):
    x, y, w = some()
    y, labels = y[:, 0], (y[:, 0] > 2).astype(int)
    hole = x.copy()
    hole[3, 2] = np.nan
    numbers, stored, negative = [
        await cluster.store(name, one) for name, one in (("numbers", x[:, :1]), ("labels", labels), ("w", w - 2.9))
    ]
    for model, data, error, match in [
        (LogisticRegression(cluster), (x, numbers), InputError, "no array of labels"),
        (LinearRegression(cluster), (x, stored), InputError, "store floats"),
        (LogisticRegression(cluster), (x, np.zeros(len(x), int)), InputError, "at least two classes"),
        (LogisticRegression(cluster), (x, y), InputError, "LinearRegression fits numbers"),
        (LogisticRegression(cluster), (x, labels[:10]), InputError, "60 of x, 10 of y"),
        (LinearRegression(cluster), (x, y, w[:10]), InputError, "60 of x, 60 of y, 10 of sample_weight"),
        (LogisticRegression(cluster), (x[:, 0], labels), InputError, "table"),
        (LogisticRegression(cluster), (hole, labels), InputError, r"NaN or infinite values in columns \[2\]"),
        (LinearRegression(cluster), (hole, y), InputError, r"NaN or infinite values in columns \[2\]"),
        (LinearRegression(cluster), (x, y, -w), InputError, "at least 0"),
        (LinearRegression(cluster), (x, y, w * 0), InputError, "none above 0"),
        (LinearRegression(cluster), (x, y, negative), InputError, "must be from 0 to 1"),
        (LogisticRegression(cluster), (x, labels, negative), InputError, "must be from 0 to 1"),
        (LinearRegression(cluster), (numbers, y, numbers), InputError, "must be from 0 to 1"),
        (LogisticRegression(cluster, class_weight={5: 1.0}), (x, labels), InputError, r"class_weight names \[5\]"),
        (LogisticRegression(cluster, class_weight={0: -1.0}), (x, labels), InputError, "at least 0"),
        (LogisticRegression(cluster, class_weight="balanced"), (x, stored, w), InputError, "multiply the weights before"),
        (LogisticRegression(cluster, C=0.0), (x, labels), InputError, "C=0.0"),
        (LogisticRegression(cluster, C=2.0, l2=0.1), (x, labels), InputError, "one of them"),
        (LogisticRegression(cluster, penalty="l1"), (x, labels), InputError, "penalty='l1'"),
        (LogisticRegression(cluster, tol=1e-9), (x, labels), InputError, "tol=1e-09"),
        (LogisticRegression(cluster, epochs=0), (x, labels), InputError, "epochs=0"),
        (LogisticRegression(cluster, max_iter=2.5), (x, labels), InputError, "max_iter=2.5"),
        (LogisticRegression(cluster, learning_rate="adaptive"), (x, labels), InputError, "a schedule has no use"),
        (LinearRegression(cluster, alpha=-1.0), (x, y), InputError, "alpha=-1.0"),
        (Ridge(cluster, alpha=[1.0]), (x, y), InputError, "the same for all targets"),
        (LinearRegression(), (x, y), InputError, "needs a cluster"),
    ]:
        with pytest.raises(error, match=match):
            await model.fit(*data)


def test_weights_that_vanish_beside_others_are_refused():
    weights = np.full(100_000, 7e-6)
    weights[0] = 1.0
    with pytest.raises(InputError, match="the small ones vanish"):
        storable(weights)
    assert storable(weights[:100]).max() == 1.0  # together they are nothing beside the first


@pytest.mark.parametrize("kind", [LogisticRegression, LinearRegression, Ridge])
def test_settings_as_scikit_learn_asks_for_them(kind):
    name = "C" if kind is LogisticRegression else "alpha"
    model = kind(**{name: 0.5})
    assert model.get_params()[name] == 0.5
    assert model.set_params(fit_intercept=False) is model
    assert kind(**model.get_params()).get_params() == model.get_params()
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert f"{name}=0.5" in repr(model)
    for unknown in ("solver", "n_jobs", "momentum", "positive"):
        with pytest.raises(TypeError, match=rf"no setting '{unknown}'; it has cluster, .*{name}"):
            kind(**{unknown: 1})
        with pytest.raises(ValueError, match=rf"no setting '{unknown}'; it has cluster, .*{name}"):
            model.set_params(**{unknown: 1})
    with pytest.raises(ProtocolError, match="not fitted"):
        model.predict([[1.0]])


async def test_a_fit_that_fails_leaves_what_was_fitted(cluster):
    x, y, _ = some()
    model = await LinearRegression(cluster).fit(x, y)
    before = model.coef_
    with pytest.raises(InputError):
        await model.fit(x, y[:4])
    assert model.coef_ is before
    for rows in (x[:, :2], x[0]):
        with pytest.raises(InputError, match="a table of 4 columns is needed"):
            model.predict(rows)
    with pytest.raises(ModelError, match="not fitted"):
        LinearRegression(cluster).score(x, y)


async def test_a_fit_that_loses_a_worker_says_so_and_leaves_nothing_there(monkeypatch):
    x, y, _ = some(t=1)
    ended, end = [], Running.end

    async def lost(self, *args, **settings):
        raise WorkerLost("greg went away\nwith a text of its own")

    async def noted(self):
        ended.append(self.terms.plan)
        await end(self)

    async with inner_workers() as (workers, cluster):
        models = [LinearRegression(cluster), LogisticRegression(cluster), GradientBoostingRegressor(cluster, n_estimators=1, max_depth=1)]
        with monkeypatch.context() as patch:
            patch.setattr(Running, "epoch", lost)
            patch.setattr(Running, "end", noted)
            for model in models:
                with pytest.raises(WorkerLost, match=r"^the fit stopped: greg went away; what was fitted before stays$"):
                    await model.fit(x, (y[:, 0] > 2).astype(int) if isinstance(model, LogisticRegression) else y[:, 0])
        assert [type(plan).__name__ for plan in ended] == ["Moments", "Logistic", "Boosting"]
        for server in (worker.actor("training") for worker in workers[:2]):
            assert [len(held) for held in (server._models, server._datasets, server._sessions)] == [0, 0, 0]


async def test_scores_are_those_of_scikit_learn(cluster):
    x, y, w = some()
    ours, theirs = await LinearRegression(cluster).fit(x, y), linear_model.LinearRegression().fit(x, y)
    assert ours.score(x, y, w) == pytest.approx(theirs.score(x, y, w), abs=1e-5)
    with pytest.raises(InputError, match="is needed"):
        ours.score(x, y[:, 0])
    with pytest.raises(InputError, match="3 weights for a score of 60 rows"):
        ours.score(x, y, w[:3])


@pytest.mark.long
async def test_three_equals():
    from protocols import Cluster, Worker

    x, y, w = some()
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(*(Worker("localhost:0") for _ in range(3))))
        theirs = linear_model.LinearRegression().fit(x, y, w)
        close(await LinearRegression(cluster).fit(x, y, w), theirs, 1e-4)
        shared = [await cluster.store(name, one) for name, one in (("x", x), ("y", y), ("w", w / 3))]
        close(await LinearRegression(cluster).fit(*shared), theirs)
        labels = (y[:, 0] > 2).astype(int)
        theirs = linear_model.LogisticRegression(C=0.05, tol=1e-8).fit(x, labels)
        close(await LogisticRegression(cluster, C=0.05, tol=1e-3).fit(x, labels), theirs, 0.03)


@pytest.mark.filterwarnings("ignore:a gradient of tol=0.05:protocols.PrecisionWarning")  # which is what is asked for
def test_with_a_blocking_cluster_fit_blocks():
    from protocols import keras_hook

    cluster = keras_hook.Cluster("localhost:0", "localhost:0", "localhost:0")
    cluster.start()
    x, y = two(*standard(SMALL))
    try:
        model = LogisticRegression(cluster, tol=0.05).fit(x, y)
        line = LinearRegression(cluster).fit(x, y)
    finally:
        cluster.stop()
    assert isinstance(model, LogisticRegression)
    assert model.score(x, y) > 0.95
    assert line.score(x, y) > 0.9
