"""Thresholds of features: quantiles, in the clear or found without seeing the features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocols.estimators.settings import Array
from protocols.training.networks.functions import FRACTION
from protocols.training.regression.moments import LARGEST_BITS

EDGE = 1 << (FRACTION + LARGEST_BITS)
"""Numbers that others have stored lie within +-EDGE units of their last digit."""

TOLERANCE = 8
"""A quantile that is found on shares may be off by 1 / TOLERANCE of a bin."""


@dataclass(frozen=True)
class Bins:
    """Splits: x[feature] <= threshold.

    Attributes:
        features: of each split, in order.
        thresholds: (splits,), increasing within a feature.
    """

    features: tuple[int, ...]
    thresholds: Array

    @classmethod
    def of(cls, rows: Array, most: int) -> Bins:
        """Return those of a table: between its values if a column has at most `most`, else between quantiles.

        A table of constant columns has one split, with all examples on one side.
        """
        features: list[int] = []
        thresholds: list[float] = []
        for feature, column in enumerate(rows.T):
            values = np.unique(column)
            if len(values) <= most:
                edges = values[:-1] / 2 + values[1:] / 2
            else:
                edges = np.unique(np.quantile(column, np.arange(1, most) / most, method="averaged_inverted_cdf"))
                edges = edges[edges < values[-1]]
            features += [feature] * len(edges)
            thresholds += edges.tolist()
        if not features:
            features, thresholds = [0], [float(rows[:, 0].max())]
        return cls(tuple(features), np.array(thresholds))

    def bits(self, rows: Array) -> Array:
        """Return where each example is at most at each threshold, (n, splits)."""
        found: Array = rows[:, list(self.features)] <= self.thresholds
        return found


class Quantiles:
    """The search for quantiles of features of which only counts are told: each lies between two numbers with known counts, see `told`.

    Args:
        features: how many.
        examples: n.
        most: bins of a feature.
    """

    def __init__(self, features: int, examples: int, most: int) -> None:
        self._examples, self._wanted = examples, examples * np.arange(1, most) / most
        shape = (features, most - 1)
        self._low, self._high = np.full(shape, -EDGE - 1), np.full(shape, EDGE)
        self._upto = np.full(shape, examples)
        self.features = tuple(np.repeat(np.arange(features), most - 1).tolist())

    @property
    def done(self) -> bool:
        """Whether all are found: to the last digit, or with nearly as many examples as wanted."""
        return bool(self._found().all())

    def _found(self) -> Array:
        near = np.abs(self._upto - self._wanted) * TOLERANCE * (len(self._wanted) + 1) <= self._examples
        found: Array = near | (self._high - self._low <= 1)
        return found

    def probes(self) -> Array:
        """Return the numbers at which counts are asked for next, integers (features, most - 1): even parts of what an interval can hold."""
        probes = self._high.copy()
        open_ = ~self._found()
        for feature in range(len(probes)):
            intervals = np.stack([self._low[feature], self._high[feature]], 1)
            for low, high in np.unique(intervals[open_[feature]], axis=0):
                mine = np.nonzero(open_[feature] & (intervals == (low, high)).all(1))[0]
                parts = np.arange(1, len(mine) + 1)
                probes[feature, mine] = np.clip(low + (high - low) * parts // (len(mine) + 1), low + 1, high - 1)
        return probes

    def told(self, probes: Array, counts: Array) -> None:
        """Take how many examples are at most at each of the probes."""
        for feature, wanted in ((feature, wanted) for feature in range(len(probes)) for wanted in range(len(self._wanted))):
            for probe, count in zip(probes[feature], counts[feature], strict=True):
                if count >= self._wanted[wanted] and probe < self._high[feature, wanted]:
                    self._high[feature, wanted], self._upto[feature, wanted] = probe, count
                elif count < self._wanted[wanted] and probe > self._low[feature, wanted]:
                    self._low[feature, wanted] = probe

    def bins(self) -> Bins:
        """Return thresholds that part examples, each another part."""
        features: list[int] = []
        thresholds: list[int] = []
        for feature, (numbers, counts) in enumerate(zip(self._high, self._upto, strict=True)):
            known = sorted(zip(numbers.tolist(), counts.tolist(), strict=True), reverse=True)
            kept = {count: number for number, count in known if count < self._examples}
            features += [feature] * len(kept)
            thresholds += sorted(kept.values())
        if not features:
            features, thresholds = [0], [EDGE]
        return Bins(tuple(features), np.array(thresholds) * 2.0**-FRACTION)
