"""What the states of a model's metrics look like: how many values, whose they are, which are counts. It knows no Keras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federated.update import Array

LARGEST_STATES = 1 << 16
"""Values that the states of a model's metrics may have, all together."""
LARGEST_STATE = 1e30
"""Of one owner, so that sums of many of them are finite in float32."""
SLACK = 1e-4
"""How far below 0 counts may be, as a share of the largest value: Keras makes some of them as differences of sums of weights."""
HIDDEN_SLACK = 0.5
"""The same for hidden sums, which are rounded, too; not as a share."""


@dataclass(frozen=True)
class Layout:
    """The values that the states of a model's metrics are, in one vector.

    Args:
        names: of the metrics, all that the model has, in its order.
        sizes: for each how many values its states have; 0: they are not summed.
        counts: of each value of the vector, whether it is a count, which is at least 0.
    """

    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    counts: tuple[bool, ...] = ()

    @property
    def length(self) -> int:
        """Values in the vector."""
        return sum(self.sizes)

    def fault(self, states: Array) -> str | None:
        """What is wrong with states that somebody has sent; None if nothing is. An empty vector tells nothing, and is right."""
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
        return None

    def opened(self, states: Array) -> Array | None:
        """The sum of hidden states, its counts at least 0; None if no states have such a sum."""
        if not states.size:
            return states
        counts = np.array(self.counts, bool)
        if not np.isfinite(states).all() or (states[counts] < -HIDDEN_SLACK - SLACK * np.abs(states).max()).any():
            return None
        return np.where(counts, np.maximum(states, 0.0), states)

    def _owner_of(self, wrong: Array) -> str:
        """The name of the metric to which the first of the values belongs."""
        return self.names[int(np.searchsorted(np.cumsum(self.sizes), int(np.argmax(wrong)), side="right"))]
