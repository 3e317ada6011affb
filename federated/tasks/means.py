"""Means that are made as values arrive, weighted by numbers of examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federated.tasks.update import Array, Update, Weights

CHUNK = 1 << 14
"""Products that are made at once: few enough to stay in the cache."""


class RunningMean:
    """A weighted sum in float64, and the sum of its weights. Memory: 8 bytes a parameter, whatever the number of owners."""

    def __init__(self, weights: Weights) -> None:
        self._sum = [np.zeros(array.shape) for array in weights]
        self._product = np.empty(CHUNK)
        self._examples = 0

    def add(self, update: Update, factor: float = 1.0) -> None:
        """Add n_i Delta_i, the latter times a factor."""
        for total, array in zip(self._sum, update.delta, strict=True):
            self._add(total.reshape(-1), array.reshape(-1), factor * update.examples)
        self._examples += update.examples

    def _add(self, total: Array, array: Array, factor: float) -> None:
        for start in range(0, len(total), CHUNK):
            part = array[start : start + CHUNK]
            total[start : start + CHUNK] += np.multiply(part, factor, out=self._product[: len(part)], dtype=np.float64)

    def result(self) -> Weights:
        """Return the mean. Nothing can be added after that."""
        for total in self._sum:
            total /= self._examples
        return self._sum


class MetricsMean:
    """Means of metrics, weighted by numbers of examples. A metric that some owners lack is the mean over those that have it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        self.examples = 0

    def add(self, metrics: Mapping[str, float], examples: int) -> None:
        """Add the metrics of one owner."""
        self.examples += examples
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value * examples, count + examples

    def result(self) -> dict[str, float]:
        """Name -> mean; the loss first."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        return dict(sorted(means.items(), key=lambda item: item[0] != "loss"))
