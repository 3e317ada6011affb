"""Data of a logistic regression: how features, labels and weights are stored, and what its steps follow from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError
from protocols.estimators import arrays
from protocols.estimators import data as forms
from protocols.estimators.data import Scaling
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data
from protocols.mpc.parties.exchange import Ring
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import Moments
from protocols.training.regression.moments import Asked

HARDEST = 2.0**23
"""The largest strength of the penalty beside the sum of losses, of columns as they are stored, for which they are made larger."""

REACH = 8
"""Features that are here are stored below 2^REACH where fixed point allows 2^9."""


@dataclass(frozen=True)
class DataSettings:
    """What of the settings of a fit the data depend on.

    Attributes:
        fit_intercept: whether there is an intercept.
        class_weight: as for `LogisticRegression`.
        finds_step: whether the step follows from the data.
        strength: of the penalty beside the sum of losses, by the sum of weights.
    """

    fit_intercept: bool
    class_weight: Mapping[Any, float] | str | None
    finds_step: bool
    strength: Callable[[float], float]


@dataclass(frozen=True)
class Facts:
    """What a step follows from.

    Attributes:
        total: the sum of the weights of all examples, as the user has them.
        columns: with `intercept` a bound of the weighted mean M of (x, 1)^T (x, 1): M is at most the diagonal matrix of both.
        intercept: see `columns`.
    """

    total: float
    columns: float
    intercept: float


class LogisticData:
    """Data of a fit as they are stored.

    Attributes:
        examples: how many.
        x: how the features are stored: if they are here they are centred, for an intercept, and scaled by powers of two.
        labels: of the user.
        arrays: x, y, and weights if there are any.
        classes: weights of classes that servers multiply by, over the largest; of labels that are shared.
        largest_weight: what a weight of 1 of the user is stored as.
    """

    def __init__(self, model: DataSettings, run: Run, examples: int) -> None:
        self._model, self._run, self.examples = model, run, examples
        self.classes: tuple[float, ...] = ()
        self.largest_weight, self._checked = 1.0, False
        self._here: Array | None = None
        self._weights: Array | None = None

    async def store(self, x: Data, y: Data, weights: Data | None) -> None:
        """Check everything that is here, then store it."""
        own = None if weights is None or isinstance(weights, SharedDataset) else arrays.own_weights(weights)
        numbers, self.labels = forms.labels(y)
        if isinstance(weights, SharedDataset):
            forms.shared_weights(weights)
            self._checked = True
        if self._model.class_weight is not None:
            own = self._with_classes(numbers, own, weights)
        self._weights = own
        column = None
        if own is not None:
            self.largest_weight = 1 / own.max()
            column = forms.storable(own)
        if isinstance(x, SharedDataset):
            self.x, features = Scaling.none(x.shape[1]), x
        else:
            self.x, self._here = self._scaled(arrays.table("x", x))
            features = await self._run.store("features", self._here)
        targets = y if isinstance(y, SharedDataset) else await self._run.store("labels", numbers, classes=len(self.labels))
        if isinstance(weights, SharedDataset):
            self.arrays: tuple[SharedDataset, ...] = (features, targets, weights)
        elif column is not None:
            self.arrays = (features, targets, await self._run.store("weights", column))
        else:
            self.arrays = (features, targets)

    def _scaled(self, rows: Array) -> tuple[Scaling, Array]:
        """Return how features that are here are stored, and what is: 0 where the weight of an example is.

        Their weighted mean is subtracted, which an intercept takes back, since it has no penalty; each column is multiplied by a power of
        two after which it spreads over about 1, and its penalty by the square of that.
        """
        weights = np.ones(len(rows)) if self._weights is None else self._weights
        counts = weights > 0
        some = rows[counts]
        center = np.average(some, 0, weights[counts]) if self._model.fit_intercept else np.zeros(rows.shape[1])
        reach = np.abs(some - center).max(0)
        reach[reach <= 1e-12 * np.abs(some).max(0)] = 0.0  # a constant column, but for how its mean is rounded
        spread = np.sqrt(np.mean((some - center) ** 2, 0))
        power = np.trunc(-np.log2(np.where(reach > 0, spread, 1.0)))
        power = np.minimum(power, np.floor(REACH - np.log2(np.where(reach > 0, reach, 1.0))))
        strength = self._model.strength(float(weights.sum()))  # the penalty beside the sum of losses
        if strength > 0:
            power = np.minimum(power, max(0.0, math.floor(math.log2(HARDEST / strength) / 2)))
        scale = Scaling(center, np.where(reach > 0, 2.0**power, 1.0))
        stored = np.zeros(rows.shape)
        stored[counts] = np.where(reach > 0, scale.stored(some), 0.0)
        return scale, stored

    def alike(self) -> list[tuple[float, tuple[int, ...]]]:
        """Return columns by what they are multiplied with."""
        factors = self.x.factor.tolist()
        return [(factor, tuple(place for place, one in enumerate(factors) if one == factor)) for factor in sorted(set(factors))]

    def least_curvature(self, coef: Array, intercept: Array, penalties: Array) -> float | None:
        """Return the smallest eigenvalue of the Hessian at a fit, over classes by themselves; of the penalty alone where x is not here.

        Args:
            coef: (classes, columns), of columns as they are stored; one row for two classes.
            intercept: (classes,).
            penalties: (columns,), of columns as they are stored, beside the mean of losses.

        Returns:
            None if nothing is known: x was shared by others, and there is no penalty; or no column of x varies.
        """
        if self._here is None:
            return float(penalties.min()) or None
        moving = self._here.any(0)
        if not moving.any():  # coefficients are 0, and right
            return None
        rows, weights = self._here[:, moving], np.ones(self.examples) if self._weights is None else self._weights
        logits = self._here @ coef.T + intercept
        shifted = np.c_[np.zeros(len(rows)), logits] if len(coef) == 1 else logits
        chances = np.exp(shifted - shifted.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        steep = (chances * (1 - chances) * weights[:, None] / weights.sum()).T[-len(coef) :]
        found = [float(np.linalg.eigvalsh(rows.T @ (rows * one[:, None]) + np.diag(penalties[moving]))[0]) for one in steep]
        return max(min(found), float(np.finfo(np.float64).tiny))

    def _with_classes(self, numbers: Array, own: Array | None, weights: Data | None) -> Array | None:
        """Multiply weights of examples by those of their classes, if both are here; else the servers do it."""
        if len(numbers):
            if isinstance(weights, SharedDataset):
                raise InputError("class_weight with labels that are here and sample_weight that is shared: share the labels, too")
            counted = np.ones(len(numbers)) if own is None else own
            by_class = forms.by_class(self._model.class_weight, self.labels, np.bincount(numbers, counted, len(self.labels)))
            product: Array = counted * by_class[numbers]
            return product
        if weights is not None:
            raise InputError("class_weight with sample_weight and labels that are shared: multiply the weights before they are shared")
        return None

    async def facts(self) -> Facts:
        """Return facts in the clear where the data are here, and opened sums of what is not."""
        asks: list[Asked] = []
        shared_labels = self._model.class_weight is not None and self._weights is None
        if self._checked:
            asks.append("weight")
        if shared_labels:
            asks.append("targets")
        if self._here is None and self._model.finds_step:
            asks.append("squares")
        sums: dict[str, Ring] = {}
        plan = Moments(self.arrays[0].shape[1], len(self.labels), tuple(asks), 0, len(self.arrays) > 2, self._checked, labels=True)
        if asks:
            sums = await self._run.moments(plan, self.arrays, min(self.examples, 4096))
        real = {name: found.view(np.int64) / 2.0 ** plan.bits(name) for name, found in sums.items()}  # type: ignore[arg-type]
        total = float(self.examples)
        if self._weights is not None:
            total = float(self._weights.sum())
        elif "weight" in real:
            total = float(real["weight"][0])
        elif shared_labels:
            counts = np.round(real["targets"].reshape(-1))
            by_class = forms.by_class(self._model.class_weight, self.labels, counts)
            total, self.largest_weight = float(by_class @ counts), 1 / by_class.max()
            self.classes = tuple((by_class * self.largest_weight).tolist())
        if total <= 0:
            raise InputError("all weights of examples are 0: there is nothing to fit")
        known = self._here is not None and not self.classes and (len(self.arrays) == 2 or self._weights is not None)
        if known:
            weights = np.ones(self.examples) if self._weights is None else self._weights
            assert self._here is not None
            return Facts(total, float(np.linalg.norm(self._here * np.sqrt(weights)[:, None], 2) ** 2 / total), 1.0)
        both = self._eigenvalue(real, total)
        return Facts(total, both, both)

    def _eigenvalue(self, real: dict[str, Array], total: float) -> float:
        """Return a bound of the largest eigenvalue of M: of its own, times what weights can do, where x is here; else its trace."""
        one = 1.0 if self._model.fit_intercept else 0.0
        if self._here is not None:  # weights are at most 1, or those of classes
            rows = np.c_[self._here, np.ones(len(self._here))] if self._model.fit_intercept else self._here
            heaviest = 1.0 / self.largest_weight if self.classes else 1.0
            return float(np.linalg.norm(rows, 2) ** 2 / total * heaviest)
        if "squares" not in real:
            return 0.0
        heaviest = 1 / (self.largest_weight * total) if self._weights is not None or self.classes else 1 / total
        rounding = math.sqrt(self.examples * self.arrays[0].shape[1]) * 2.0**-FRACTION
        return float((real["squares"][0] + rounding) * heaviest + one)
