"""Gradient-boosted trees: what scikit-learn's and XGBoost's settings mean on shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from protocols.estimators import data as forms
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data
from protocols.estimators.trees.ensemble import Ensemble, TreeClassifier, TreeRegressor
from protocols.estimators.trees.tree import Tree, by_tree
from protocols.estimators.trees.tree_data import TreeData
from protocols.mpc.numbers.fixed_point import encode
from protocols.training.trees import Boosting
from protocols.training.trees.units import VALUE

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

GROWTH = 4
"""What trees leave of targets that are here may grow to so many times the largest of them."""


class _Boosted(Ensemble):
    """What both share.

    Attributes:
        estimators_: trees by iteration; one, or one for each of several classes.
        init_: the score with which all examples begin, (1,) or (classes,).
        n_features_in_: columns of x.
    """

    learning_rate: float
    reg_lambda: float
    min_child_weight: float
    estimators_: list[list[Tree]]
    init_: Array

    def _check(self) -> None:
        super()._check()
        self._check_number("learning_rate", self.learning_rate, 0, 1, strict=True)
        self._check_number("reg_lambda", self.reg_lambda, 0, 1e6)
        self._check_number("min_child_weight", self.min_child_weight, 0, 1e6)

    async def _fit_trees(
        self, cluster: Cluster, x: Data, y: Data, weights: Data | None, *, labels: bool, classes: Mapping[Any, float] | str | None
    ) -> TreeData:
        count = forms.as_many(x, y, weights)
        async with Run(cluster, type(self).__name__) as run:
            examples = TreeData(run, count, single=True)
            await examples.store(x, y, weights, most=int(self.max_bins), classes=classes, labels=labels, apart=False)
            _, means = await examples.means()
            base = self._base(means, examples)
            plan = self._plan(examples, base)
            opened = await self._grown(run, plan, examples, {"base": encode(base.reshape(1, -1), 2.0**-VALUE)})
        leaves = opened["leaves"] * 2.0**-VALUE
        self.estimators_ = []
        for numbers, values in zip(opened["splits"], leaves, strict=True):
            rows = by_tree(numbers, plan.outputs, plan.depth)
            parts = values.reshape(plan.outputs, -1, 1)
            self.estimators_.append([Tree.of(one, part, examples.bins) for one, part in zip(rows, parts, strict=True)])
        self.init_, self.n_features_in_ = base, examples.columns
        return examples

    def _plan(self, examples: TreeData, base: Array) -> Boosting:
        reach = examples.targets.reach * (GROWTH if examples.loss == "mse" and examples.known else 1)
        return Boosting(
            inputs=examples.arrays[0].shape[1],
            outputs=examples.outputs,
            loss=examples.loss,
            examples=examples.count,
            splits=len(examples.bins.features),
            depth=int(self.max_depth),
            rounds=int(self.n_estimators),
            rate=float(self.learning_rate),
            penalty=float(self.reg_lambda) * examples.largest_weight,
            weight=float(self.min_child_weight) * examples.largest_weight,
            reach=reach,
            start=float(np.abs(base).max()),
            weighted=len(examples.arrays) > 2,
            features=() if examples.here else examples.bins.features,
        )

    @abstractmethod
    def _base(self, means: Array, examples: TreeData) -> Array:
        """Return the score with which examples begin, for the means of labels or targets as they are stored."""

    def _scores(self, x: npt.ArrayLike) -> Array:
        """Return scores of new rows, (n, outputs)."""
        rows = self._rows(x)
        scores = np.tile(self.init_, (len(rows), 1))
        for trees in self.estimators_:
            scores += np.concatenate([tree.predict(rows) for tree in trees], 1)
        return scores


class GradientBoostingClassifier(TreeClassifier, _Boosted):
    """Gradient boosting of trees for labels (Friedman, 2001), as XGBoost and `HistGradientBoostingClassifier` do it, on shares.

    With two classes one tree is grown in each iteration, with more one for each class, on gradients p - y and Hessians p (1 - p) of the
    cross-entropy. A node is split where the gain G_L^2 / (H_L + l) + G_R^2 / (H_R + l) - G^2 / (H + l) with l = `reg_lambda` is largest, if
    it is above 0. The part of the gain that differs between splits is compared; of those within 0.1 % of the largest the first counts, by
    column and threshold. A value of a leaf is at most 64 before the learning rate. But for that, trees are the same as in the clear.

    Thresholds are quantiles of each column. Of features that are here they are found here, and what is stored is where each example lies
    beside them, so that features may have any scale. Of features that others have stored they are found by counting on shares.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        n_estimators: iterations.
        learning_rate: above 0 and at most 1.
        max_depth: of all trees, 1 to 10; time and memory double with each.
        max_bins: of a column, 2 to 256.
        reg_lambda: the penalty on values of leaves, as in XGBoost; `l2_regularization` of scikit-learn.
        min_child_weight: the smallest sum of Hessians of a child, as in XGBoost.
        class_weight: label -> weight, 1 for those that are missing; or "balanced". Labels must be here.
        random_state: accepted for scikit-learn's sake; there is nothing random but the masks, which no seed may fix.

    Attributes:
        classes_: the labels in order; of labels that are shared 0, 1, ...
        estimators_, init_, n_features_in_: see `protocols.estimators.trees.tree.Tree` for trees.

    **Leaks** to this process the trees: the column and the threshold of each split, and values of leaves, which with few examples in a leaf
    tell much of them: set `min_child_weight`. Where labels were shared by others, how many examples each class has (or their weights);
    where features were, how many examples are below some 30 to 200 numbers of each column, from which quantiles are found. To the workers:
    shapes, settings, how many thresholds there are (of each column, if features were shared by others); no split, no gain, and not which
    examples are where.

    Example:
        >>> model = await GradientBoostingClassifier(cluster, n_estimators=20).fit(x, y)
        >>> model.score(x, y)
    """

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 3,
        max_bins: int = 32,
        reg_lambda: float = 1.0,
        min_child_weight: float = 1.0,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: Any = None,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.n_estimators, self.learning_rate, self.max_depth = cluster, n_estimators, learning_rate, max_depth
        self.max_bins, self.reg_lambda, self.min_child_weight = max_bins, reg_lambda, min_child_weight
        self.class_weight, self.random_state = class_weight, random_state

    def _base(self, means: Array, examples: TreeData) -> Array:
        part = np.clip(means, 0.5 / examples.count, 1 - 0.5 / examples.count)
        return np.array([np.log(part[1] / part[0])]) if examples.outputs == 1 else np.log(part) - np.log(part).mean()

    def decision_function(self, x: npt.ArrayLike) -> Array:
        """Return scores: (n,) of the second of two classes, else (n, classes)."""
        scores = self._scores(x)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, x: npt.ArrayLike) -> Array:
        """Return the probability of each class, (n, classes)."""
        scores = self._scores(x)
        if scores.shape[1] == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], 1)
        powers = np.exp(scores - scores.max(1, keepdims=True))
        found: Array = powers / powers.sum(1, keepdims=True)
        return found


class GradientBoostingRegressor(TreeRegressor, _Boosted):
    """Gradient boosting of trees for numbers: as `GradientBoostingClassifier`, with gradients F - y and Hessians 1 of the squared error.

    Targets that are here are centred and scaled before they are stored. Targets that others have stored, and what trees leave of them, must
    be within +-16, which is found out on shares: an error says so.

    Its settings are those of the classifier, but for one:

    Args:
        min_child_weight: the smallest sum of weights of a child: how many examples it has at least, if there are no weights.

    **Leaks** what the classifier leaks; where targets were shared by others, their mean.
    """

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 3,
        max_bins: int = 32,
        reg_lambda: float = 1.0,
        min_child_weight: float = 1.0,
        random_state: Any = None,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.n_estimators, self.learning_rate, self.max_depth = cluster, n_estimators, learning_rate, max_depth
        self.max_bins, self.reg_lambda, self.min_child_weight, self.random_state = max_bins, reg_lambda, min_child_weight, random_state

    def _base(self, means: Array, examples: TreeData) -> Array:
        return means

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the target of each row, (n,)."""
        scores = self._scores(x)[:, 0]
        return self._targets.real(scores)
