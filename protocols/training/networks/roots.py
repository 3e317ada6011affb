"""Nodes of 1 / x and 1 / sqrt(x) for x > 0: what divisions and roots are made of.

Both are made of 1 / sqrt(x) as normalisations have it (`normalisation.py`), with its error: relative 2^-11 and 2^-10. A number that is not
above `LEAST` is counted as strange: such a step is wrong. So is one with results beyond those of activations, as of all nodes that grow.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.mpc.engine.tape import Tape
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION, WINDOW
from protocols.training.networks.layers import Layer, Positions
from protocols.training.networks.normalisation import BITS, ROOT, inverse_root

LEAST = 2.0**-12
"""Numbers whose inverse is taken are at least that: below, fixed point tells them apart too badly."""


class InverseLayer(Layer, frozen=True):
    """1 / x, or 1 / sqrt(x). Rounds: 10, and 1 or 2 if x is not a wire yet; back 3."""

    root: bool = False

    @property
    def grows(self) -> bool:
        """Below 1."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the root, squared for 1 / x. Back: -y^2 g, or -y^3 g / 2."""
        x = draft.opened(xs[0])
        shape, size = draft.value(x).shape, draft.value(x).size
        enough = draft.put(Sign(draft.put(Combine((x,), (1,), -round(LEAST * 2**FRACTION))), WINDOW), 0)
        draft.strange.append(draft.put(Sum(draft.put(Combine((enough,), (-1,), 1), 0)), 0))
        row = draft.put(Reshape(x, (1, size)))
        r = inverse_root(draft, draft.put(Combine((row,), (1 << (BITS - FRACTION),)), BITS))
        found = r if self.root else draft.put(Multiply(r, r), 2 * ROOT)
        y = draft.affine(found)
        y = y if draft.value(y).kind != "share" else draft.opened(y)

        def back(tape: Tape, at: int, gradient: int, side: int) -> int:
            g = tape.factor(gradient)
            once = tape.factor(tape.put(Multiply(g, y), 2 * FRACTION))
            twice = tape.put(Multiply(once, y), 2 * FRACTION)
            if not self.root:
                return tape.put(Combine((twice,), (-1,)), 2 * FRACTION)
            thrice = tape.put(Multiply(tape.factor(twice), y), 2 * FRACTION)
            return tape.put(Combine((thrice,), (-1,)), 2 * FRACTION + 1)

        draft.own[y], draft.reads[y] = back, (row,)
        return draft.put(Reshape(y, shape))
