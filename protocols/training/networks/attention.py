"""Nodes of attention: products of two values as matrices, scores that are masked, and a softmax in the middle of a network.

Scores of a softmax lie within +-`SCORES`, which is watched, so no two are further apart than the exponential is right for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from protocols.errors import ModelError
from protocols.mpc.engine.tape import Tape
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Concatenate, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Scale, Sum
from protocols.mpc.operations.wires import Open
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION, WINDOW, exp, quotients
from protocols.training.networks.layers import Layer, Positions

SCORES = 7.5
"""Scores lie within +-2^SCORES = +-181."""
HIDDEN = -240
"""A score that is masked: e^(HIDDEN - s) vanishes for any other."""
MOST_PLACES = 1 << 12
"""Numbers over which a softmax goes, at most."""


class MatricesLayer(Layer, frozen=True):
    """The matrix product of two values over their last two axes. Rounds: 0 to 2; as many back."""

    @property
    def grows(self) -> bool:
        """Sums of products."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the products."""
        x, y = (draft.opened(each) for each in xs)
        return draft.put(MatMul(x, y), 2 * FRACTION)


class MaskedLayer(Layer, frozen=True):
    """Scores as they are where the table, and the second value if there is one, is 1; `HIDDEN` elsewhere. Rounds: 0 to 2.

    Attributes:
        keep: 0 or 1 for each place of `shape`, which is broadcast over the scores.
        shape: of the table.
    """

    keep: tuple[int, ...]
    shape: tuple[int, ...]

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """m (s - HIDDEN) + HIDDEN."""
        if not set(self.keep) <= {0, 1}:
            raise ModelError("a mask is made of 0 and 1")
        draft.spread.append(Signal(draft.affine(xs[0])))
        x = draft.put(Combine((xs[0],), (1,), -HIDDEN << draft.bits(xs[0])), draft.bits(xs[0]))
        for mask in xs[1:]:
            bits = draft.bits(mask)
            factor = mask if draft.value(mask).kind != "share" else draft.put(Open(mask), bits)
            x = draft.put(Multiply(draft.affine(x), factor), FRACTION + bits)
        if not all(self.keep):
            x = draft.put(Scale(x, self.keep, (1, *self.shape)), draft.bits(x))
        scores = draft.put(Combine((x,), (1,), HIDDEN << draft.bits(x)), draft.bits(x))
        draft.hiding.add(scores)
        return scores


class SoftmaxLayer(Layer, frozen=True):
    """e^x / sum e^x over the last axis, within 2^-10.

    The largest is found in pairs and subtracted.

    Rounds: 3 ceil(log2 n) + 8, and 6 to divide (10 numbers; 11 for 4,096); back 3.
    """

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Row by row."""
        shape = draft.value(xs[0]).shape
        n = shape[-1]
        if not 1 < n <= MOST_PLACES:
            raise ModelError(f"a softmax goes over {n} numbers: from 2 to {MOST_PLACES} can be in a training on shares")
        x = draft.affine(xs[0])
        if xs[0] not in draft.hiding:
            draft.spread.append(Signal(x))
        x = draft.put(Reshape(x, (math.prod(shape[:-1]), n)))
        x = x if draft.value(x).kind != "share" else draft.opened(x)
        powers = exp(draft, draft.put(Combine((x, _largest(draft, x)), (1, -1))))
        y = quotients(draft, powers, draft(Sum(powers, 1)), n, early=False)
        draft.say(y, FRACTION)

        def back(tape: Tape, at: int, gradient: int, side: int) -> int:
            g = tape.factor(gradient)
            product = tape.put(Multiply(g, y), 2 * FRACTION)
            total = tape.factor(tape.put(Sum(product, 1), 2 * FRACTION))
            return tape.put(Combine((product, tape.put(Multiply(y, total), 2 * FRACTION)), (1, -1)), 2 * FRACTION)

        draft.own[y], draft.reads[y], draft.softmaxes[y] = back, (x,), x
        return draft.put(Reshape(y, shape))


def _largest(draft: StepDraft, x: int) -> int:
    """Write the largest of each row, (rows, 1), a share. Rounds: 3 for each halving. Nothing goes back through it."""
    while (n := draft.value(x).shape[1]) > 1:
        half = n // 2
        a, b = (draft.put(Take(x, 1, tuple(range(start, start + half)))) for start in (0, half))
        difference = draft.opened(draft.put(Combine((a, b), (1, -1))))
        more = draft.put(Multiply(draft.put(Sign(difference, WINDOW), 0), difference))
        larger = draft.put(Combine((more, b), (1, 1)))
        x = larger if n == 2 * half else draft.put(Concatenate((larger, draft.put(Take(x, 1, (n - 1,)))), 1))
    return x
