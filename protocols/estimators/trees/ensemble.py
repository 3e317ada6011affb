"""What all estimators of trees share: settings that are checked, one fit, and what comes of labels or of numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from protocols.errors import Diverged, InputError, TooLarge
from protocols.estimators.data import is_number
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Classifier, Data, Estimator, Regressor
from protocols.estimators.trees.tree_data import FAR, Targets, TreeData
from protocols.mpc.parties.exchange import Ring
from protocols.owner.fitting import MEMORY
from protocols.training.circuits import MEMORY_LIMIT
from protocols.training.trees import Boosting, Forest

if TYPE_CHECKING:
    from protocols.owner.cluster import Cluster

DEEPEST, FINEST, MOST = 10, 256, 10_000
"""The largest depth, number of bins, and number of trees."""


class Ensemble(Estimator):
    """Trees, and how one comes to them."""

    n_estimators: int
    max_depth: int
    max_bins: int
    random_state: Any

    def _check(self) -> None:
        self._check_count("n_estimators", self.n_estimators, 1, MOST)
        self._check_count("max_depth", self.max_depth, 1, DEEPEST)
        self._check_count("max_bins", self.max_bins, 2, FINEST)

    def _check_count(self, name: str, value: Any, least: int, most: int) -> None:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
            why = ": all trees have one depth on shares" if name == "max_depth" else ""
            raise InputError(f"{name}={value!r}; a whole number from {least} to {most:,} is needed{why}")

    def _check_number(self, name: str, value: Any, least: float, most: float, *, strict: bool = False) -> None:
        if not is_number(value) or not least <= value <= most or (strict and value == least) or math.isinf(value):
            bounds = f"{'above' if strict else 'of at least'} {least:g} and at most {most:g}"
            raise InputError(f"{name}={value!r}; a number {bounds} is needed")

    @abstractmethod
    async def _fit_trees(
        self, cluster: Cluster, x: Data, y: Data, weights: Data | None, *, labels: bool, classes: Mapping[Any, float] | str | None
    ) -> TreeData:
        """Fit to labels with weights of `classes`, or to numbers, as `fit` takes them; return what is known of the examples."""

    async def _grown(self, run: Run, plan: Boosting | Forest, examples: TreeData, placed: dict[str, Ring]) -> dict[str, Array]:
        """Grow trees, and return what was opened as signed integers.

        Raises:
            TooLarge: a step does not fit the memory of a server.
            InputError: targets that others have stored are too large.
        """
        need = plan.circuit(plan.examples).layout.bytes_per_example
        if need > MEMORY_LIMIT:
            raise TooLarge(
                f"a tree of depth {plan.depth} on {plan.examples:,} examples and {plan.splits:,} splits needs {need >> 20:,} MiB of"
                f" randomness at a server, {MEMORY_LIMIT >> 20:,} are possible: use a smaller max_depth or max_bins"
            )
        together = None if examples.here else examples.together(plan.splits)
        try:
            opened = await run.grown(plan, examples.arrays, placed | examples.thresholds(), together, max(MEMORY, need))
        except Diverged:
            raise InputError(
                f"a target, or what trees have left of one, is beyond +-{2**FAR}: have its owner scale targets to about 1 before they are"
                " stored, or use a smaller learning_rate"
            ) from None
        return {name: found.view(np.int64) for name, found in opened.items()}


class TreeClassifier(Classifier, Ensemble):
    """Trees for labels."""

    def _check(self) -> None:
        super()._check()
        self._check_classes()

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        examples = await self._fit_trees(cluster, x, y, sample_weight, labels=True, classes=self.class_weight)
        self.classes_ = examples.targets.classes
        return self


class TreeRegressor(Regressor, Ensemble):
    """Trees for numbers."""

    _targets: Targets

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        examples = await self._fit_trees(cluster, x, y, sample_weight, labels=False, classes=None)
        self._targets = examples.targets
        return self
