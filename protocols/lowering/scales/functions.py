"""Functions of several private values, written with few operations: softmax, normalisation, comparisons, the k largest.

Those of single values, which some of these are made of, are in `elementwise.py`.

Every function takes the writer, the node that it belongs to (for errors), and values whose range is proved or calibrated; it says what
range it needs, and refuses values outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from protocols.curves.positive import inverse
from protocols.curves.splines import Spline, fit
from protocols.errors import WindowError
from protocols.lowering.nodes.network import Joined, Node, Real
from protocols.lowering.scales.elementwise import (
    FINE_BITS,
    PRECISE,
    curve,
    logarithm,
    lowered_to,
    positive,
    reciprocal,
    reciprocal_root,
)
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.intervals import SLACK, Interval, combined
from protocols.lowering.scales.maxima import largest
from protocols.lowering.scales.products import product, rounded, spread, total
from protocols.lowering.scales.rounding import LARGEST_WINDOW, SUM_BITS, window_bits
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.operations.moves import Concatenate
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine, Scale, SumPool

__all__ = [
    "curve",
    "logarithm",
    "masked",
    "normalised",
    "one_hot",
    "positive",
    "reciprocal",
    "reciprocal_root",
    "softmax",
    "top_k",
    "truth",
]

EXP_TOLERANCE = 2.0**-12
LEAST_EPSILON = 2.0**-60
DEVIATION_BITS = 12  # of a deviation, below the root of epsilon
SQUARE_BITS = 29  # of a deviation times sqrt(n), so that the sum of squares stays in the ring
BELOW = 12.0  # exp(-12) is nothing


def softmax(w: Writer, node: Node, x: RangedValue, *, log: bool = False) -> RangedValue:
    """exp(x) / sum exp(x), or its logarithm, over the last axis, for any x that can be rounded.

    With m the largest and d = x - m <= 0: e = spline of exp(d), s = sum e in [1 - n 2^-12, n], e times a spline of 1 / s.
    Error: below 2^-10 + n p 2^-12 for a probability p. **Rounds**: 5 + 3 ceil(log2 n) after those that round x (log: 1 less, none to
    open).
    """
    x = w.truncated(w.share(x), node)
    length = x.shape[-1]
    top = spread(w, largest(w, node, x, len(x.shape) - 1), length)
    d = _not_positive(w.added(node, x, top, -1))
    e = curve(w, node, d, _exponential)
    s = _at_least_one(node, total(w, node, e), e, length)
    if log:
        log_s = curve(w, node, s, lambda low, high: fit(np.log, low, high, tolerance=EXP_TOLERANCE))
        return w.added(node, d, spread(w, log_s, length), -1)
    return product(w, node, e, curve(w, node, s, lambda low, high: fit(inverse, low, high, tolerance=EXP_TOLERANCE)))


def _exponential(low: float, high: float) -> Spline:
    """exp, and 0 where it is below a quarter of the tolerance."""
    reach = math.log(4 / EXP_TOLERANCE)
    if low >= -reach:
        return fit(np.exp, low, high, tolerance=EXP_TOLERANCE)
    return fit(np.exp, -reach, high, tolerance=EXP_TOLERANCE).before((0.0, 0.0), -reach)


def _not_positive(d: RangedValue) -> RangedValue:
    """x - max(x): not above 0."""
    return replace(d, range=replace(d.range, low=np.minimum(d.range.low, 0.0), high=np.zeros_like(d.range.high)))


def _at_least_one(node: Node, s: RangedValue, e: RangedValue, length: int) -> RangedValue:
    """One of the terms is exp(0), the others are not below the spline's least value."""
    least = 1 - 2 * EXP_TOLERANCE + (length - 1) * min(0.0, float(e.range.low.min())) * e.scale
    if least < 0.5:
        raise WindowError(f"layer {node.layer!r} ({node.kind}): a softmax over {length} values is too long for its approximation")
    return replace(s, range=replace(s.range, low=np.maximum(s.range.low, math.floor(least / s.scale))))


