"""Owners that train with scikit-learn, beside scikit-learn's own training."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from federated import DataError, FedAvg, Federation, SecureAggregation, SettingError, partition, simulated_owners
from federated.trainers.scikit import ScikitTrainer

CANCER, IRIS, DIABETES = (
    (StandardScaler().fit_transform(x), y) for x, y in (f(return_X_y=True) for f in (load_breast_cancer, load_iris, load_diabetes))
)
MODELS = {
    "binary": (SGDClassifier(loss="log_loss", random_state=1), CANCER, [0, 1]),
    "classes": (SGDClassifier(alpha=0.01, learning_rate="invscaling", eta0=0.1, random_state=1), IRIS, [2, 1, 0]),
    "regression": (SGDRegressor(random_state=1), (DIABETES[0], (DIABETES[1] - 152) / 77), None),
    "layers": (MLPClassifier((8,), random_state=1), IRIS, [0, 1, 2]),
    "two classes": (MLPClassifier((5, 4), solver="sgd", random_state=1), CANCER, [0, 1]),
    "layers of numbers": (MLPRegressor(hidden_layer_sizes=(6,), random_state=1), (DIABETES[0], (DIABETES[1] - 152) / 77), None),
}


async def trained(trainer, parts, rounds, **settings):
    owners = simulated_owners(parts, trainer=trainer, evaluation=settings.pop("evaluation", None))
    async with Federation(**{"model": trainer.weights(), "owners": owners, "progress": False} | settings) as one:
        outcomes = [outcome async for outcome in one.rounds(rounds)]
        assert [outcome.failure for outcome in outcomes] == [None] * rounds
        return one.weights, outcomes


@pytest.mark.parametrize("name", MODELS)
async def test_one_owner_trains_as_partial_fit(name, monkeypatch):
    estimator, (x, y), classes = MODELS[name]
    trainer = ScikitTrainer(estimator, features=x.shape[1], classes=classes)
    orders = []
    given = ScikitTrainer.learn
    monkeypatch.setattr(ScikitTrainer, "learn", lambda self, one, x, y: (orders.append((x, y)), given(self, one, x, y))[1])
    weights, _ = await trained(trainer, [(x, y)], 3, strategy=FedAvg(batch_size=16, local_epochs=2))
    assert len(orders) == 6
    assert all(sorted(map(tuple, one)) == sorted(map(tuple, x)) for one, _ in orders)
    assert not np.array_equal(orders[0][0], orders[1][0])

    beside = type(estimator)(**estimator.get_params()).set_params(shuffle=False)
    layered = name in ("layers", "two classes", "layers of numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if layered:
            beside.set_params(batch_size=16)
        for number, (a, b) in enumerate(orders):
            if layered and number % 2 == 0 and number:
                del beside._optimizer  # a round begins with a new one
            beside.partial_fit(a, b, **({} if classes is None else {"classes": np.unique(classes)}))
    expected = [*beside.coefs_, *beside.intercepts_] if layered else [beside.coef_, beside.intercept_]
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(trainer.fitted(weights).predict(x), beside.predict(x), rtol=1e-6, atol=1e-9)


async def test_owners_with_hidden_sums_learn_what_all_data_together_would():
    x, y = CANCER
    trainer = ScikitTrainer(SGDClassifier(loss="log_loss", alpha=1e-3, random_state=0), features=30, classes=[0, 1])
    parts = partition(x, y, owners=5, seed=1)
    weights, outcomes = await trained(trainer, parts, 4, aggregation=SecureAggregation(clip=100.0), evaluation=parts)
    score = trainer.fitted(weights).score(x, y)
    assert score > 0.97
    assert outcomes[3].metrics["val_accuracy"] == pytest.approx(score, abs=1e-3)
    assert outcomes[3].metrics["accuracy"] > 0.95


def test_initial_weights_are_those_of_the_estimator():
    trainer = ScikitTrainer(SGDClassifier(random_state=1), features=4, classes=[3, 4, 5])
    assert [(one.shape, float(abs(one).max())) for one in trainer.weights()] == [((3, 4), 0.0), ((3,), 0.0)]
    first, again = (ScikitTrainer(MLPClassifier((3,), random_state=2), features=4, classes=[0, 1]).weights() for _ in range(2))
    assert [one.shape for one in first] == [(4, 3), (3, 1), (3,), (1,)]
    assert all(np.array_equal(a, b) and a.any() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("estimator", "classes", "message"),
    [
        (LogisticRegression(), [0, 1], "LogisticRegression is not trained in rounds"),
        (SGDClassifier(average=True), [0, 1], "average=True"),
        (SGDClassifier(early_stopping=True), [0, 1], "early_stopping=True"),
        (SGDClassifier(class_weight="balanced"), [0, 1], "class_weight='balanced'"),
        (MLPClassifier(solver="lbfgs"), [0, 1], "solver='lbfgs'"),
        (SGDClassifier(learning_rate="adaptive", eta0=0.1), [0, 1], "learning_rate='adaptive'"),
        (SGDClassifier(), None, "a classifier needs all labels"),
        (SGDClassifier(), [1], "a classifier needs all labels"),
        (SGDRegressor(), [0, 1], "a regressor none"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_not_trained_so_is_refused(estimator, classes, message):
    with pytest.raises(SettingError, match=message):
        ScikitTrainer(estimator, features=4, classes=classes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 4)), "no pair"),
        ((np.zeros((3, 5)), np.zeros(3)), r"\(n, 4\) and \(n,\) are expected"),
        ((np.zeros((3, 4)), np.zeros((3, 1))), "are expected"),
        ((np.full((3, 4), np.nan), np.zeros(3)), "not finite"),
        ((np.zeros((3, 4)), np.array([0, 1, 7])), "none of the 2 classes"),
        ((np.zeros((0, 4)), np.zeros(0)), "are expected"),
    ],
    ids=["no pair", "features", "labels", "NaN", "label", "empty"],
)
def test_data_that_do_not_fit_are_refused_without_a_value(data, message):
    with pytest.raises(DataError, match=message) as refused:
        ScikitTrainer(SGDClassifier(), features=4, classes=[0, 1])(data)
    assert "7" not in str(refused.value)


def test_weights_that_do_not_fit():
    with pytest.raises(SettingError, match="not those of this estimator"):
        ScikitTrainer(SGDRegressor(), features=4).fitted([np.zeros(3), np.zeros(1)])
