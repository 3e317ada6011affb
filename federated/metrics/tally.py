"""Sums of what owners tell of their metrics, as it arrives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federated.tasks.means import MetricsMean
from federated.tasks.update import Array

NOTHING = np.zeros(0)


class MetricTally:
    """States, which are summed in float64, and the other metrics, which are averaged by numbers of examples."""

    def __init__(self) -> None:
        self._means, self._states = MetricsMean(), NOTHING

    def add(self, metrics: Mapping[str, float], states: Array, examples: int) -> None:
        """Add what one owner tells. States have to be of one length, but for owners that tell none."""
        self._means.add(metrics, examples)
        if states.size:
            self._states = states.astype(np.float64) if not self._states.size else self._states + states

    @property
    def examples(self) -> int:
        """Of all owners."""
        return self._means.examples

    @property
    def states(self) -> Array:
        """The sum; empty if nobody has told any."""
        return self._states

    def means(self) -> dict[str, float]:
        """See `MetricsMean.result`."""
        return self._means.result()
