"""Data of a fit of trees as they are stored: where examples are beside thresholds, labels or targets, weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError
from protocols.estimators import arrays
from protocols.estimators import data as forms
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data
from protocols.estimators.trees.bins import Bins, Quantiles
from protocols.mpc.numbers.fixed_point import encode
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import Loss
from protocols.training.regression import Moments
from protocols.training.regression.moments import Asked
from protocols.training.trees import Counts

SPREAD = 8
"""Targets that are here are stored within +-2^SPREAD."""

FAR = 4
"""Targets that others have stored, and what trees leave of them, lie within +-2^FAR."""

COMPARED = 1 << 18
"""Comparisons of features of a step, at most."""


@dataclass(frozen=True)
class Targets:
    """What is predicted, as it is stored.

    Attributes:
        center: of numbers; 0 for labels.
        factor: what is stored of a number is (y - center) * factor.
        reach: the largest that is stored, for numbers.
        classes: the labels; empty for numbers.
    """

    center: float
    factor: float
    reach: float
    classes: Array

    def real(self, stored: Array) -> Array:
        """Return numbers as the user has them."""
        found: Array = stored / self.factor + self.center if self.factor else np.full(len(stored), self.center)
        return found


class TreeData:
    """Data of a fit.

    Attributes:
        count: how many examples.
        bins: the splits.
        here: whether x is, and stored as bits; else thresholds are compared with what others have stored.
        columns: features.
        targets: see `Targets`.
        arrays: x, y, and weights if there are any.
        largest_weight: what a weight of 1 of the user is stored as.
        weights: those that are here, as the user has them, times those of classes; None if all are 1, or shared.
    """

    def __init__(self, run: Run, count: int, *, single: bool) -> None:
        self._run, self.count, self._single = run, count, single
        self.largest_weight = 1.0
        self.weights: Array | None = None
        self._checked = False
        self._stored: Array | None = None

    async def store(
        self, x: Data, y: Data, weights: Data | None, *, most: int, classes: Mapping[Any, float] | str | None, labels: bool, apart: bool
    ) -> None:
        """Check everything that is here, then store it.

        Args:
            x: features.
            y: labels or targets.
            weights: of the examples.
            most: bins of a feature.
            classes: weights of classes.
            labels: whether y is made of labels.
            apart: whether weights are not stored, because they are in something else.
        """
        self.weights = None if weights is None or isinstance(weights, SharedDataset) else arrays.own_weights(weights)
        numbers = self._read(y, labels=labels)
        if isinstance(weights, SharedDataset):
            forms.shared_weights(weights)
            self._checked = True
        if classes is not None:
            if not len(numbers) or self._checked:
                raise InputError("class_weight needs labels that are here, and weights that are not shared: use sample_weight")
            own = np.ones(self.count) if self.weights is None else self.weights
            by_class = forms.by_class(classes, self.targets.classes, np.bincount(numbers, own, len(self.targets.classes)))
            self.weights = own * by_class[numbers]
        column = None
        if self.weights is not None:
            self.largest_weight, column = 1 / float(self.weights.max()), forms.storable(self.weights)
        rows = None if isinstance(x, SharedDataset) else arrays.table("x", x)
        if isinstance(x, SharedDataset) and x.content != "numbers":
            raise InputError(f"{x.name!r} was stored as labels because it is one integer an example: features are stored as floats")
        self.here = rows is not None
        self.columns = x.shape[1] if isinstance(x, SharedDataset) else rows.shape[1] if rows is not None else 0
        if isinstance(y, SharedDataset):
            targets = y
        elif labels:
            targets = await self._run.store("labels", numbers, classes=len(self.targets.classes))
        else:
            targets = await self._run.store("targets", numbers.reshape(-1, 1))
        if isinstance(x, SharedDataset):
            features = x
            self.bins = await self._quantiles(x, targets, most)
        else:
            assert rows is not None
            self.bins = Bins.of(rows, most)
            features = await self._run.store("features", self.bins.bits(rows) * 2.0**-FRACTION)  # integers 0 and 1
        self.arrays: tuple[SharedDataset, ...] = (features, targets)
        if isinstance(weights, SharedDataset):
            self.arrays += (weights,)
        elif column is not None and not apart:
            self.arrays += (await self._run.store("weights", column),)

    def _read(self, y: Data, *, labels: bool) -> Array:
        """Return numbers of labels, or targets as they are stored; nothing if they are shared."""
        if labels:
            numbers, names = forms.labels(y)
            self.targets = Targets(0.0, 1.0, 1.0, names)
            if len(numbers):
                self._stored = np.eye(len(names))[numbers]
            return numbers
        none = np.zeros(0)
        if isinstance(y, SharedDataset):
            if y.content != "numbers" or y.shape[1] != 1:
                raise InputError(f"{y.name!r} has {y.shape[1]} {y.content} an example: one target an example is needed, stored as floats")
            self.targets = Targets(0.0, 1.0, 2.0**FAR, none)
            return none
        found = arrays.target(y)[:, 0]
        counts = np.ones(self.count, bool) if self.weights is None else self.weights > 0
        found = np.where(counts, found, found[counts][0])  # where the weight is 0, any target will do
        center = float(np.average(found, weights=self.weights))
        far = float(np.abs(found - center).max())
        factor = 2.0**SPREAD / far * (1 - 2.0**-20) if far > 1e-12 * np.abs(found).max() else 0.0
        self.targets = Targets(center, factor, 2.0**SPREAD, none)
        stored: Array = (found - center) * factor
        self._stored = stored.reshape(-1, 1)
        return stored

    @property
    def known(self) -> bool:
        """Whether labels or targets are here."""
        return self._stored is not None

    @property
    def loss(self) -> Loss:
        """Of what is predicted."""
        classes = len(self.targets.classes)
        return "mse" if not classes else "binary_crossentropy" if classes == 2 and self._single else "crossentropy"

    @property
    def outputs(self) -> int:
        """Columns of y as trees see it."""
        return len(self.targets.classes) if self.loss == "crossentropy" else 1

    def together(self, splits: int) -> int:
        """Return how many examples are compared with thresholds at a time: parts of about the same size."""
        parts = -(-self.count // max(1, COMPARED // splits))
        return -(-self.count // parts)

    async def _quantiles(self, x: SharedDataset, y: SharedDataset, most: int) -> Bins:
        """Return thresholds of features that others have stored."""
        search = Quantiles(x.shape[1], self.count, most)
        plan = Counts(x.shape[1], self.outputs, self.loss, search.features)
        while not search.done:
            probes = search.probes()
            thresholds = probes.reshape(1, -1).view(np.uint64)
            placed, batch = {"thresholds": thresholds}, self.together(len(search.features))
            counts = (await self._run.opened(plan, (x, y), placed, ("counts",), batch))["counts"]
            search.told(probes, counts.view(np.int64).reshape(probes.shape))
        return search.bins()

    async def means(self) -> tuple[float, Array]:
        """Return the sum of all weights as they are stored, and the weighted means of y as it is stored: opened where they are shared.

        Raises:
            InputError: there is nothing to fit.
        """
        if self._stored is not None and not self._checked:  # in the clear
            weights = np.ones(self.count) if self.weights is None else self.weights * self.largest_weight
            return float(weights.sum()), weights @ self._stored / weights.sum()
        asks: list[Asked] = ["targets"]
        weighted = len(self.arrays) > 2
        if weighted:
            asks.append("weight")
        outputs = self.arrays[1].shape[1]
        plan = Moments(self.arrays[0].shape[1], outputs, tuple(asks), 0, weighted, self._checked, labels=len(self.targets.classes) > 0)
        sums = await self._run.moments(plan, self.arrays, min(self.count, 4096))
        real = {name: found.view(np.int64).reshape(-1) / 2.0 ** plan.bits(name) for name, found in sums.items()}  # type: ignore[arg-type]
        total = float(real["weight"][0]) if weighted else float(self.count)
        if total <= 0:
            raise InputError("all weights of examples are 0: there is nothing to fit")
        return total, real["targets"] / total

    def thresholds(self) -> dict[str, Array]:
        """Return what is placed beside trees: thresholds as they are stored, if they are compared on shares."""
        return {} if self.here else {"thresholds": encode(self.bins.thresholds.reshape(1, -1), 2.0**-FRACTION)}
