"""How updates are made integers that can be summed without anybody seeing them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federated.errors import UpdateHeldBack
from federated.metrics.layout import StateLayout
from federated.metrics.limbs import Limbs, largest
from federated.tasks.bounding import WITHIN
from federated.tasks.update import Array, Task, Update
from protocols.quantisation import Quantisation, Vector
from protocols.secure_aggregation.shared_sums import LARGEST_FACTOR

LARGEST_METRIC = 1000.0
"""Values of metrics that are averaged may be as large as this, so that their sums cannot overflow."""


@dataclass(frozen=True)
class Hiding:
    """How updates are made integers.

    Args:
        clip: the largest absolute value that an update may have.
        most_examples: the largest number of examples that an owner may have.
        headroom: the largest factor that vectors are multiplied by in the sum.
    """

    clip: float
    most_examples: int
    headroom: int = 1

    def __post_init__(self) -> None:
        if not (0.0 < self.clip < math.inf and self.most_examples >= 1 and 1 <= self.headroom <= LARGEST_FACTOR):
            raise UpdateHeldBack(
                f"clip={self.clip}, most_examples={self.most_examples}, headroom={self.headroom}: above 0 and finite, at least 1, and "
                f"from 1 to {LARGEST_FACTOR} are needed"
            )

    def quantisation(self, owners: int) -> Quantisation:
        """For so many owners."""
        return Quantisation(self.clip, self.most_examples * self.headroom, owners)

    def check(self, update: Update) -> None:
        """Refuse an update that does not fit.

        Raises:
            UpdateHeldBack: a value is too large or not finite, or there are too many examples. It says nothing of how large they are.
        """
        if not 1 <= update.examples <= self.most_examples:
            raise UpdateHeldBack(f"this owner does not have from 1 to most_examples={self.most_examples} examples: raise most_examples")
        if not all(array.size == 0 or -self.clip <= array.min() <= array.max() <= self.clip for array in update.delta):
            raise UpdateHeldBack(f"a value of the update is not finite, or larger than clip={self.clip:g}: raise clip, or train less")
        for name, value in update.metrics.items():
            if not -LARGEST_METRIC <= value <= LARGEST_METRIC:
                raise UpdateHeldBack(f"the metric {name} is not finite, or beyond +-{LARGEST_METRIC:g}, which no hidden sum holds")
        most = update.examples * self._largest_state
        if update.states.size and not -most <= float(update.states.min()) <= float(update.states.max()) <= most:
            raise UpdateHeldBack(
                f"the state of a metric, or of the loss, is not finite, or above {self._largest_state:g} for each example, the most that "
                f"hidden sums hold: scale the targets, or compile without that metric"
            )

    @property
    def _largest_state(self) -> float:
        return largest(self.clip, self.most_examples)

    def metrics(self, update: Update) -> Array:
        """Return the metrics as values up to `clip`."""
        return np.array([*update.metrics.values()], np.float64) * (self.clip / LARGEST_METRIC)

    def split(self, states: Array, examples: int, owners: int) -> list[Array]:
        """Split the states of the metrics into values up to `clip`, see `Limbs.split`."""
        return self._limbs(owners).split(states, examples) if states.size else []

    def joined(self, total: Vector, owners: int) -> Array:
        """Return the sum of states from that of these, see `Limbs.joined`."""
        return self._limbs(owners).joined(total)

    def _limbs(self, owners: int) -> Limbs:
        return Limbs(self.quantisation(owners), self._largest_state)


def fault_of_told(names: tuple[str, ...], states: int, task: Task, layout: StateLayout) -> str | None:
    """Say what is wrong with the metrics that an owner says are in its hidden update, for what it was asked; None if nothing is.

    Args:
        names: of the values, in the order in which they are in it.
        states: values of the states.
        task: what was asked.
        layout: of the states.
    """
    if states not in (0, layout.length):
        return f"the states of its metrics have {states} values; expected {layout.length}"
    bound = task.training.bound
    if bound is None or task.training.noise_multiplier:
        return layout.fault_of_names(names, states=states > 0)
    expected = (WITHIN,) if bound.counts else ()
    return None if names == expected else f"its metrics are {', '.join(names[:8]) or 'none'}; expected {', '.join(expected) or 'none'}"
