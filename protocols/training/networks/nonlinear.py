"""Nodes of a network that compare: rectifiers, curves, the largest of several; see `layers.py` for what a node is.

All that is compared is compared forward. Comparisons are right for activations, and differences of those that share a pooling window,
within +-512.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from protocols.curves.activations import Curve
from protocols.curves.splines import Spline
from protocols.errors import ModelError
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Padding, Pair
from protocols.mpc.numbers.shapes import windows
from protocols.mpc.operations.moves import Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION, SPLINE, WINDOW, spline
from protocols.training.networks.layers import LARGEST, Layer, Positions, places_of

SLOPE = 12
"""Fractional bits of the slope of a rectifier."""
MOST_KNOTS = 300
"""Knots of a curve, at most."""


class RectifierLayer(Layer, frozen=True):
    """slope (x - threshold) below the threshold, x above, never more than `maximum`: ReLU is D X with D = [X > 0].

    Rounds: 3, and 3 beside them for a maximum; back 1.
    """

    slope: float = 0.0
    threshold: float = 0.0
    maximum: float | None = None

    @property
    def grows(self) -> bool:
        """If it is steep below."""
        return abs(self.slope) > 1

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write sums of w = x - threshold, D w and D."""
        if not all(abs(number) < LARGEST for number in (self.slope, self.threshold, self.maximum or 0.0)):
            raise ModelError(f"a rectifier has a slope, a threshold or a maximum beyond {LARGEST:g}")
        above, sign = compared(draft, _moved(draft, xs[0], -self.threshold), strict=not self.threshold)
        chosen = draft.put(Multiply(sign, above))
        if not self.slope and not self.threshold and self.maximum is None:
            return chosen
        one, slope = 1 << SLOPE, round(self.slope * (1 << SLOPE))
        terms = [(above, slope), (chosen, one - slope), (sign, round(self.threshold * 2.0 ** (FRACTION + SLOPE)))]
        if self.maximum is not None:
            over, too = compared(draft, _moved(draft, xs[0], -self.maximum))
            terms.append((draft.put(Multiply(too, over)), -one))
        used = [(x, factor) for x, factor in terms if factor]
        return draft.put(Combine(tuple(x for x, _ in used), tuple(factor for _, factor in used)), FRACTION + SLOPE)


class Pieces(Spline, frozen=True):
    """A spline as servers are told of it: with knots, and no number so large that it cannot be one of activations."""

    def __post_init__(self) -> None:
        numbers = (*self.knots, *self.slopes, *self.offsets)
        if not 1 <= len(self.knots) <= MOST_KNOTS or not all(abs(number) < 2.0**20 for number in numbers):
            raise ModelError(f"a curve has {len(self.knots)} knots and numbers up to {max(map(abs, numbers), default=0)}")
        if not len(self.slopes) == len(self.offsets) == len(self.knots) + 1:
            raise ModelError(f"a curve has {len(self.knots)} knots, {len(self.slopes)} slopes and {len(self.offsets)} offsets")

    @classmethod
    def of(cls, pieces: Spline) -> Pieces:
        """Return those of a spline."""
        return cls(*msgspec.structs.astuple(pieces))

    def write(self, draft: StepDraft, x: int) -> int:
        """Its values, a share with `SPLINE` fractional bits. Rounds: 3."""
        x = x if draft.bits(x) >= FRACTION else draft.rounded(x)
        return draft.put(spline(x, self, draft.bits(x)), SPLINE)

    @property
    def bounded(self) -> bool:
        """Whether it stays within activations on activations."""
        ends = ((self.slopes[0], self.offsets[0], -LARGEST), (self.slopes[-1], self.offsets[-1], LARGEST))
        inner = itertools.chain(zip(self.slopes[1:], self.offsets[1:], self.knots, strict=True), ends)
        return all(abs(slope * x + offset) <= LARGEST + 1 for slope, offset, x in inner)


