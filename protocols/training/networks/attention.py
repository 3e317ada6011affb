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
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION, PRECISE, SQUARINGS, START, WINDOW, reciprocal
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

    The largest is found in pairs and subtracted; e^x = ((1 + u) + u^2 / 2)^(2^k) with u = x / 2^k, k = `SQUARINGS`.

    Rounds: 3 ceil(log2 n) + 11, and about 8 for a reciprocal; back 3.
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
        powers = _exponential(draft, draft.put(Combine((x, _largest(draft, x)), (1, -1))))
        start, part = reciprocal(draft, draft(Sum(powers, 1)), n)
        drop = 2 * PRECISE + START - FRACTION
        y = draft(Truncate(draft(Combine((draft(Multiply(powers, part)),), (start,))), drop, 63 - drop))
        draft.say(y, FRACTION)

        def back(tape: Tape, at: int, gradient: int, side: int) -> int:
            g = tape.factor(gradient)
            product = tape.put(Multiply(g, y), 2 * FRACTION)
            total = tape.factor(tape.put(Sum(product, 1), 2 * FRACTION))
            return tape.put(Combine((product, tape.put(Multiply(y, total), 2 * FRACTION)), (1, -1)), 2 * FRACTION)

        draft.own[y], draft.reads[y] = back, (x,)
        return draft.put(Reshape(y, shape))


def _exponential(draft: StepDraft, x: int) -> int:
    """e^x for a share, -500 <= x <= 0, with `PRECISE` fractional bits; affine. Rounds: 2 + SQUARINGS.

    1 + u + u^2 / 2 is below 1 from u = -2 on, and off by a relative |x|^3 / (6 4^k) in the end.
    """
    u = draft(Open(x))  # x / 2^k with PRECISE fractional bits
    square = draft(Multiply(u, u))
    one = 2 * PRECISE + 1
    power = draft(Truncate(draft(Combine((u, square), (1 << (PRECISE + 1), 1), 1 << one)), one - PRECISE, 63 - one + PRECISE))
    for _ in range(SQUARINGS):
        power = draft(Truncate(draft(Multiply(power, power)), PRECISE, 63 - PRECISE))
    return power


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
