"""Penalties on activations: what L1 and L2 regularizers of what layers give add to a loss and to gradients.

For what a layer gives of a batch of n examples, l1 sum |x| + l2 sum x^2 over all elements, divided by n, is added to the loss, once for
each call; weights of examples and of losses do not multiply it. The gradient by x is (l1 sign(x) + 2 l2 x) / n, and the sign of 0 is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from protocols.errors import ModelError
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine, Sum
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION, WINDOW
from protocols.training.networks.layers import LARGEST, Layer, Positions
from protocols.training.networks.moments import reduced
from protocols.training.networks.nonlinear import compared

BITS = 46
"""Fractional bits of the gradient by a penalty."""
LEAST, MOST = 2.0**-20, 2.0**13
"""How large that gradient is at least where |x| = 1, and at most of any activation, in units of the gradient of the loss."""
DIGITS = 12
"""Significant bits of how often a penalty counts in the loss that is told,"""
DROPPED = 56
"""as far as no more bits than these are rounded away."""
LARGEST_SQUARE = 2 * (WINDOW - 1)
"""Bits of the square of an activation."""
SUM_BITS = 61
"""Of a product that is rounded."""


class PenalisedLayer(Layer, frozen=True):
    """X as it is; `l1` sum |X| + `l2` sum X^2, divided by the examples, is added to the loss.

    `shape` is that of an example. Rounds: 0; beside others back up to 4, and 5 for a loss that is told.
    """

    shape: Shape
    l1: float = 0.0
    l2: float = 0.0

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """X; the draft keeps the penalty."""
        if draft.value(xs[0]).shape[1:] != self.shape:
            raise ModelError(f"a penalty on values of shape {self.shape} was asked for, and they have {draft.value(xs[0]).shape[1:]}")
        if not (0 <= self.l1 < math.inf and 0 <= self.l2 < math.inf and self.l1 + self.l2 > 0):
            raise ModelError(f"a penalty on activations counts {self.l1:g} and {self.l2:g} times: numbers from 0 are needed, one above 0")
        draft.penalised.append((xs[0], self.l1, self.l2))
        return xs[0]

    @property
    def most(self) -> float:
        """Return what it adds to the loss of an example, at most."""
        return math.prod(self.shape) * (self.l1 * LARGEST + self.l2 * LARGEST**2)


def penalty_gradients(draft: StepDraft, known: Mapping[int, int], unit: float) -> dict[int, int]:
    """Write the gradients by activations that have penalties, summed over calls, beside those that are known.

    Args:
        draft: the network, forward.
        known: gradients of the loss by position.
        unit: how many times what is written counts, in the loss of the step.

    Raises:
        ModelError: a penalty counts too little beside the loss, or too much.
    """
    total = dict(known)
    for x, l1, l2 in draft.penalised:
        for name, factor, largest in (("l1", l1, 1.0), ("l2", l2, LARGEST)):
            least, most = LEAST * unit, MOST * unit / largest
            if factor and not least <= factor * (1 + (name == "l2")) <= most:
                raise ModelError(
                    f"a penalty on activations with {name}={factor:g} cannot be told in fixed point beside the gradient of this loss, batch"
                    f" and loss_weights: it must lie between {least / (1 + (name == 'l2')):.1e} and {most / (1 + (name == 'l2')):.1e}"
                )
        one = round(l1 / unit * 2.0**BITS)
        terms = [(draft.affine(x), round(2 * l2 / unit * 2.0 ** (BITS - FRACTION)))] if l2 else []
        terms += [(sign, one) for sign in _signs(draft, x)] if l1 else []
        gradient = draft.put(Combine(tuple(at for at, _ in terms), tuple(factor for _, factor in terms), -one), BITS)
        total[x] = draft.total([total[x], gradient]) if x in total else gradient
    return total


def penalties_told(draft: StepDraft, times: float, lost: int) -> list[int]:
    """Write `times` the sums of penalties over all examples of a batch, with 2 `FRACTION` - `lost` fractional bits, (1,) each."""
    found = []
    for x, l1, l2 in draft.penalised:
        for factor, square in ((l1, False), (l2, True)):
            if factor:
                sums = _squares(draft, x) if square else _absolutes(draft, x)
                size = draft.value(x).size // draft.value(x).shape[0]
                first = max(1, LARGEST_SQUARE + math.ceil(math.log2(size)) + DIGITS - SUM_BITS)  # of each example: it has room for q then
                shift = min(DIGITS - 1 - math.floor(math.log2(factor * times)), DROPPED - lost)
                q, rest = round(factor * times * 2.0**shift), shift + lost - first
                one = draft(Combine((reduced(draft, sums, first),), (q << max(0, -rest),)))
                found.append(draft(Sum(reduced(draft, one, rest) if rest > 0 else one)))
    return found


def _signs(draft: StepDraft, x: int) -> tuple[int, int]:
    """[x > 0] and [x >= 0], which together are 1 more than the sign."""
    return compared(draft, x, strict=True)[1], compared(draft, x)[1]


def _squares(draft: StepDraft, x: int) -> int:
    value = draft.affine(x)
    return _of_examples(draft, draft(Multiply(value, value)))


def _absolutes(draft: StepDraft, x: int) -> int:
    """2 [x > 0] x - x, with 2 `FRACTION` fractional bits."""
    value, above = compared(draft, x, strict=True)
    return _of_examples(draft, draft(Combine((draft(Multiply(above, value)), value), (2 << FRACTION, -1 << FRACTION))))


def _of_examples(draft: StepDraft, x: int) -> int:
    """Sum over each example, (batch, 1)."""
    batch, *shape = draft.value(x).shape
    return draft(Sum(draft(Reshape(x, (batch, math.prod(shape)))), 1))