class CurveLayer(Layer, frozen=True):
    """A function y = f(x) of each element, as a spline.

    f' is a polynomial of y, c_0 + c_1 y + c_2 y^2, as of tanh (1 - y^2) and of the sigmoid (y - y^2), or another spline, compared beside f.

    Rounds: 3; back 1 or 2.
    """

    curve: Pieces
    slope: Pieces | tuple[int, int, int]

    @classmethod
    def of(cls, inputs: tuple[int, ...], curve: Curve) -> CurveLayer:
        """Return the node of a curve.

        Raises:
            ValueError: it needs too many pieces within the range of activations, or too large numbers.
        """
        curved = Pieces.of(curve.spline(-LARGEST, LARGEST))
        return cls(inputs, curved, curve.of_value or Pieces.of(curve.slope(-LARGEST, LARGEST)))

    @property
    def grows(self) -> bool:
        """If it is steep."""
        return not self.curve.bounded

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the spline; the draft is told the derivative."""
        x = xs[0]
        y = self.curve.write(draft, x)
        beside = self.slope.write(draft, x) if isinstance(self.slope, Pieces) else None

        def derivative(tape: Tape, at: int, gradient: int, side: int) -> int:
            slope = self._of_output(draft, y) if beside is None else beside
            gradient, slope = tape.factor(gradient), tape.factor(slope)
            return tape.put(Multiply(gradient, slope), tape.bits(gradient) + tape.bits(slope))

        draft.own[y] = derivative
        return y

    def _of_output(self, draft: StepDraft, y: int) -> int:
        assert isinstance(self.slope, tuple)  # else there is a spline
        constant, linear, square = self.slope
        y = draft.affine(y)
        terms = [(y, linear << FRACTION)] * bool(linear) + [(draft.put(Multiply(y, y), 2 * FRACTION), square)]
        xs, factors = zip(*terms, strict=True)
        return draft.put(Combine(xs, factors, constant << (2 * FRACTION)), 2 * FRACTION)


class MaxPoolLayer(Layer, frozen=True):
    """The largest of each window and channel, first within rows, then of the rows: the maximum of two is b + [a >= b] (a - b).

    Back: of the gradient g of a maximum of two, a gets D g and b gets g - D g: of equals the first gets it, as in Keras. A place outside of
    the image stands for the nearest place inside, so that padding never is the largest. Products are compared before they are rounded:
    fewer are left to be rounded then. Of two that are closer than 2^-`FRACTION` either may be taken; of equals the first is.

    Rounds: 3 a level of pairs, so 6 for 2x2; back 1 a level.
    """

    size: Pair
    strides: Pair
    padding: Padding

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the maxima."""
        x = xs[0] if draft.bits(xs[0]) >= FRACTION else draft.rounded(xs[0])
        image = draft.value(x).shape
        grid = windows((image[1], image[2]), self.size, self.strides, self.padding)
        for axis in (1, 0):
            slices = places_of(image[axis + 1], grid[axis], self.size[axis], self.strides[axis], self.padding[axis][0])
            x = largest(draft, [draft.put(Take(x, axis + 1, places), draft.bits(x)) for places in slices])
        return x


class ExtremeLayer(Layer, frozen=True):
    """The largest of values, element for element; with `smallest`, the smallest. Rounds: 3 a level of pairs, and 1."""

    smallest: bool = False

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """As of a window; the smallest is the largest of the negatives."""
        rounded = [draft.rounded(x) for x in xs]
        if not self.smallest:
            return largest(draft, rounded)
        return draft.put(Combine((largest(draft, [draft.put(Combine((x,), (-1,))) for x in rounded]),), (-1,)))


def largest(draft: StepDraft, xs: Sequence[int]) -> int:
    """Write the largest of some values, element by element, with as many fractional bits each, at least `FRACTION`. Rounds: 3 a level."""
    if len(xs) == 1:
        return xs[0]
    a, b = (largest(draft, half) for half in (xs[: len(xs) // 2], xs[len(xs) // 2 :]))
    bits = draft.bits(a)
    difference = draft.masked(draft.put(Combine((a, b), (1, -1)), bits))
    sign = draft.put(Sign(difference, WINDOW, drop=bits - FRACTION), 0)
    more = draft.put(Multiply(sign, difference), bits)

    def chosen(tape: Tape, at: int, gradient: int, side: int) -> int:
        """D g of a wire g: then g - D g is one, too, where D g is opened."""
        return tape.put(Multiply(sign, tape.wire(gradient)), FRACTION)

    draft.own[more] = chosen
    return draft.put(Combine((more, b), (1, 1)), bits)


def compared(draft: StepDraft, x: int, *, strict: bool = False) -> tuple[int, int]:
    """Write `x` as an affine value with `FRACTION` fractional bits, and [x >= 0], or [x > 0]. Rounds: 3, or 2 for a wire."""
    value = draft.affine(x)
    if draft.value(value).cut is None:
        value = draft.opened(value)
    cut = draft.value(value).cut
    return value, draft.put(Sign(value, WINDOW if cut is None else None, strict), 0)


def _moved(draft: StepDraft, x: int, by: float) -> int:
    return draft.put(Combine((x,), (1,), round(by * 2.0 ** draft.bits(x))), draft.bits(x)) if by else x
