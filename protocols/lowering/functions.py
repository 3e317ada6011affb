"""Functions of private values, written with few operations: splines, softmax, division, normalisation, comparisons, the k largest.

Every function takes the writer, the node that it belongs to (for errors), and values whose range is proved or calibrated; it says what
range it needs, and refuses values outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from protocols import program as ops
from protocols.errors import WindowError
from protocols.lowering.emission import Value, Writer
from protocols.lowering.intervals import Interval, combined
from protocols.lowering.maxima import largest
from protocols.lowering.network import Joined, Node, Real
from protocols.lowering.products import product, spread, total
from protocols.lowering.rounding import LARGEST_ROUNDING, LARGEST_WINDOW, Held, window_bits
from protocols.lowering.splines import Spline, fit

SLOPE_BITS = 14
EXP_TOLERANCE = 2.0**-12
RELATIVE = 2.0**-11
FINE_BITS = 26
FINE_SLOPES = 20
COARSE = 1024  # units of the least value
SATURATING_WINDOW = 48  # bits in which a value outside of a calibrated domain is still recognised
BELOW = 12.0  # exp(-12) is nothing


def curve(w: Writer, node: Node, x: Value, spline: Callable[[float, float], Spline]) -> Value:
    """The spline that `spline(low, high)` fits to the range of x, of each element. Error: the spline's and 2^-13. Rounds: 3."""
    x = w.share(x)
    return pieces(w, node, x, w.held(x, node), spline, bits=SLOPE_BITS)


def pieces(w: Writer, node: Node, x: Value, held: Held, spline: Callable[[float, float], Spline], *, bits: int) -> Value:
    """A spline of a share that is rounded as `held` says, slopes with `bits` fractional bits.

    Raises:
        WindowError: the function cannot be fitted over the range of x.
    """
    unit = x.scale * 2.0**held.drop
    rounded = held.rounded if held.drop else held.range
    low, high = float(rounded.low.min()), float(rounded.high.max())
    try:
        fitted = spline(low * unit, high * unit)
    except ValueError as error:
        raise WindowError(f"layer {node.layer!r} ({node.kind}): {error}. Normalise its inputs, or give calibration=") from None
    if any(slope * 2**bits % 1 for slope in (fitted.slopes[0], fitted.slopes[-1])):
        longest = max(fitted.knots[0] - low * unit, high * unit - fitted.knots[-1]) if fitted.knots else (high - low) * unit
        bits += max(0, math.ceil(math.log2(max(longest / 8, 1.0))))  # so that a rounded slope does not lead far away
    knots, slopes, offsets = integers(fitted, unit, bits, ends=(math.floor(low), math.ceil(high)))
    op = ops.Piecewise(x.position, held.drop, held.window + 1, knots, slopes, offsets)

    def value(t: Real) -> Real:
        piece = np.searchsorted(knots, t, side="right")
        y: Real = np.asarray(slopes, np.float64)[piece] * t + np.asarray(offsets, np.float64)[piece]
        return y

    corners = np.unique(np.clip([low, high, *knots, *(knot - 1 for knot in knots)], low, high))
    ends = value(corners)
    bounds = Interval(np.full(x.shape, ends.min()), np.full(x.shape, ends.max()), value(rounded.samples)).widened()
    return w.put(op, "share", unit * 2.0**-bits, bounds)


