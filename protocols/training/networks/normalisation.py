"""Nodes that divide by a standard deviation: layer, group, root mean square, unit and batch normalisation.

y = c / sqrt(v + epsilon) with c = x - mean, v the mean of c c over n numbers. Numbers lie within +-512, so v < 2^18. Where v + epsilon is
below 2^-`SPLIT`, 2^(2 `HALF`) times as much is looked up, and the root that is found is 2^HALF times as much: one comparison for each v.
1 / sqrt is a spline (`curves/positive.py`) of numbers that are rounded to multiples of 2^-`SEEN`.

**Error** of 1 / sqrt: a relative 2^-11, for v + epsilon from `LEAST` = 2^-26 on; below, rows come out shorter than they should. The mean is
exact to 2^-19, y is within sqrt(n).

The way back is that of the whole function (Ioffe and Szegedy, 2015, arXiv:1502.03167, section 3): with r = 1 / sqrt(v + epsilon),

    dx = r (g - mean(g) - y mean(g y)),

so that nothing is divided by small numbers, and no term is as large as r^3. Of a batch normalisation whose result is scaled, g = gamma G,
and gamma is a number for each channel as r is: with s = r gamma

    dx = s G - s mean(G) - y (s mean(G y)),

where what is multiplied element by element is rounded once. The numbers for each channel s mean(G) and s mean(G y) stay below 2^14.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from protocols.curves.positive import RELATIVE, relative
from protocols.curves.positive import inverse_root as curve
from protocols.curves.splines import fit
from protocols.errors import ModelError
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import LARGEST, Layer, Positions
from protocols.training.networks.moments import moved

MOST = 18
"""Normalised are 2^MOST numbers together, at most."""
BITS = 41
"""Fractional bits of v."""
TOP = 19
"""v + epsilon is below 2^TOP."""
LEAST = 2.0**-26
"""v + epsilon is at least that where networks are served."""
SPLIT, HALF = 3, 11
SLACK = 6
"""v + epsilon is compared with 2^-SPLIT to one part in 2^SLACK."""
SEEN = 15
"""Fractional bits of v that the function of it looks at."""
ROOT = 24
"""Fractional bits of 1 / sqrt(v + epsilon)."""
FINE = 56
"""The same, before it is rounded."""
MEAN = 20
"""Fractional bits of a mean."""
QUOTIENT = 29
"""Significant bits of 1 / n."""
BACK = 24
"""Fractional bits of means of gradients, at most: sums of their errors over a batch are then as small as other roundings."""


class Standard(NamedTuple):
    """What `standardised` gives, as positions.

    Attributes:
        y: normalised, affine with `FRACTION` fractional bits.
        mean: with fractional bits of its own, or -1.
        variance: with `BITS` fractional bits, without epsilon.
    """

    y: int
    mean: int
    variance: int


def standardised(draft: StepDraft, x: int, axis: int, epsilon: float, *, centred: bool = True) -> Standard:
    """(x - mean) / sqrt(variance + epsilon) over an axis of a value with two; or x / sqrt(mean of x x + epsilon).

    Rounds: 10 to 14.
    """
    n = draft.value(x).shape[axis]
    if n > 1 << MOST:
        raise ModelError(f"{n} numbers are normalised together: at most 2^{MOST} can be in a training on shares")
    draft.within[x] = min(draft.within.get(x, math.inf), _room(n, centred=centred) * 2.0 ** draft.bits(x))
    mean, c = -1, x
    if centred:
        mean = _mean(draft, x, axis, n)
        most = max(draft.bits(x), draft.bits(mean))
        factors = (1 << (most - draft.bits(x)), -(1 << (most - draft.bits(mean))))
        c = draft.put(Combine((x, mean), factors), most)
    c = draft.affine(c, CENTRED)
    variance = _mean_square(draft, c, axis, n)
    raised = draft.put(Combine((variance,), (1,), round(epsilon * 2.0**BITS)), BITS)
    if epsilon < LEAST:
        draft.least[raised] = LEAST * 2.0**BITS
    root = inverse_root(draft, raised)
    y = draft.put(Multiply(c, root), FRACTION + ROOT)
    draft.proved[y] = _longest(n) * 2.0 ** (FRACTION + ROOT)

    def back(tape: Tape, at: int, gradient: int, side: int) -> int:
        of_y, scaled = draft.affine(y), _scaled(draft, gradient) if centred and axis == 0 else None
        if scaled is not None:
            return _back_of_scaled(draft, of_y, root, scaled)
        g = tape.factor(gradient)
        product = tape.put(Multiply(g, of_y), 2 * FRACTION)
        fine = _fine(n)
        slope = _average(draft, draft.put(Sum(product, axis), 2 * FRACTION), n, fine)
        slope = slope if draft.value(slope).kind != "share" else draft.put(Open(slope), fine)
        bits = FRACTION + fine
        terms, factors = [g, tape.put(Multiply(of_y, slope), bits)], [1 << fine, -1]
        if centred:
            terms.append(_average(draft, draft.put(Sum(g, axis), FRACTION), n, fine))
            factors.append(-(1 << (bits - fine)))
        inner = tape.factor(tape.put(Combine(tuple(terms), tuple(factors)), bits))
        return tape.put(Multiply(inner, root), FRACTION + ROOT)

    draft.own[y], draft.reads[y] = back, (x,)
    return Standard(draft.affine(y), mean, variance)


class _Scaled(NamedTuple):
    """A gradient g = gamma G, as positions: G as it was multiplied, affine, and gamma, a wire with a number for each column."""

    gradient: int
    gamma: int


def _scaled(draft: StepDraft, gradient: int) -> _Scaled | None:
    """Return of which factors a gradient is the product, if one of them is a number for each column."""
    columns, op = draft.value(gradient).shape[-1], draft.operation(gradient)
    if isinstance(op, Reshape):
        op = draft.operation(op.x)
    if not isinstance(op, Multiply) or not draft.bits(op.x) == draft.bits(op.y) == FRACTION:
        return None
    whole, row = draft.value(op.x), draft.value(op.y)
    by_column = row.kind == "wire" and row.size == row.shape[-1] == whole.shape[-1] == columns
    return _Scaled(op.x, op.y) if by_column else None


def _back_of_scaled(draft: StepDraft, y: int, root: int, scaled: _Scaled) -> int:
    """Write s G - s mean(G) - y (s mean(G y)) over the rows of y, with s = r gamma and `FRACTION` + `ROOT` bits. Rounds: 3 to 5."""
    n, columns = draft.value(y).shape
    bits, fine = FRACTION + ROOT, _fine(n)
    s = draft.put(Multiply(root, _flat(draft, scaled.gamma, (1, columns))), bits)
    s = draft.put(Open(draft.put(Truncate(s, FRACTION, 63 - FRACTION), ROOT)), ROOT)
    alike = _flat(draft, y, draft.value(scaled.gradient).shape)
    product = draft.put(Multiply(scaled.gradient, alike), 2 * FRACTION)  # the gradient by gamma is made of the same
    g, of_product = (_flat(draft, x, (n, columns)) for x in (scaled.gradient, product))

    def mean(x: int, kept: int) -> int:
        average = _average(draft, draft.put(Sum(x, 0), draft.bits(x)), n, fine)
        average = average if draft.value(average).kind != "share" else draft.put(Open(average), fine)
        times, drop = draft.put(Multiply(average, s), fine + ROOT), fine + ROOT - kept
        return draft.put(Truncate(times, drop, 63 - drop), kept) if drop else times

    slope = draft.put(Open(mean(of_product, ROOT)), ROOT)
    terms = draft.put(Multiply(g, s), bits), draft.put(Multiply(y, slope), bits), mean(g, bits)
    return draft.put(Combine(terms, (1, -1, -1)), bits)


RING = 60
"""Sums of any numbers of such sizes stay below 2^RING."""
CENTRED = 28
"""A window: c lies within +-1024."""
PART = 1024
"""So many squares of such numbers are summed in the ring, and twice as many that are all there are."""


def _fine(n: int) -> int:
    """Fractional bits of means of gradients of n numbers."""
    return FRACTION + min(BACK - FRACTION, math.ceil(math.log2(n)))


def _average(draft: StepDraft, total: int, n: int, bits: int) -> int:
    """Divide a sum of gradients by n, with so many fractional bits. Rounds: 1 or 2."""
    length = math.ceil(math.log2(n))
    if n == 1 << length:
        more, q = length, 1
    else:
        total = draft.rounded(total, None)
        more, q = length + 13, round(2.0 ** (length + 13) / n)
    scaled = draft.put(Combine((total,), (q,)), draft.bits(total) + more) if (q, more) != (1, 0) else total
    drop = draft.bits(scaled) - bits
    if drop <= 0:
        return draft.put(Combine((scaled,), (1 << -drop,)), bits)
    return draft.put(Truncate(scaled, drop, 63 - drop), bits)


def _mean(draft: StepDraft, x: int, axis: int, n: int) -> int:
    """Write the mean. Rounds: 0 where n is a power of two, else 2."""
    length, bits = math.ceil(math.log2(n)), draft.bits(x)
    if bits > 2 * FRACTION:
        x, bits = draft.rounded(x), FRACTION
    total = draft.put(Sum(x, axis), bits)
    if n == 1 << length:
        return draft.put(Combine((total,), (1,)), bits + length)
    kept = MEAN + 2 - length  # of a sum of n numbers: a mean needs no more
    if bits > kept:
        total, bits = draft.put(Truncate(total, bits - kept, 63 - bits + kept), kept), kept
    more = QUOTIENT - 1 + length
    scaled = draft.put(Combine((total,), (round(2.0**more / n),)), bits + more)
    drop = bits + more - MEAN
    return draft.put(Truncate(scaled, drop, 63 - drop), MEAN)


def _mean_square(draft: StepDraft, c: int, axis: int, n: int) -> int:
    """Write the mean of c c, with `BITS` fractional bits. Rounds: 0 to 2."""
    length, bits = math.ceil(math.log2(n)), 2 * FRACTION
    squares = draft.put(Multiply(c, c), bits)
    exact = n == 1 << length
    kept, part = _kept(n), _part(n)
    if part < n:  # the sum of all of them might not fit
        rows, columns = draft.value(squares).shape
        apart = (rows, n // part, part) if axis else (n // part, part, columns)
        squares = draft.put(Reshape(squares, apart), bits)
        total = draft.put(Sum(squares, 2 if axis else 1, keep=False), bits)
        total = draft.put(Truncate(total, bits - kept, 63 - bits + kept), kept)
        total = draft.put(Sum(total, axis), kept)
    else:
        total = draft.put(Sum(squares, axis), bits)
        if kept < bits:
            total = draft.put(Truncate(total, bits - kept, 63 - bits + kept), kept)
    more = length if exact else 13 + length
    q = 1 if exact else round(2.0**more / n)
    return draft.put(Combine((total,), (q << (BITS - kept - more),)), BITS)


def _kept(n: int) -> int:
    """Fractional bits of a sum of n squares."""
    length = math.ceil(math.log2(n))
    return min(2 * FRACTION, (BITS if n == 1 << length else 28) - length)


def _part(n: int) -> int:
    """How many of n squares are summed before they are rounded.

    All of them are at most 2^18 n, as a variance is; m of them may be 2^20 m (1 - m / n)^2, where those differ from all others.
    """
    most = n if n <= 2 * PART else PART
    return max(size for size in range(1, most + 1) if n % size == 0)


def _room(n: int, *, centred: bool) -> float:
    """How large n numbers that are normalised may be, so that sums of any squares fit: a part of them in the ring, v below 2^TOP."""
    square = min(2.0**TOP * (1 - 2.0**-6), 2.0 ** (RING - 2 * FRACTION) / _part(n))
    return min(LARGEST, math.sqrt(square) / (2 if centred else 1))


def _longest(n: int) -> float:
    """How large one of n numbers that are normalised can be at most.

    Its square is at most n v + d where roundings have taken d from the sum of squares, and 1 / sqrt(v) is found to a relative 2^-10, and
    below 2^(HALF + 3).
    """
    return math.sqrt(1.01 * (n + n / _part(n) * 2.0 ** (2 * (HALF + 3) - _kept(n))))


def inverse_root(draft: StepDraft, v: int) -> int:
    """1 / sqrt(v) for 0 <= v < 2^TOP with `BITS` fractional bits, a wire with `ROOT`. Rounds: 9."""
    wire = draft.put(Open(v), BITS)
    drop = BITS - SPLIT - SLACK
    beyond = draft.put(Combine((wire,), (1,), -(1 << (BITS - SPLIT))), BITS)
    large = draft.put(Sign(beyond, TOP + BITS + 1 - drop, drop=drop), 0)
    up = 1 << (2 * HALF)
    x = draft.put(Combine((wire, draft.put(Multiply(large, wire), BITS)), (up, 1 - up)), BITS)
    draft.proved[x] = 2.0 ** (TOP + BITS)  # what is below 2^-SPLIT, 2^(2 HALF) times as much, and others as they are
    cut = BITS - SEEN
    found = draft.put(Piecewise(x, cut, 63 - cut, *_pieces()), FINE)
    draft.proved[found] = 2.0 ** (FINE + 3)  # x is not below 0, and the function falls
    root = draft.put(Truncate(found, FINE - ROOT, 63 - FINE + ROOT), ROOT)
    both = draft.put(Combine((root, draft.put(Multiply(large, root), ROOT)), (1 << HALF, 1 - (1 << HALF))), ROOT)
    return draft.put(Open(both), ROOT)


@lru_cache(maxsize=1)
def _pieces() -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return knots, slopes and offsets of 1 / sqrt over what is looked up; a tenth of the error is left to rounding."""
    low, high = 2.0 ** (-SPLIT - 1), 2.0**TOP * (1 + 2.0 ** (1 - SLACK))
    found = fit(curve, low, high, tolerance=relative(curve, 0.8 * RELATIVE))
    return found.integers(2.0**-SEEN, FINE - SEEN, ends=(round(low * 2**SEEN), round(high * 2**SEEN)))


