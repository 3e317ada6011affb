"""Logistic and linear regression on shares against scikit-learn's algorithms written out, on real digits; its interface; bad input."""

from pathlib import Path

import keras
import numpy as np
import pytest

from protocols import LinearRegression, LogisticRegression
from protocols.errors import Diverged, InputError, ModelError, ProtocolError

DIGITS = Path(__file__).parents[2] / "examples" / "mnist_10k.npz"
FAST = {"epochs": 150, "batch_size": 300, "learning_rate": 0.5}


@pytest.fixture(scope="module")
def digits():
    """Real images of 0, 1 and 2 as sixteen standardised patches, and what they show."""
    with np.load(DIGITS) as file:
        images, labels = file["x_train"][:2000].reshape(-1, 28, 28) / 255, file["y_train"][:2000].astype(int)
    kept = labels < 3
    patches = images[kept].reshape(-1, 4, 7, 4, 7).mean((2, 4)).reshape(-1, 16)
    return ((patches - patches.mean(0)) / patches.std(0))[:300], labels[kept][:300]


def newton(x, y, l2):
    """Logistic regression by Newton's method (iteratively reweighted least squares) in float64: (coef, intercept)."""
    rows = np.c_[x, np.ones(len(x))]
    penalty = np.r_[np.full(x.shape[1], l2), 0.0]
    w = np.zeros(rows.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-rows @ w))
        gradient = rows.T @ (p - y) / len(x) + penalty * w
        w -= np.linalg.solve(rows.T @ (rows * (p * (1 - p))[:, None]) / len(x) + np.diag(penalty), gradient)
    return w[:-1], w[-1]


async def test_two_classes_give_the_coefficients_of_newtons_method(cluster, digits):
    x, y = digits[0], np.where(digits[1] == 2, "two", "other")
    model = LogisticRegression(cluster, l2=0.1, **FAST)
    assert await model.fit(x, y) is model
    coef, intercept = newton(x, (y == "two").astype(float), 0.1)
    assert model.coef_.shape == (1, 16)
    np.testing.assert_allclose(model.coef_[0], coef, atol=0.02)
    np.testing.assert_allclose(model.intercept_, intercept, atol=0.02)
    assert list(model.classes_) == ["other", "two"]
    probabilities = model.predict_proba(x)
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-x @ coef - intercept)), atol=0.02)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert model.score(x, y) == np.mean(model.predict(x) == y) > 0.85
    assert len(model.history_) == 150


async def test_three_classes_from_stored_columns(cluster, digits):
    x, y = digits
    stored = await cluster.store("x", x), await cluster.store("y", y)
    model = await LogisticRegression(cluster, l2=0.1, **FAST).fit(*stored)
    assert model.coef_.shape == (3, 16)
    p = model.predict_proba(x)
    slope = p - np.eye(3)[y]
    np.testing.assert_allclose(slope.T @ x / len(x) + 0.1 * model.coef_, 0, atol=0.006)  # where the gradient is zero is the optimum
    np.testing.assert_allclose(slope.mean(0), 0, atol=0.006)
    assert model.score(x, y) > 0.9
    assert list(model.classes_) == [0, 1, 2]


@pytest.mark.parametrize("l2", [0.0, 0.5])
async def test_linear_regression_gives_the_coefficients_of_least_squares(cluster, digits, l2):
    x = digits[0][:, [0, 5, 6, 10]]
    y = digits[1] + 0.5 * x[:, 0]
    model = await LinearRegression(cluster, l2=l2, epochs=150, batch_size=300, learning_rate=0.1).fit(x, y)
    rows = np.c_[x, np.ones(len(x))]
    exact = np.linalg.solve(rows.T @ rows / len(x) + np.diag([l2 / 2] * 4 + [0]), rows.T @ y / len(x))
    np.testing.assert_allclose(model.coef_, exact[:-1], atol=0.02)
    assert model.intercept_ == pytest.approx(exact[-1], abs=0.02)
    predicted = rows @ exact
    assert model.score(x, y) == pytest.approx(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=0.01)


async def test_several_targets(cluster, digits):
    x = digits[0][:, [5, 6, 10]]
    y = x @ np.array([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]]) + [1.0, 2.0]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([100], [0.1, 0.05])
    model = await LinearRegression(cluster, epochs=150, batch_size=300, learning_rate=schedule).fit(x, y)
    np.testing.assert_allclose(model.predict(x), y, atol=0.1)
    assert model.coef_.shape == (2, 3)


async def test_a_rate_too_large_leaves_what_was_fitted(cluster, digits):
    x, y = digits[0], digits[0] @ np.ones(16) * 3
    model = await LinearRegression(cluster, epochs=1, learning_rate=0.001).fit(x, y)
    before = model.coef_
    with pytest.raises(Diverged, match="smaller learning rate"):
        await model.set_params(learning_rate=20.0, epochs=3, batch_size=10).fit(x, y)
    assert model.coef_ is before


async def test_what_cannot_be_fitted_is_refused(cluster, digits):
    x, y = digits
    columns = await cluster.store("numbers", x[:, :1]), await cluster.store("labels", y)
    for model, data, error, match in [
        (LogisticRegression(cluster), (x, columns[0]), InputError, "no array of labels"),
        (LinearRegression(cluster), (x, columns[1]), InputError, "store floats"),
        (LogisticRegression(cluster), (x, np.zeros(len(x), int)), InputError, "at least two classes"),
        (LogisticRegression(cluster), (x, y[:10]), InputError, "must be as many"),
        (LogisticRegression(cluster), (x[:, 0], y), InputError, "table"),
        (LogisticRegression(cluster, learning_rate=1e-9), (x, y), ModelError, "vanishes"),
        (LogisticRegression(cluster, epochs=0), (x, y), InputError, "epochs=0"),
        (LinearRegression(cluster, l2=-1.0), (x, y), InputError, "l2=-1.0"),
        (LinearRegression(), (x, y), InputError, "needs a cluster"),
    ]:
        with pytest.raises(error, match=match):
            await model.fit(*data)


def test_settings_as_scikit_learn_asks_for_them():
    model = LogisticRegression(epochs=3, l2=0.5)
    assert model.get_params()["epochs"] == 3
    assert model.set_params(epochs=4) is model
    assert LogisticRegression(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(ValueError, match="no setting 'C'"):
        model.set_params(C=1.0)
    with pytest.raises(ProtocolError, match="not fitted"):
        model.predict([[1.0]])
    sklearn = pytest.importorskip("sklearn.base")
    copy = sklearn.clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()


def test_with_a_blocking_cluster_fit_blocks(digits):
    from protocols import keras_hook

    cluster = keras_hook.Cluster("localhost:0", "localhost:0", "localhost:0")
    cluster.start()
    try:
        model = LogisticRegression(cluster, epochs=5, batch_size=100).fit(*digits)
    finally:
        cluster.stop()
    assert isinstance(model, LogisticRegression)
    assert model.score(*digits) > 0.8