def integers(spline: Spline, unit: float, bits: int, *, ends: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Knots, slopes and offsets for integers of a scale: slopes are rounded, offsets make each line right in the middle of its piece."""
    edges = [math.ceil(knot / unit) for knot in spline.knots] or [sum(ends) // 2]
    slopes, offsets = (each if spline.knots else each * 2 for each in (spline.slopes, spline.offsets))
    edges = [min(ends[0], edges[0]), *edges, max(ends[1], edges[-1])]
    lines: list[tuple[int, int, int]] = []
    for k, (slope, offset) in enumerate(zip(slopes, offsets, strict=True)):
        start, stop = edges[k], edges[k + 1]
        whole, middle = round(slope * 2**bits), (start + stop) // 2
        constant = round((slope * middle + offset / unit) * 2**bits) - whole * middle
        if len(lines) > 1 and lines[-1][0] == start:
            lines.pop()  # a piece of no length
        lines.append((start, whole, constant))
    starts, wholes, constants = zip(*lines, strict=True)
    return starts[1:], wholes, constants


def softmax(w: Writer, node: Node, x: Value, *, log: bool = False) -> Value:
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
        logarithm = curve(w, node, s, lambda low, high: fit(np.log, low, high, tolerance=EXP_TOLERANCE))
        return w.added(node, d, spread(w, logarithm, length), -1)
    return product(w, node, e, curve(w, node, s, lambda low, high: fit(_inverse, low, high, tolerance=EXP_TOLERANCE)))


def _exponential(low: float, high: float) -> Spline:
    """exp, and 0 where it is below a quarter of the tolerance."""
    reach = math.log(4 / EXP_TOLERANCE)
    if low >= -reach:
        return fit(np.exp, low, high, tolerance=EXP_TOLERANCE)
    return fit(np.exp, -reach, high, tolerance=EXP_TOLERANCE).before((0.0, 0.0), -reach)


def _not_positive(d: Value) -> Value:
    """x - max(x): not above 0."""
    return replace(d, range=replace(d.range, low=np.minimum(d.range.low, 0.0), high=np.zeros_like(d.range.high)))


def _at_least_one(node: Node, s: Value, e: Value, length: int) -> Value:
    """One of the terms is exp(0), the others are not below the spline's least value."""
    least = 1 - 2 * EXP_TOLERANCE + (length - 1) * min(0.0, float(e.range.low.min())) * e.scale
    if least < 0.5:
        raise WindowError(f"layer {node.layer!r} ({node.kind}): a softmax over {length} values is too long for its approximation")
    return replace(s, range=replace(s.range, low=np.maximum(s.range.low, math.floor(least / s.scale))))


def _inverse(x: Real) -> Real:
    y: Real = 1 / x
    return y


def _inverse_root(x: Real) -> Real:
    y: Real = 1 / np.sqrt(x)
    return y


def positive(
    w: Writer, node: Node, x: Value, function: Callable[[Real], Real], *, tolerance: Callable[[Real], Real] | None = None
) -> Value:
    """A function of positive values, to the tolerance (a relative 2^-11) and the rounding of x to 26 fractional bits or fewer. Rounds: 3.

    Its domain is what is proved of x, or with samples, where that is less, from the least of them / margin^2 to the largest * margin^2.
    Then the layer is reported as calibrated, and outside of the domain the function has the value of the nearer end, as long as x stays
    inside the window: that of the proof, up to `SATURATING_WINDOW` bits.

    Raises:
        WindowError: x is not known to be positive, or spans too many magnitudes.
    """
    x = w.share(x)
    domain = _expected(x.range, w.margin)
    if domain.low.min() < COARSE:
        finer = w.finer(replace(x, range=domain), FINE_BITS)
        domain, x = finer.range, replace(finer, range=_times(x.range, x.scale / finer.scale))
    source = "proved" if domain.low.min() <= x.range.low.min() and domain.high.max() >= x.range.high.max() else "calibrated"
    held = _fine(x, domain, source)
    low, high = float(domain.low.min()), float(domain.high.max())
    if low < 4 * 2.0**held.drop:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): a value that is divided by is {source} to be at least {low * x.scale:.3g} "
            "only; it must be well above 0: give calibration=, or a larger epsilon"
        )
    w.report(node, high * x.scale, held.window, held.drop, source, least=low * x.scale)

    def relative(end: Real) -> Real:
        return RELATIVE * function(end)

    allowed = tolerance or relative

    def fitted(_: float, last: float) -> Spline:
        if source == "proved":
            return fit(function, low * x.scale / 2, last, tolerance=allowed)
        return fit(function, low * x.scale, end, tolerance=allowed).level(low * x.scale, end)

    end = high * x.scale
    bits = math.ceil(math.log2(end / float(allowed(np.asarray(end)))))  # a rounded slope keeps the error to the end
    return pieces(w, node, x, held, fitted, bits=max(bits, FINE_SLOPES))


def _fine(x: Value, domain: Interval, source: str) -> Held:
    """As many fractional bits as the domain has room for, up to 26, in a window that holds all of x if that is possible."""
    finest = max(0, round(-math.log2(x.scale)) - FINE_BITS)
    drop = next((d for d in range(finest, 62) if window_bits(domain.largest, d) < LARGEST_WINDOW), 0)
    widest = max(min(SATURATING_WINDOW, LARGEST_ROUNDING - drop), window_bits(domain.largest, drop))
    window = min(window_bits(x.range.largest, drop), widest)
    return Held(x.range.clipped(2.0 ** (drop + window - 1) - 2.0 ** (drop + 1)), drop, window, source)


def _expected(x: Interval, margin: float) -> Interval:
    """The range of positive values: proved, or with samples from the least to the largest of them, with a margin on both sides."""
    if not len(x.samples):
        return x
    low = max(float(x.low.min()), float(x.samples.min()) / margin**2)
    high = min(float(x.high.max()), float(x.samples.max()) * margin**2)
    return Interval(x.low.clip(low, high), x.high.clip(low, high), x.samples)