class NormalisedLayer(Layer, frozen=True):
    """(x - mean) / sqrt(variance + epsilon) over the last axis; if not `centred`, x / sqrt(mean of x x + epsilon).

    Rounds: 11 to 15; back 4 or 5.
    """

    epsilon: float
    centred: bool = True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Row by row."""
        shape = draft.value(xs[0]).shape
        rows = _flat(draft, xs[0], (math.prod(shape[:-1]), shape[-1]))
        y = standardised(draft, rows, 1, _within(self.epsilon), centred=self.centred).y
        return _flat(draft, y, shape)


class BatchNormalisedLayer(Layer, frozen=True):
    """(x - mean) / sqrt(variance + epsilon) of each channel over the batch and all places (Ioffe and Szegedy, 2015, arXiv:1502.03167).

    Statistics that are kept follow: s <- momentum s + (1 - momentum) of the batch, with the variance that divides by n, as in Keras.

    Rounds: 11 to 15; back 4 or 5, and 3 to 5 of one that is scaled. The statistics take 2 beside others.

    Attributes:
        epsilon: is added to the variance.
        momentum: of the statistics that are kept, from 0 to 1.
        mean: the name of the mean that is kept.
        variance: the name of the variance that is kept.
    """

    epsilon: float
    momentum: float
    mean: str
    variance: str

    @property
    def grows(self) -> bool:
        """In a prediction, by statistics that are not those of what it sees."""
        return True

    @property
    def moves(self) -> tuple[str, ...]:
        """What it changes beside what gradients do."""
        return self.mean, self.variance

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Column by column."""
        if not 0 <= self.momentum <= 1:
            raise ModelError(f"a momentum of {self.momentum:g} is not possible: from 0 to 1 is")
        if self.epsilon < LEAST:  # a variance that is kept may be 0, and nothing looks at it
            raise ModelError(f"a batch normalisation with epsilon={self.epsilon:g} has no form on shares: {LEAST:.2g} is the least")
        shape = draft.value(xs[0]).shape
        rows = _flat(draft, xs[0], (math.prod(shape[:-1]), shape[-1]))
        if draft.predicts:
            return _flat(draft, self._by_statistics(draft, weights, rows), shape)
        found = standardised(draft, rows, 0, _within(self.epsilon))
        for name, statistic in ((self.mean, found.mean), (self.variance, found.variance)):
            draft.moved.setdefault(name, weights[name])
            if self.momentum < 1:
                new = draft.rounded(_flat(draft, statistic, shape[-1:]), None)
                draft.moved[name] = moved(draft, draft.moved[name], new, 1 - self.momentum)
        return _flat(draft, found.y, shape)

    def _by_statistics(self, draft: StepDraft, weights: Positions, x: int) -> int:
        """Write what it computes in a prediction, by the statistics that are kept."""
        bits, row = draft.bits(x), (1, draft.value(x).shape[1])
        mean, variance = (_flat(draft, weights[name], row) for name in (self.mean, self.variance))
        c = draft.affine(draft.put(Combine((x, mean), (1, -(1 << (bits - FRACTION)))), bits), CENTRED)
        v = draft.put(Combine((variance,), (1 << (BITS - FRACTION),), round(_within(self.epsilon) * 2.0**BITS)), BITS)
        return draft.put(Multiply(c, inverse_root(draft, v)), FRACTION + ROOT)


def _within(epsilon: float) -> float:
    if not 0 <= epsilon <= 1:
        raise ModelError(f"an epsilon of {epsilon:g} is not possible: from 0 to 1 is")
    return epsilon


def _flat(draft: StepDraft, x: int, shape: Shape) -> int:
    return x if draft.value(x).shape == shape else draft.put(Reshape(x, shape), draft.bits(x))
