"""Nodes whose values are 0 and 1: rows that say which an index is, and comparisons. Nothing goes back through them."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.errors import ModelError
from protocols.mpc.operations.moves import Reshape, Take
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Scale, Sum
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION, WINDOW
from protocols.training.networks.layers import Layer, Positions

MOST_INDICES = 1024
"""Rows of a table, at most: an index is compared with each."""


class OneHotLayer(Layer, frozen=True):
    """[i <= x < i + 1] for i from 0 to `count` - 1 on a new last axis. Rounds: 2, and 1 or 2 if x is not a wire yet.

    An index that is below 0, or `count` or more, is counted as strange: such a step is wrong.
    """

    count: int

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Differences of [x >= i] for neighbours."""
        if not 1 <= self.count <= MOST_INDICES:
            raise ModelError(f"an index stands for one of {self.count} rows: from 1 to {MOST_INDICES} can be in a training on shares")
        x, n = draft.opened(xs[0]), self.count + 1
        shape = draft.value(x).shape
        column = draft.put(Reshape(x, (*shape, 1)))
        repeated = draft.put(Take(column, len(shape), (0,) * n))
        ones = draft.put(Combine((repeated,), (0,), 1))
        thresholds = draft.put(Scale(ones, tuple(i << FRACTION for i in range(n)), (1,) * len(shape) + (n,)))
        reached = draft.put(Sign(draft.put(Combine((repeated, thresholds), (1, -1))), WINDOW + 2), 0)
        below, beyond = (draft.put(Take(reached, len(shape), places), 0) for places in (tuple(range(n - 1)), tuple(range(1, n))))
        ends = [draft.put(Take(reached, len(shape), (place,)), 0) for place in (0, n - 1)]
        draft.strange.append(draft.put(Sum(draft.put(Combine(tuple(ends), (-1, 1), 1), 0)), 0))
        return draft.rounded(draft.put(Combine((below, beyond), (1, -1)), 0))


class TruthLayer(Layer, frozen=True):
    """[x >= 0], or [x = 0]. Rounds: 2, and 1 or 2 if x is not rounded yet."""

    equal: bool = False

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """[x = 0] is [x >= 0] without [x > 0]."""
        x = draft.opened(xs[0])
        reached = draft.put(Sign(x, WINDOW), 0)
        if not self.equal:
            return draft.rounded(reached)
        return draft.rounded(draft.put(Combine((reached, draft.put(Sign(x, WINDOW, strict=True), 0)), (1, -1)), 0))