def _times(x: Interval, factor: float) -> Interval:
    """By a positive number."""
    return x.mapped(lambda a: a * factor)


def reciprocal(w: Writer, node: Node, x: Value) -> Value:
    """1 / x for positive x, to a relative 10^-3; see `positive` for its domain, and for what is outside of it. Rounds: 3."""
    return positive(w, node, x, _inverse)


def reciprocal_root(w: Writer, node: Node, x: Value) -> Value:
    """1 / sqrt(x) for positive x, to a relative 10^-3; see `positive` for its domain, and for what is outside of it. Rounds: 3."""
    return positive(w, node, x, _inverse_root)


def normalised(w: Writer, node: Node, x: Value, epsilon: float, *, centred: bool = True) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over the last axis, to 2^-9 of the largest possible value. Rounds: 8 to 9.

    With samples the domain of the root may come from their variances: see `positive`.

    If not `centred`, x / sqrt(mean of x x + epsilon) (Zhang and Sennrich, 2019, arXiv:1910.07467).
    """
    x = w.truncated(w.share(x), node)
    length = x.shape[-1]
    d = _centred(w, node, x) if centred else x
    square = product(w, node, d, d)
    variance = total(w, node, square)
    variance = replace(variance, scale=variance.scale / length)
    root = w.truncated(reciprocal_root(w, node, _raised(w, variance, epsilon)), node)
    bound = math.sqrt(length) * 1.01 / (d.scale * root.scale)
    y = product(w, node, d, root)
    return replace(y, range=y.range.clipped(bound))


def _centred(w: Writer, node: Node, x: Value) -> Value:
    """x - mean."""
    length = x.shape[-1]
    sums = spread(w, total(w, node, x), length)
    bounds = combined([x.range, sums.range], [length, -1], 0)
    d = w.put(ops.Combine((x.position, sums.position), (length, -1)), x.kind, x.scale / length, bounds)
    return w.truncated(d, node)


def _raised(w: Writer, x: Value, epsilon: float) -> Value:
    """x + epsilon for x >= 0: not below epsilon."""
    constant = round(epsilon / x.scale)
    raised = w.put(ops.Combine((x.position,), (1,), constant), x.kind, x.scale, combined([x.range], [1], constant))
    return replace(raised, range=replace(raised.range, low=np.full(x.shape, float(constant))))


def logarithm(w: Writer, node: Node, x: Value) -> Value:
    """log x for positive x, to 2^-11 and the rounding of x to a relative 2^-11. Rounds: 3.

    Its domain, and what is outside of it: see `positive`.

    Raises:
        WindowError: as `positive`.
    """
    return positive(w, node, x, np.log, tolerance=lambda _: np.asarray(RELATIVE))


def truth(w: Writer, node: Node, d: Value, *, equal: bool = False) -> Value:
    """[d >= 0] as 0 or 1, exact for the rounded d; or [d = 0], right where d is 0 or at least one rounded unit. Rounds: 3."""
    above = _not_negative(w, node, d)
    if not equal:
        return above
    turned = w.put(ops.Combine((d.position,), (-1,)), d.kind, d.scale, combined([d.range], [-1], 0))
    both = w.added(node, above, _not_negative(w, node, turned))
    bounds = Interval(np.zeros(d.shape), np.ones(d.shape), both.range.samples - 1)
    return w.put(ops.Combine((both.position,), (1,), -1), "share", 1.0, bounds)


def _not_negative(w: Writer, node: Node, d: Value) -> Value:
    d = w.share(d)
    held = w.held(d, node)
    bounds = Interval(np.zeros(d.shape), np.ones(d.shape), (held.rounded.samples >= 0).astype(np.float64))
    return w.put(ops.Select(d.position, held.drop, held.window, 0, 0, 1), "share", 1.0, bounds)


def one_hot(w: Writer, node: Node, x: Value, length: int) -> Value:
    """[i <= x < i + 1] for i = 0 .. length - 1 on a new last axis, exact, for x that was not rounded yet. Rounds: 3.

    Raises:
        WindowError: x may lie outside of [0, length).
    """
    low, high = float(x.range.low.min()) * x.scale, float(x.range.high.max()) * x.scale
    window = window_bits(x.range.largest, 0) + 1
    if not 0 <= low <= high < length or window > LARGEST_WINDOW:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): indices from 0 to {length - 1} are needed; give input_range=(0, {length - 1})"
        )
    x = w.share(x)
    hits = []
    for i in range(length):
        start, stop = (min(math.ceil(edge / x.scale), 1 << (window - 2)) for edge in (i, i + 1))
        op = ops.Piecewise(x.position, 0, window, (start, stop), (0, 0, 0), (0, 1, 0))
        inside = (start <= x.range.samples) & (x.range.samples < stop)
        hit = w.put(op, "share", 1.0, Interval(np.zeros(x.shape), np.ones(x.shape), inside.astype(np.float64)))
        hits.append(w.shaped((*x.shape, 1), hit))
    return w.joined(Joined(layer=node.layer, kind=node.kind, inputs=(), shape=(), axis=len(x.shape)), hits)


def masked(w: Writer, node: Node, keep: Real, x: Value, m: Value | None = None) -> Value:
    """x where `keep` and the private bits m are 1, elsewhere a number so low that exp of it is 0 beside any x. Rounds: 0, with m 1 or 2.

    With l = min(x) - 12: (x - l) keep m + l. Where nothing is kept all are l, and a softmax over them is uniform, as in Keras.
    """
    x = w.truncated(w.share(x), node)
    low = math.floor(min(float(x.range.low.min()), 0.0) - BELOW / x.scale)
    raised = w.put(ops.Combine((x.position,), (1,), -low), x.kind, x.scale, combined([x.range], [1], -low))
    kept = raised
    if not keep.all():
        table = np.broadcast_to(keep, x.shape[-keep.ndim :])
        factors = tuple(int(f) for f in table.reshape(-1))
        kept = w.put(
            ops.Multiply(raised.position, factors, table.shape), raised.kind, raised.scale, raised.range.mapped(lambda a: a * table)
        )
    if m is not None:
        kept = product(w, node, kept, m)
    bounds = combined([kept.range], [1], low)
    return w.put(ops.Combine((kept.position,), (1,), low), kept.kind, kept.scale, bounds)


def ranks(w: Writer, node: Node, x: Value) -> Value:
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


def _counted(w: Writer, bits: Value, signs: Real, constants: list[int]) -> Value:
    """constants + signs bits for each row, by sums of a table of +1, 0, -1 times the bits."""
    length, pairs = signs.shape
    repeated = w.taken(0, (0,) * length, w.shaped((1, pairs), bits))
    factors = tuple(int(f) for f in signs.reshape(-1))
    bounds = Interval(np.minimum(signs, 0), np.maximum(signs, 0), repeated.range.samples * signs)
    signed = w.put(ops.Multiply(repeated.position, factors, signs.shape), "share", 1.0, bounds)
    flat = w.shaped((length, pairs, 1), signed)
    added = w.put(ops.SumPool(flat.position, (1, pairs), (1, 1)), "share", 1.0, flat.range.mapped(lambda a: a.sum(2, keepdims=True)))
    sums = w.shaped((length,), added)
    parts = [
        w.put(
            ops.Combine((one.position,), (1,), constant),
            "share",
            1.0,
            Interval(np.zeros(1), np.full(1, length - 1.0), one.range.samples + constant),
        )
        for one, constant in _each(w, sums, constants)
    ]
    bounds = Interval(np.zeros(length), np.full(length, length - 1.0), np.concatenate([part.range.samples for part in parts], 1))
    return w.put(ops.Concatenate(tuple(part.position for part in parts), 0), "share", 1.0, bounds)


def _each(w: Writer, x: Value, constants: list[int]) -> Iterator[tuple[Value, int]]:
    for i, constant in enumerate(constants):
        yield w.taken(0, (i,), x), constant


def top_k(w: Writer, node: Node, x: Value, k: int) -> Value:
    """One-hot rows (k, n) of the k largest of a vector (n,), ties to the lower index, exact for rounded values. Rounds: 7."""
    found = ranks(w, node, x)
    length = x.shape[0]
    wanted = np.repeat(np.arange(k), length).reshape(k, length)
    places = w.taken(0, (0,) * k, w.shaped((1, length), found))
    shifted = w.shaped((k * length,), places)
    hits = [
        w.put(
            ops.Piecewise(
                w.taken(0, range(i * length, (i + 1) * length), shifted).position, 0, _small(length), (i, i + 1), (0, 0, 0), (0, 1, 0)
            ),
            "share",
            1.0,
            Interval(np.zeros(length), np.ones(length), (found.range.samples == i).astype(np.float64)),
        )
        for i in wanted[:, 0].tolist()
    ]
    rows = [w.shaped((1, length), hit) for hit in hits]
    bounds = Interval(np.zeros((k, length)), np.ones((k, length)), np.concatenate([row.range.samples for row in rows], 1))
    return w.put(ops.Concatenate(tuple(row.position for row in rows), 0), "share", 1.0, bounds)


def _small(length: int) -> int:
    return max(4, math.ceil(math.log2(length + 2)) + 2)