def normalised(w: Writer, node: Node, x: RangedValue, epsilon: float, *, centred: bool = True) -> RangedValue:
    """y = (x - mean) / sqrt(variance + epsilon) over the last axis of n. Rounds: 8 at most, from x to y.

    Deviations d from the mean are rounded to steps of u, the variance is that of the rounded ones. With kappa = 1.25 u / sqrt(epsilon)

        |error| <= kappa + (2^-10 + kappa) |y|,   |y| <= sqrt(n)

    for all inputs, rows that hardly vary included, as long as the domain of the root is proved. With samples it holds where variance +
    epsilon is at most margin^2 times the largest of them, and at least `Layer.least`: epsilon, if that is within `SPAN` of the largest
    and if kappa stays below 2^-10; otherwise that takes the place of epsilon, and rows that vary less come out smaller than they should.
    u is sqrt(epsilon) 2^-`DEVIATION_BITS`, or more where n d^2 would leave the ring: d sqrt(n) 2^-29. What the inputs are off by comes on
    top: any normalisation multiplies it by up to 1 / sqrt(epsilon).

    If not `centred`, x / sqrt(mean of x x + epsilon) (Zhang and Sennrich, 2019, arXiv:1910.07467).

    Raises:
        WindowError: kappa is above 2^-7, or as `positive`.
    """
    x = w.likely(x, node)
    length, radius = x.shape[-1], x.range.largest * x.scale
    reach = max(w.most(x.range) * x.scale, 2.0**-FINE_BITS) * (2 if centred else 1)
    finest = math.log2(max(epsilon, LEAST_EPSILON)) / 2 - DEVIATION_BITS
    u = 2.0 ** math.ceil(max(finest, math.log2(reach * math.sqrt(length)) - SQUARE_BITS))
    d = rounded(w, node, _centred(w, node, x, u / 8) if centred else x, u)
    variance = _raised(w, _mean_square(w, node, d, radius), epsilon)
    holds = w.most(x.range) >= x.range.largest
    domain = lowered_to(variance.range, w, (1.25 * u * 2**10) ** 2 / variance.scale, proved=holds)
    least = float(domain.low.min()) * variance.scale
    kappa = 1.25 * u / math.sqrt(least) if least > 0 else math.inf
    if kappa > 2.0**-7 and not epsilon:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): the size of its input is divided by and may be 0, but must be well above 0: give "
            "calibration=, or a larger epsilon (RMSNormalization has one)"
        )
    if kappa > 2.0**-7:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): with epsilon={epsilon:g} and inputs up to {reach:.3g} its values would be off by up to "
            f"{kappa:.2g} where they vary little; give epsilon={(1.25 * u * 2**7) ** 2:.2g} or more, a smaller input_range, or calibration="
        )
    root = reciprocal_root(w, node, variance, domain=domain if len(x.range.samples) else None)
    error = kappa + (2.0**-10 + kappa) * math.sqrt(length)
    w.layers[-1] = replace(w.layers[-1], error=error)
    root = rounded(w, node, root, 2.0**-PRECISE / (2 * math.sqrt(float(variance.range.high.max()) * variance.scale)))
    return _quotient(w, node, d, root, math.sqrt(length) * 1.01 / (d.scale * root.scale))


def _mean_square(w: Writer, node: Node, d: RangedValue, radius: float) -> RangedValue:
    """Write the mean of d d for x in [-radius, radius], at most (radius + a step)^2: by Popoviciu's inequality on variances."""
    squares = total(w, node, product(w, node, d, d))
    mean = replace(squares, scale=squares.scale / d.shape[-1])
    most = math.ceil((radius + 2 * d.scale) ** 2 / mean.scale * (1 + SLACK)) + 1
    return replace(mean, range=replace(mean.range, low=mean.range.low.clip(0, most), high=mean.range.high.clip(0, most)))


def _quotient(w: Writer, node: Node, d: RangedValue, root: RangedValue, bound: float) -> RangedValue:
    """d times the root of its own variance: below `bound`, whatever the two could be without each other."""
    if (len(d.range.samples) and not w.slack) or w.bits(d.range) + w.bits(root.range) <= SUM_BITS:
        y = product(w, node, d, root)
        return replace(y, range=y.range.clipped(bound))
    ends = np.full(d.shape, bound)
    left, right = w.factor(d), w.factor(root)
    return w.put(
        Multiply(left.position, right.position),
        d.scale * root.scale,
        Interval(-ends, ends, d.range.samples * root.range.samples),
    )


