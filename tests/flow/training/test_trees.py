"""Trees at workers: the same as in the clear, on arrays and on what others have stored, of two kinds of cluster; nothing stays."""

import numpy as np
import pytest
from sklearn import datasets
from sklearn.base import clone

from protocols import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
from protocols.errors import ModelError
from protocols.estimators.trees.bins import Bins


def some(n=120):
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return x[:n, :4], y[:n]


async def test_boosted_trees(cluster):
    x, y = some()
    settings = {"n_estimators": 2, "max_depth": 2, "max_bins": 8, "learning_rate": 0.5}
    ours = await GradientBoostingClassifier(cluster, **settings).fit(x, np.array(["ill", "well"])[y])
    again = await clone(ours).fit(x, np.array(["ill", "well"])[y])
    assert [trees[0].feature.tolist() for trees in ours.estimators_] == [trees[0].feature.tolist() for trees in again.estimators_]
    assert ours.classes_.tolist() == ["ill", "well"]
    assert ours.score(x, np.array(["ill", "well"])[y]) > 0.9
    bins = Bins.of(x, 8)
    for trees in ours.estimators_:  # each split is one of those that were offered
        assert {*zip(trees[0].feature.tolist(), trees[0].threshold.tolist(), strict=True)} <= {
            *zip(bins.features, bins.thresholds.tolist(), strict=True)
        }


async def test_columns_and_labels_that_others_have_stored(cluster):
    x, y = some()
    x = (x - x.mean(0)) / x.std(0)
    stored = await cluster.store("x", x), await cluster.store("y", y)
    ours = await GradientBoostingClassifier(cluster, n_estimators=2, max_depth=2, max_bins=4).fit(*stored)
    here = await GradientBoostingClassifier(cluster, n_estimators=2, max_depth=2, max_bins=4).fit(x, y)
    assert abs(ours.score(x, y) - here.score(x, y)) < 0.05
    forest = await RandomForestClassifier(cluster, n_estimators=2, max_depth=2, max_bins=4, random_state=0).fit(*stored)
    assert forest.score(x, y) > 0.8


async def test_numbers(cluster):
    x, y = datasets.load_diabetes(return_X_y=True)
    ours = await GradientBoostingRegressor(cluster, n_estimators=2, max_depth=1, max_bins=4, learning_rate=1.0).fit(x, y)
    assert ours.score(x, y) > 0.3


def test_what_is_not_fitted_predicts_nothing():
    with pytest.raises(ModelError, match="not fitted yet"):
        GradientBoostingClassifier().predict([[1.0]])
