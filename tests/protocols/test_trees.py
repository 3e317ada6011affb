"""Trees in the simulator: the same splits as in plain numpy, accuracy beside scikit-learn, on its data sets, raw and scaled, of others too."""

import numpy as np
import pytest
import tree_oracle
from simulated_run import SimulatedRun, stored
from sklearn import datasets, ensemble

from protocols import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from protocols.errors import InputError
from protocols.estimators.trees import boosting, forest
from protocols.estimators.trees.bins import Bins, Quantiles
from protocols.training.trees import Boosting


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(boosting, "Run", SimulatedRun)
    monkeypatch.setattr(forest, "Run", SimulatedRun)


def cancer():
    return datasets.load_breast_cancer(return_X_y=True)


def some_digits(n=400):
    x, y = datasets.load_digits(return_X_y=True)
    return x[:n], y[:n]


def spread(tree, bins):
    """The numbers of its splits, as the oracle has them."""
    known = {(feature, threshold): 1 + at for at, (feature, threshold) in enumerate(zip(bins.features, bins.thresholds.tolist(), strict=True))}
    return [known.get((feature, threshold), 0) for feature, threshold in zip(tree.feature.tolist(), tree.threshold.tolist(), strict=True)]


def compared(ours, x, y, w=None, bins=None, **settings):
    """Boosted trees beside those of the oracle: every split, every leaf."""
    bins = Bins.of(x, ours.max_bins) if bins is None else bins
    terms = {"rate": ours.learning_rate, "penalty": ours.reg_lambda, "weight": ours.min_child_weight} | settings
    loss = terms.pop("loss", "crossentropy")
    splits, leaves, scores = tree_oracle.boost(
        bins.bits(x).astype(float), y, loss, ours.n_estimators, ours.max_depth, base=ours.init_, w=w, **terms
    )
    for trees, expected, values in zip(ours.estimators_, splits, leaves, strict=True):
        for tree, one, value in zip(trees, expected, values, strict=True):
            assert spread(tree, bins) == one.tolist()
            np.testing.assert_allclose(tree.value[:, 0], value, atol=2e-5 * max(1, np.abs(value).max()))
    return scores


async def test_breast_cancer_has_the_splits_of_the_clear_and_the_accuracy_of_scikit_learn():
    x, y = cancer()
    ours = await GradientBoostingClassifier(object(), n_estimators=8, learning_rate=0.3, max_bins=16).fit(x, y)
    scores = compared(ours, x, y[:, None] * 1.0)
    np.testing.assert_allclose(ours.decision_function(x), scores[:, 0], atol=1e-4)
    theirs = ensemble.HistGradientBoostingClassifier(max_iter=8, learning_rate=0.3, max_depth=3, max_bins=16, l2_regularization=1.0).fit(x, y)
    assert abs(ours.score(x, y) - theirs.score(x, y)) < 0.012
    assert ours.score(x, y) > 0.98
