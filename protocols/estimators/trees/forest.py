"""Random forests: what scikit-learn's settings mean on shares, and what is drawn for each tree."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError
from protocols.estimators import data as forms
from protocols.estimators.data import is_number
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data
from protocols.estimators.trees.ensemble import Ensemble, TreeClassifier, TreeRegressor
from protocols.estimators.trees.tree import Tree
from protocols.estimators.trees.tree_data import TreeData
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KEY_BYTES, KeyStream, fresh_key
from protocols.training.networks.functions import FRACTION
from protocols.training.trees import Forest
from protocols.training.trees.units import VALUE

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster


class _Forest(Ensemble):
    """What both share.

    Attributes:
        estimators_: the trees.
        n_features_in_: columns of x.
    """

    min_samples_leaf: int
    max_features: int | float | str | None
    bootstrap: bool
    estimators_: list[Tree]

    def _check(self) -> None:
        super()._check()
        self._check_count("min_samples_leaf", self.min_samples_leaf, 1, 1 << 20)
        if not isinstance(self.bootstrap, bool | np.bool_):
            raise InputError(f"bootstrap={self.bootstrap!r}; True or False is needed")
        if self.random_state is not None and (not isinstance(self.random_state, int | np.integer) or isinstance(self.random_state, bool)):
            raise InputError(f"random_state={self.random_state!r}; a whole number, or None for fresh randomness, is needed")
        if not (self.max_features in ("sqrt", "log2", None) or (is_number(self.max_features) and not isinstance(self.max_features, str))):
            raise InputError(f"max_features={self.max_features!r}; 'sqrt', 'log2', None, a number of columns or a part of them is needed")

    def _chosen(self, columns: int) -> int:
        """Return of how many columns a node looks for its split."""
        wanted = self.max_features
        if wanted == "sqrt":
            return max(1, int(math.sqrt(columns)))
        if wanted == "log2":
            return max(1, int(math.log2(columns)))
        if wanted is None:
            return columns
        assert not isinstance(wanted, str)  # `_check` has looked
        found = int(wanted) if isinstance(wanted, int | np.integer) else max(1, int(wanted * columns)) if 0 < wanted <= 1 else 0
        if not 1 <= found <= columns:
            raise InputError(f"max_features={wanted!r}; from 1 to {columns} columns, or a part above 0.0 and up to 1.0, are possible")
        return found

    async def _fit_trees(
        self, cluster: Cluster, x: Data, y: Data, weights: Data | None, *, labels: bool, classes: Mapping[Any, float] | str | None
    ) -> TreeData:
        count = forms.as_many(x, y, weights)
        if isinstance(weights, SharedDataset):
            raise InputError("a forest needs weights that are here: they are multiplied by how often examples are drawn")
        async with Run(cluster, type(self).__name__) as run:
            examples = TreeData(run, count, single=False)
            await examples.store(x, y, weights, most=int(self.max_bins), classes=classes, labels=labels, apart=True)
            chosen = self._chosen(examples.columns)
            plan = Forest(
                inputs=examples.arrays[0].shape[1],
                outputs=examples.outputs,
                examples=count,
                splits=len(examples.bins.features),
                depth=int(self.max_depth),
                rounds=int(self.n_estimators),
                weight=float(self.min_samples_leaf) * examples.largest_weight,
                reach=examples.targets.reach,
                labels=labels,
                features=examples.bins.features if chosen < examples.columns or not examples.here else (),
                columns=examples.columns if chosen < examples.columns else 0,
                compared=not examples.here,
            )
            opened = await self._grown(run, plan, examples, self._drawn(plan, chosen, examples))
        values = opened["leaves"].reshape(plan.rounds, -1, plan.outputs) * 2.0**-VALUE
        self.estimators_ = [Tree.of(row, value, examples.bins) for row, value in zip(opened["splits"], values, strict=True)]
        self.n_features_in_ = examples.columns
        return examples

    def _drawn(self, plan: Forest, chosen: int, examples: TreeData) -> dict[str, Ring]:
        """Draw for each tree how often each example counts, and for each node which columns it may be split by."""
        key = fresh_key() if self.random_state is None else hashlib.sha256(f"forest {int(self.random_state)}".encode()).digest()[:KEY_BYTES]
        stream = KeyStream(key)
        draws = np.ones((plan.rounds, plan.examples))
        if self.bootstrap:
            rows = stream.words((plan.rounds, plan.examples)) % np.uint64(plan.examples)
            draws = np.stack([np.bincount(row.astype(np.int64), minlength=plan.examples) for row in rows]).astype(np.float64)
        if examples.weights is not None:
            draws *= forms.storable(examples.weights).reshape(-1)
        if draws.sum(1).min() < plan.weight:
            raise InputError(
                f"min_samples_leaf={self.min_samples_leaf}, and a tree has examples of a weight of"
                f" {draws.sum(1).min() / examples.largest_weight:g} only: use a smaller one"
            )
        placed = {"draws": encode(draws, 2.0**-FRACTION)}
        if plan.columns:
            nodes = plan.rounds * ((1 << plan.depth) - 1)
            ranks = stream.words((nodes, plan.columns)).argsort(1).argsort(1)
            placed["allowed"] = (ranks < chosen).astype(np.uint64).reshape(plan.rounds, -1)
        return placed

    def _mean(self, x: npt.ArrayLike) -> Array:
        """Return the mean of the values of leaves of new rows, (n, outputs)."""
        rows = self._rows(x)
        found: Array = np.mean([tree.predict(rows) for tree in self.estimators_], 0)
        return found


class RandomForestClassifier(TreeClassifier, _Forest):
    """A random forest for labels (Breiman, 2001) with Gini's impurity, on shares.

    Each tree is grown on as many examples as there are, drawn with replacement; each node is split by the best of `max_features` columns.
    What was drawn is a secret of this process. Splits are chosen as by `GradientBoostingClassifier`, with thresholds as there. Unlike
    scikit-learn's, trees are at most `max_depth` deep, whatever is left in a leaf.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        n_estimators: trees.
        max_depth: of all trees, 1 to 10; time and memory double with each.
        max_bins: of a column, 2 to 256.
        max_features: columns that a node looks at: "sqrt", "log2", None for all, how many, or what part of them.
        min_samples_leaf: how many drawn examples a child has at least, by weight.
        bootstrap: whether examples are drawn; else each tree has all of them.
        class_weight: label -> weight, 1 for those that are missing; or "balanced". Labels must be here.
        random_state: of the draws; None: fresh ones.

    Attributes:
        classes_: the labels in order; of labels that are shared 0, 1, ...
        estimators_: see `protocols.estimators.trees.tree.Tree`.
        n_features_in_: columns of x.

    **Leaks** to this process the trees, with the parts of classes in each leaf: with `min_samples_leaf=1`, single examples; where features
    were shared by others, what `GradientBoostingClassifier` tells of their quantiles. To the workers: shapes, settings, how many thresholds
    each column has; not which examples were drawn, or which columns a node looks at.

    Example:
        >>> model = await RandomForestClassifier(cluster, n_estimators=20, random_state=0).fit(x, y)
    """

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        n_estimators: int = 100,
        max_depth: int = 5,
        max_bins: int = 32,
        max_features: int | float | str | None = "sqrt",
        min_samples_leaf: int = 1,
        bootstrap: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: int | None = None,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.n_estimators, self.max_depth, self.max_bins = cluster, n_estimators, max_depth, max_bins
        self.max_features, self.min_samples_leaf, self.bootstrap = max_features, min_samples_leaf, bootstrap
        self.class_weight, self.random_state = class_weight, random_state

    def predict_proba(self, x: npt.ArrayLike) -> Array:
        """Return the mean over trees of the parts of classes in leaves, (n, classes)."""
        parts = np.clip(self._mean(x), 0.0, 1.0)
        total = parts.sum(1, keepdims=True)
        found: Array = np.where(total > 0, parts / np.where(total > 0, total, 1.0), 1 / len(self.classes_))
        return found


class RandomForestRegressor(TreeRegressor, _Forest):
    """A random forest for numbers with the squared error, on shares: otherwise as `RandomForestClassifier`, and **leaks** the same.

    Targets that others have stored must be within +-16, which is found out on shares: an error says so.

    Its settings are those of the classifier, but for one:

    Args:
        max_features: as for the classifier; all columns unless it is given, as in scikit-learn.
    """

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        n_estimators: int = 100,
        max_depth: int = 5,
        max_bins: int = 32,
        max_features: int | float | str | None = 1.0,
        min_samples_leaf: int = 1,
        bootstrap: bool = True,
        random_state: int | None = None,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.n_estimators, self.max_depth, self.max_bins = cluster, n_estimators, max_depth, max_bins
        self.max_features, self.min_samples_leaf, self.bootstrap = max_features, min_samples_leaf, bootstrap
        self.random_state = random_state

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the target of each row, (n,)."""
        means = self._mean(x)[:, 0]
        return self._targets.real(means * self._targets.reach)
