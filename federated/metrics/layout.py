"""What the states of a model's metrics look like: how many values, whose they are, which are counts. It knows no Keras."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from federated.tasks.update import Array

LARGEST_STATES = 1 << 16
"""Values that the states of a model's metrics may have, all together."""
LARGEST_STATE = 1e30
"""Of one owner, so that sums of many of them are finite in float32."""
SLACK = 1e-4
"""How far below 0 counts may be, as a share of the largest value: Keras makes some of them as differences of sums of weights."""
HIDDEN_SLACK = 0.5
"""The same for hidden sums, which are rounded, too; not as a share."""
EXACT = 1 << 24
"""Examples up to which counts in float32 are exact; beyond, a few percent are not, and twice as many are let pass."""
LONGEST_NAME = 200
"""Characters of the name of a metric."""
MOST_NAMES = 1 << 10
"""Values of metrics that an owner may tell."""


@dataclass(frozen=True)
class StateLayout:
    """The values that the states of a model's metrics are, in one vector.

    Args:
        names: of the metrics, all that the model has, in its order.
        sizes: for each how many values its states have; 0: they are not summed.
        counts: of each value of the vector, whether it is a count, which is at least 0.
        most: of each value of the vector, the most that it can be for each example; infinite where that is not known. Empty: nowhere is.
        shares: of each value of the vector, whether it is a part of the one behind it, as right answers are of all. Empty: none is.
        values: for each metric the names under which owners tell its value, if not its states. Empty: they are not known, and any pass.
    """

    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    counts: tuple[bool, ...] = ()
    most: tuple[float, ...] = ()
    shares: tuple[bool, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    @property
    def length(self) -> int:
        """Values in the vector."""
        return sum(self.sizes)

    def fault(self, states: Array, examples: int) -> str | None:
        """Say what is wrong with states that somebody has sent as those over so many examples; None if nothing is.

        An empty vector tells nothing, and is right.
        """
        if states.size == 0 and states.ndim == 1:
            return None
        if states.shape != (self.length,) or states.dtype not in (np.float32, np.float64):
            return f"the states of its metrics are {states.dtype} {states.shape}; expected float32 ({self.length},)"
        wrong = ~np.isfinite(states)
        if wrong.any():
            return f"its {self._owner_of(wrong)} is not finite"
        wrong = np.abs(states) > LARGEST_STATE
        if wrong.any():
            return f"its {self._owner_of(wrong)} is beyond {LARGEST_STATE:g}"
        wrong = (states < -SLACK * (1 + np.abs(states).max())) & np.array(self.counts, bool)
        if wrong.any():
            return f"its {self._owner_of(wrong)} has counts below 0"
        wrong = self._above(states, examples)
        if wrong.any():
            return f"its {self._owner_of(wrong)} counts more than {examples} examples have"
        wrong = self._beyond(states)
        if wrong.any():
            return f"its {self._owner_of(wrong)} is above 1"
        return None

    def fault_of_names(self, names: Collection[str], *, states: bool) -> str | None:
        """Say what is wrong with the names of values that somebody tells, with or without the states of the metrics that have some."""
        if len(names) > MOST_NAMES or len(set(names)) < len(names):
            return f"it tells {len(names)} values of metrics: each once, and {MOST_NAMES} at most, are expected"
        if not all(name.isprintable() and len(name) <= LONGEST_NAME for name in names):
            return f"a name of its metrics is not printable, or longer than {LONGEST_NAME} characters"
        if not self.values:
            return None
        asked = [name for told, size in zip(self.values, self.sizes, strict=True) if not (states and size) for name in told]
        if set(names) <= set(asked):
            return None
        return f"its metrics are {_listed(names)}; expected {_listed(asked) if asked else 'no values beside their states'}"

    @cached_property
    def _most(self) -> Array:
        return np.array(self.most, np.float64)

    @cached_property
    def _shares(self) -> Array:
        return np.array(self.shares, bool)

    def _above(self, states: Array, examples: int, slack: float = 0.0) -> Array:
        """Where a value is more than so many examples can make it."""
        if not self.most:
            return np.zeros(states.shape, bool)
        return states > self._most * examples * (1 + 1e-3 if examples < EXACT else 2) + slack

    def _beyond(self, states: Array, slack: float = 0.0) -> Array:
        """Where a part is more than the whole."""
        if not any(self.shares):
            return np.zeros(states.shape, bool)
        return self._shares & (states > np.roll(states, -1) * (1 + SLACK) + SLACK + slack)

    def opened(self, states: Array, examples: int) -> Array | None:
        """Return the sum of hidden states over so many examples, its counts at least 0; None if no states have such a sum."""
        if not states.size:
            return states
        counts = np.array(self.counts, bool)
        slack = HIDDEN_SLACK + SLACK * float(np.abs(states).max())
        if self._above(states, examples, slack).any() or self._beyond(states, slack).any():
            return None
        if not np.isfinite(states).all() or (states[counts] < -HIDDEN_SLACK - SLACK * np.abs(states).max()).any():
            return None
        return np.where(counts, np.maximum(states, 0.0), states)

    def _owner_of(self, wrong: Array) -> str:
        """Return the name of the metric to which the first of the values belongs."""
        return self.names[int(np.searchsorted(np.cumsum(self.sizes), int(np.argmax(wrong)), side="right"))]


def _listed(names: Collection[str]) -> str:
    shown = ", ".join([*names][:8])
    return (f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown) or "none"