def _centred(w: Writer, node: Node, x: RangedValue, unit: float) -> RangedValue:
    """x - mean, exact, of x rounded to steps of `unit` if it would leave the ring otherwise."""
    length = x.shape[-1]
    if w.bits(x.range) + math.log2(length) + 1 > SUM_BITS:
        x = rounded(w, node, x, unit)
    sums = spread(w, total(w, node, x), length)
    bounds = combined([x.range, sums.range], [length, -1], 0)
    return w.put(Combine((x.position, sums.position), (length, -1)), x.scale / length, bounds)


def _raised(w: Writer, x: RangedValue, epsilon: float) -> RangedValue:
    """x + epsilon for x >= 0: not below epsilon."""
    constant = round(epsilon / x.scale)
    raised = w.put(Combine((x.position,), (1,), constant), x.scale, combined([x.range], [1], constant))
    return replace(raised, range=replace(raised.range, low=np.full(x.shape, float(constant))))


def truth(w: Writer, node: Node, d: RangedValue, *, equal: bool = False) -> RangedValue:
    """[d >= 0] as 0 or 1, exact for the rounded d; or [d = 0], right where d is 0 or at least one rounded unit. Rounds: 3."""
    above = _not_negative(w, node, d)
    if not equal:
        return above
    turned = w.put(Combine((d.position,), (-1,)), d.scale, combined([d.range], [-1], 0))
    both = w.added(node, above, _not_negative(w, node, turned))
    bounds = Interval(np.zeros(d.shape), np.ones(d.shape), both.range.samples - 1)
    return w.put(Combine((both.position,), (1,), -1), 1.0, bounds)


def _not_negative(w: Writer, node: Node, d: RangedValue) -> RangedValue:
    d = w.share(d)
    held = w.held(d, node)
    bounds = Interval(np.zeros(d.shape), np.ones(d.shape), (held.rounded.samples >= 0).astype(np.float64))
    return w.put(Select(d.position, held.drop, held.window, 0, 0, 1), 1.0, bounds)


def one_hot(w: Writer, node: Node, x: RangedValue, length: int) -> RangedValue:
    """[i <= x < i + 1] for i = 0 .. length - 1 on a new last axis, exact, for x that was not rounded yet. Rounds: 3.

    Raises:
        WindowError: x may lie outside of [0, length), or is proved never to reach the last of them.
    """
    low, high = math.ceil(x.range.low.min()) * x.scale, math.floor(x.range.high.max()) * x.scale  # whole in its units
    window = window_bits(x.range.largest, 0) + 1
    advice = f"give input_range=(0, {max(length - 1, 0.5):g})"
    if not 0 <= low <= high < length or window > LARGEST_WINDOW:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): its inputs may be from {low:g} to {high:g}, and indices from 0 to {length - 1} are "
            f"needed; {advice}, and clip what may lie outside"
        )
    if high + x.scale < length - 1:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): it has {length} rows, and its inputs are from {low:g} to {high:g}: the last rows could "
            f"never be asked for; {advice}, or a layer with as many rows as there are inputs"
        )
    x = w.share(x)
    hits = []
    for i in range(length):
        start, stop = (min(math.ceil(edge / x.scale), 1 << (window - 2)) for edge in (i, i + 1))
        op = Piecewise(x.position, 0, window, (start, stop), (0, 0, 0), (0, 1, 0))
        inside = (start <= x.range.samples) & (x.range.samples < stop)
        hit = w.put(op, 1.0, Interval(np.zeros(x.shape), np.ones(x.shape), inside.astype(np.float64)))
        hits.append(w.shaped((*x.shape, 1), hit))
    return w.joined(Joined(layer=node.layer, kind=node.kind, inputs=(), shape=(), axis=len(x.shape)), hits)


