"""Functions of single private values: any curve as a spline, and reciprocals, roots and logarithms to a relative error.

Every function takes the writer, the node that it belongs to (for errors), and a value whose range is proved or calibrated; it says what
range it needs, and refuses values outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from protocols.curves.positive import RELATIVE, inverse, inverse_root, relative
from protocols.curves.splines import Spline, fit
from protocols.errors import WindowError
from protocols.lowering.nodes.network import Node, Real, Scaled
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import LARGEST_ROUNDING, LARGEST_WINDOW, LEAST_WINDOW, SUM_BITS, Held, window_bits
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.inputs.declared import RING_BITS
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Scale

SLOPE_BITS = 14
FINE_BITS = 26
FINE_SLOPES = 20
FINEST_UNIT = 2.0**-44  # of the input of a curve, so that its values fit the ring
COARSE = 1024  # units of the least value
PRECISE = 11  # bits of the least value that is rounded
SPARE = 4  # bits that slopes can do without: a piece is a sixteenth of the range or less where the function bends
SPAN = 2.0**26  # between the least and the largest value of a root, for its slopes to fit the ring
SATURATING_WINDOW = 48  # bits in which a value outside of a calibrated domain is still recognised


def curve(w: Writer, node: Node, x: RangedValue, spline: Callable[[float, float], Spline], *, steep: float = 1.0) -> RangedValue:
    """Write the spline that `spline(low, high)` fits to the range of each element of x. Error: the spline's and 2^-13. Rounds: 3.

    With slopes up to `steep`, more than 2, x is rounded to so much finer steps.

    Raises:
        WindowError: x cannot be rounded so finely, or the function cannot be fitted over its range.
    """
    x = w.share(x)
    held = w.held(x, node)
    finer = max(0, math.ceil(math.log2(steep)) - 1) if steep > 0 else 0
    coarsest = math.ceil(math.log2(FINEST_UNIT / x.scale))
    drop = max(0, held.drop - finer, coarsest)
    if drop != held.drop:
        held = replace(held, drop=drop, window=max(LEAST_WINDOW, window_bits(held.range.largest, drop)))
        w.layers[-1] = replace(w.layers[-1], drop=drop, window=held.window)
        if not held.fits:
            raise WindowError(
                f"layer {node.layer!r} ({node.kind}): its slope is up to {steep:g}, its inputs up to {held.range.largest * x.scale:.3g} "
                "would have to be rounded to steps that are too fine. Normalise its inputs, or give calibration="
            )
    return pieces(w, node, x, held, spline, bits=SLOPE_BITS)


def pieces(
    w: Writer, node: Node, x: RangedValue, held: Held, spline: Callable[[float, float], Spline], *, bits: int, spare: int = 0
) -> RangedValue:
    """Write a spline of a share, rounded as `held` says, slopes with `bits` fractional bits, or `spare` less where that is too many.

    Raises:
        WindowError: the function cannot be fitted over the range of x.
    """
    unit = x.scale * 2.0**held.drop
    whole = held.rounded if held.drop else held.range
    low = float(whole.low.min())
    high = max(float(whole.high.max()), low + 1)  # of a constant, too
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # of an exponential that is refused
            fitted = spline(low * unit, high * unit)
    except ValueError as error:
        raise WindowError(f"layer {node.layer!r} ({node.kind}): {error}. Normalise its inputs, or give calibration=") from None
    bits += _more_bits(fitted, low * unit, high * unit, bits, ends_only=spare > 0)
    if spare:
        most = float(np.abs(fitted(np.array([low * unit, high * unit, *fitted.knots]))).max())
        room = math.floor(SUM_BITS - math.log2(most / unit))
        if room < bits - spare:
            raise WindowError(
                f"layer {node.layer!r} ({node.kind}): a value that is divided by spans too many magnitudes, from {low * unit:.3g} "
                f"to {high * unit:.3g}: give calibration=, a smaller input_range, or a larger epsilon"
            )
        bits = min(bits, room)
    knots, slopes, offsets = fitted.integers(unit, bits, ends=(math.floor(low), math.ceil(high)))
    if max(map(abs, (*slopes, *offsets))) >> (RING_BITS - 1):
        most = float(np.abs(fitted(np.array([low, high]) * unit)).max())
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): of inputs from {low * unit:.3g} to {high * unit:.3g} its values reach {most:.3g}, which "
            "does not fit the fixed point. Normalise its inputs, or give calibration= or a smaller input_range"
        )
    op = Piecewise(x.position, held.drop, held.window + 1, knots, slopes, offsets)

    def value(t: Real) -> Real:
        piece = np.searchsorted(knots, t, side="right")
        y: Real = np.asarray(slopes, np.float64)[piece] * t + np.asarray(offsets, np.float64)[piece]
        return y

    corners = np.unique(np.clip([low, high, *knots, *(knot - 1 for knot in knots)], low, high))
    ends = value(corners)
    bounds = Interval(np.full(x.shape, ends.min()), np.full(x.shape, ends.max()), value(whole.samples)).widened()
    return w.put(op, unit * 2.0**-bits, bounds)


def _more_bits(spline: Spline, low: float, high: float, bits: int, *, ends_only: bool) -> int:
    """How many more bits slopes need, so that a rounded one does not lead far away along a piece that is longer than 8.

    Args:
        spline: over [low, high].
        low: least x.
        high: largest x.
        bits: of the slopes.
        ends_only: the bits were chosen for all pieces but the first and the last.
    """
    ends = np.clip([low, *spline.knots, high], low, high)
    inexact = [slope * 2**bits % 1 != 0 for slope in spline.slopes]
    lengths = np.diff(ends)
    if ends_only:
        lengths, inexact = lengths[[0, -1]], [inexact[0] or inexact[-1]] * 2
    longest = float(lengths[inexact].max(initial=0.0))
    return max(0, math.ceil(math.log2(max(longest / 8, 1.0))))


def positive(
    w: Writer,
    node: Node,
    x: RangedValue,
    function: Callable[[Real], Real],
    *,
    tolerance: Callable[[Real], Real] | None = None,
    domain: Interval | None = None,
) -> RangedValue:
    """Write a function of positive values, to the tolerance (a relative 2^-11) and rounding x to 26 fractional bits or fewer. Rounds: 3.

    Its domain is what is proved of x, or with samples, where that is less, from the least of them / margin^2 to the largest * margin^2.
    Then the layer is reported as calibrated, and outside of the domain the function has the value of the nearer end, as long as x stays
    inside the window: that of the proof, up to `SATURATING_WINDOW` bits. `domain` is another choice of it.

    Raises:
        WindowError: x is not known to be positive, or spans too many magnitudes.
    """
    x = w.share(x)
    chosen = domain is not None
    x, domain, source = w.within(x, expected(x.range, w.margin) if domain is None else domain)
    if domain.low.min() < COARSE:
        finer = w.finer(replace(x, range=domain), FINE_BITS)
        domain, x = finer.range, replace(finer, range=_times(x.range, x.scale / finer.scale))
    held = _fine(x, domain, source)
    low, high = float(domain.low.min()), float(domain.high.max())
    if low < (2.0 ** (PRECISE - 1) if held.drop else 4.0) * 2.0**held.drop:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): a value that is divided by is {source} to be at least {low * x.scale:.3g} "
            "only; it must be well above 0: give calibration=, or a larger epsilon"
        )
    w.report(node, high * x.scale, held.window, held.drop, source, least=low * x.scale)

    allowed = tolerance or relative(function)

    def fitted(_: float, last: float) -> Spline:
        if source == "proved" and not chosen:
            return fit(function, low * x.scale / 2, last, tolerance=allowed)
        return fit(function, low * x.scale, end, tolerance=allowed).level(low * x.scale, end)

    end = high * x.scale
    needed = math.ceil(math.log2(end / float(allowed(np.asarray(end)))))  # a rounded slope keeps the error to the end
    bits = max(needed, FINE_SLOPES)
    return pieces(w, node, x, held, fitted, bits=bits, spare=SPARE + bits - needed)


def _fine(x: RangedValue, domain: Interval, source: str) -> Held:
    """As many fractional bits as the domain has room for, up to 26, in a window that holds all of x if that is possible.

    More bits where the least value would have less than a relative 2^-`PRECISE`, up to `SATURATING_WINDOW`.
    """
    finest = max(0, round(-math.log2(x.scale)) - FINE_BITS)
    drop = next((d for d in range(finest, 62) if window_bits(domain.largest, d) < LARGEST_WINDOW), 0)
    precise = max(0, math.floor(math.log2(max(domain.low.min(), 1.0))) - PRECISE)
    if precise < drop:
        drop = next((d for d in range(precise, drop) if window_bits(domain.largest, d) < SATURATING_WINDOW), drop)
    widest = max(min(SATURATING_WINDOW, LARGEST_ROUNDING - drop), window_bits(domain.largest, drop))
    window = min(window_bits(x.range.largest, drop), widest)
    return Held(x.range.clipped(2.0 ** (drop + window - 1) - 2.0 ** (drop + 1)), drop, window, source)


def expected(x: Interval, margin: float) -> Interval:
    """Return the range of positive values: proved, or with samples from the least to the largest of them, with a margin on both sides."""
    if not len(x.samples):
        return x
    low = max(float(x.low.min()), float(x.samples.min()) / margin**2)
    high = min(float(x.high.max()), float(x.samples.max()) * margin**2)
    return Interval(x.low.clip(low, high), x.high.clip(low, high), x.samples)


def lowered_to(x: Interval, w: Writer, least: float, *, proved: bool = False) -> Interval:
    """Return the expected range of positive values, and below it what a root can hold beside the largest: down to `least` or the proof.

    What has been normalised on the samples may hardly vary in another input: with a constant added (epsilon) that is no special case, as
    long as the root is fitted from there on. It costs about seven knots for each factor of two, and no round. Where that is checked, it is
    one: such an input may be wrong, since roundings before the root are enlarged by up to 1 / sqrt(epsilon), more than on any sample.

    Args:
        x: the values; their samples are what is expected.
        w: the writer, with the margin of the samples.
        least: below which the caller cannot be precise.
        proved: the largest value may be that of the proof, too, if both ends are not further apart than `SPAN`.
    """
    usual = expected(x, w.margin)
    if not len(x.samples) or w.slack:
        return usual
    low, high, proof = float(usual.low.min()), float(usual.high.max()), float(x.low.min())
    if proved and 0 < float(x.high.max()) <= proof * SPAN:
        high = float(x.high.max())
    low = min(low, max(proof, least, high / SPAN))
    return Interval(x.low.clip(low, high), x.high.clip(low, high), x.samples)


def _times(x: Interval, factor: float) -> Interval:
    """By a positive number."""
    return x.mapped(lambda a: a * factor)


def reciprocal(w: Writer, node: Node, x: RangedValue) -> RangedValue:
    """1 / x for positive x, to a relative 10^-3; see `positive` for its domain, and for what is outside of it. Rounds: 3."""
    return positive(w, node, x, inverse)


def reciprocal_root(w: Writer, node: Node, x: RangedValue, *, domain: Interval | None = None) -> RangedValue:
    """1 / sqrt(x) for positive x, to a relative 10^-3; see `positive` for its domain, and for what is outside of it. Rounds: 3.

    With samples its domain begins where x is proved to begin, if that is above 0 and within `SPAN` of the largest (an epsilon was added).
    """
    if domain is None and len(x.range.samples) and expected(x.range, w.margin).high.max() <= x.range.low.min() * SPAN:
        domain = lowered_to(x.range, w, 0.0)
    return positive(w, node, x, inverse_root, domain=domain)


def logarithm(w: Writer, node: Node, x: RangedValue) -> RangedValue:
    """log x for positive x, to 2^-11 and the rounding of x to a relative 2^-11. Rounds: 3.

    Its domain, and what is outside of it: see `positive`.

    Raises:
        WindowError: as `positive`.
    """
    return positive(w, node, x, np.log, tolerance=lambda _: np.asarray(RELATIVE))


def scaled(w: Writer, node: Scaled, x: RangedValue) -> RangedValue:
    """Each element times a public integer."""
    bounds = x.range.mapped(lambda a: a * node.table)
    if w.bits(bounds) > SUM_BITS:
        raise WindowError(
            f"model {node.layer!r}: the ranges of its features differ by a factor of {node.table.max():.3g}, and what reads them first has "
            "no weights to even that out; begin with Normalization, or give ranges that are closer to each other"
        )
    factors = tuple(int(f) for f in node.table.reshape(-1))
    return w.put(Scale(x.position, factors, node.table.shape), x.scale, bounds)