def masked(w: Writer, node: Node, keep: Real, x: RangedValue, m: RangedValue | None = None) -> RangedValue:
    """x where `keep` and the private bits m are 1, elsewhere a number so low that exp of it is 0 beside any x. Rounds: 0, with m 1 or 2.

    With l = min(x) - 12: (x - l) keep m + l. Where nothing is kept all are l, and a softmax over them is uniform, as in Keras.
    """
    x = w.truncated(w.share(x), node)
    low = math.floor(min(float(x.range.low.min()), 0.0) - BELOW / x.scale)
    raised = w.put(Combine((x.position,), (1,), -low), x.scale, combined([x.range], [1], -low))
    kept = raised
    if not keep.all():
        table = np.broadcast_to(keep, x.shape[-keep.ndim :])
        factors = tuple(int(f) for f in table.reshape(-1))
        kept = w.put(Scale(raised.position, factors, table.shape), raised.scale, raised.range.mapped(lambda a: a * table))
    if m is not None:
        kept = product(w, node, kept, m)
    bounds = combined([kept.range], [1], low)
    return w.put(Combine((kept.position,), (1,), low), kept.scale, bounds)


def ranks(w: Writer, node: Node, x: RangedValue) -> RangedValue:
    """How many of the elements of a vector x (n,) come before each: larger, or equal with a lower index. Rounds: 4."""
    x = w.truncated(w.share(x), node)
    length = x.shape[0]
    first, second = np.triu_indices(length, 1)
    before = truth(w, node, w.added(node, w.taken(0, first.tolist(), x), w.taken(0, second.tolist(), x), -1))
    rows = []
    for i in range(length):
        lost = np.zeros(len(first))
        lost[first == i], lost[second == i] = -1, 1
        rows.append(lost)
    counts = [int((first == i).sum()) for i in range(length)]
    return _counted(w, before, np.stack(rows), counts)


def _counted(w: Writer, bits: RangedValue, signs: Real, constants: list[int]) -> RangedValue:
    """constants + signs bits for each row, by sums of a table of +1, 0, -1 times the bits."""
    length, pairs = signs.shape
    repeated = w.taken(0, (0,) * length, w.shaped((1, pairs), bits))
    factors = tuple(int(f) for f in signs.reshape(-1))
    bounds = Interval(np.minimum(signs, 0), np.maximum(signs, 0), repeated.range.samples * signs)
    signed = w.put(Scale(repeated.position, factors, signs.shape), 1.0, bounds)
    flat = w.shaped((length, pairs, 1), signed)
    added = w.put(SumPool(flat.position, (1, pairs), (1, 1)), 1.0, flat.range.mapped(lambda a: a.sum(2, keepdims=True)))
    sums = w.shaped((length,), added)
    parts = [
        w.put(
            Combine((one.position,), (1,), constant),
            1.0,
            Interval(np.zeros(1), np.full(1, length - 1.0), one.range.samples + constant),
        )
        for one, constant in _each(w, sums, constants)
    ]
    bounds = Interval(np.zeros(length), np.full(length, length - 1.0), np.concatenate([part.range.samples for part in parts], 1))
    return w.put(Concatenate(tuple(part.position for part in parts), 0), 1.0, bounds)


def _each(w: Writer, x: RangedValue, constants: list[int]) -> Iterator[tuple[RangedValue, int]]:
    for i, constant in enumerate(constants):
        yield w.taken(0, (i,), x), constant


def top_k(w: Writer, node: Node, x: RangedValue, k: int) -> RangedValue:
    """One-hot rows (k, n) of the k largest of a vector (n,), ties to the lower index, exact for rounded values. Rounds: 7."""
    found = ranks(w, node, x)
    length = x.shape[0]
    wanted = np.repeat(np.arange(k), length).reshape(k, length)
    places = w.taken(0, (0,) * k, w.shaped((1, length), found))
    shifted = w.shaped((k * length,), places)
    hits = [
        w.put(
            Piecewise(
                w.taken(0, range(i * length, (i + 1) * length), shifted).position, 0, _small(length), (i, i + 1), (0, 0, 0), (0, 1, 0)
            ),
            1.0,
            Interval(np.zeros(length), np.ones(length), (found.range.samples == i).astype(np.float64)),
        )
        for i in wanted[:, 0].tolist()
    ]
    rows = [w.shaped((1, length), hit) for hit in hits]
    bounds = Interval(np.zeros((k, length)), np.ones((k, length)), np.concatenate([row.range.samples for row in rows], 1))
    return w.put(Concatenate(tuple(row.position for row in rows), 0), 1.0, bounds)


def _small(length: int) -> int:
    return max(4, math.ceil(math.log2(length + 2)) + 2)
