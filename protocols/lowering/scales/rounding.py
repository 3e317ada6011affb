"""How a sum is rounded: how many bits are dropped, in which window, and why the window holds.

A rounding keeps `FRACTION` fractional bits where its window stays within `GOOD_WINDOW` bits, fewer where sums are large, but at least
`LEAST_FRACTION`, and more where sums are so small that the window would be less than `LEAST_WINDOW`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from protocols.errors import EncodingError, WindowError
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.intervals import Interval
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.parties.exchange import Ring

FRACTION = 15
LEAST_FRACTION = 13
GOOD_WINDOW = 24
LEAST_WINDOW = 17  # a comparison of 16 bits: four blocks
LARGEST_WINDOW = 32
LARGEST_ROUNDING = 62  # drop + window
TABLE_BITS = 16
SIGNIFICANT_BITS = 14  # of the largest weight of a layer, at least
CONSTANT_BITS = 24
NEARLY = 63 / 64
"""Of a power of two: beside that, a window has room for what a rounding adds."""
SUM_BITS = 60
"""A sum stays below 2^60, by proof or on the samples, so that it can be rounded, and the difference of two be compared."""


@dataclass(frozen=True)
class LayerWindow:
    """How the sums of one layer are held.

    Attributes:
        name: of the Keras layer.
        kind: its class, and those that were folded into it.
        bound: the largest sum, in real numbers, that the window was made for.
        window: bits of the rounded value, its sign included.
        drop: bits that are rounded away.
        source: "proved" from the weights, the input range and what the layers before hold, or "calibrated" on samples: an input whose sums
            are larger gives a wrong answer.
        least: of a reciprocal, a root or a logarithm, the least value that it was made for; None for others.
        error: of a normalisation, how far a value may be from the exact one for the same inputs (`functions.normalised`); None for others.
    """

    name: str
    kind: str
    bound: float
    window: int
    drop: int
    source: str
    least: float | None = None
    error: float | None = None


@dataclass(frozen=True, eq=False)
class Held:
    """A sum with the window in which it is rounded; `range` is what it is before, cut to what was calibrated."""

    range: Interval
    drop: int
    window: int
    source: str

    @property
    def fits(self) -> bool:
        """Whether the protocols have such a window."""
        return self.window <= LARGEST_WINDOW and self.drop + self.window <= LARGEST_ROUNDING

    @property
    def rounded(self) -> Interval:
        """Of floor(x / 2^drop), and one more at most."""
        low, high, samples = (bound * 2.0**-self.drop for bound in (self.range.low, self.range.high, self.range.samples))
        return Interval(np.floor(low) - 1, np.floor(high) + 2, np.rint(samples))


def hold(bounds: Interval, scale: float, node: Node, *, margin: float, slack: float = 0.0) -> Held:
    """Return the window for rounding a sum of a public scale, by proof if that is good enough, otherwise from the samples.

    A calibrated window is wider by a part `slack` or more, see `calibrated_end`: for what checks it.

    Raises:
        WindowError: neither the proof nor `margin` times the largest sum on the samples fits a window of `LARGEST_WINDOW` bits.
    """
    proved = _held(bounds, scale, "proved")
    if proved.fits:
        return proved
    if not len(bounds.samples):
        possible = 2.0 ** (min(LARGEST_WINDOW + proved.drop, LARGEST_ROUNDING) - 1) * scale
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): its sums are proved to stay below {bounds.largest * scale:.3g} only, the fixed point "
            f"holds {possible:.3g}. Give sample inputs as calibration=, a smaller input_range, or use "
            "BatchNormalization or weight constraints"
        )
    calibrated = _held(bounds.clipped(calibrated_end(bounds, margin, slack)), scale, "calibrated")
    if calibrated.fits:
        return calibrated
    where = f"layer {node.layer!r} ({node.kind}): on the calibration samples, with margin {margin:g}, its sums"
    raise WindowError(f"{where} {_misfit(calibrated, scale)}")


def hold_beside(bounds: Interval, scale: float, node: Node, *, constant: float, margin: float, slack: float = 0.0) -> Held:
    """Return the window for rounding a sum so coarsely that a constant above 0 has `CONSTANT_BITS` bits beside it; `slack` as in `hold`.

    Raises:
        WindowError: the sum is too large for that, by proof and on the samples.
    """
    drop = math.ceil(math.log2(constant / scale)) - CONSTANT_BITS
    proved = Held(bounds, drop, window_bits(bounds.largest, drop), "proved")
    if proved.fits:
        return proved
    likely = bounds.clipped(calibrated_end(bounds, margin, slack))
    calibrated = Held(likely, drop, window_bits(likely.largest, drop), "calibrated")
    if calibrated.fits and len(bounds.samples):
        return calibrated
    raise WindowError(
        f"layer {node.layer!r} ({node.kind}): a constant in it reaches {constant:.3g}, beside inputs up to {likely.largest * scale:.3g} in "
        f"units of 2^{math.log2(scale):.0f}, which does not fit the fixed point: use smaller constants, or scale its inputs"
    )


def calibrated_end(bounds: Interval, margin: float, slack: float) -> float:
    """Return what a value is taken not to exceed on the samples: `margin` times the largest; more where that is compared at run time.

    The knot of a comparison is public. So that it tells no more than a window, the order of magnitude, the end is 63 / 64 of a power of
    two: the least such number that is larger by a part `slack`, and the largest that fits a window as it is.
    """
    largest = bounds.expected(margin)
    if not slack:
        return largest
    power: float = math.exp2(math.ceil(math.log2(max(largest * (1 + slack) / NEARLY, 1.0))))
    return NEARLY * power


def _misfit(held: Held, scale: float) -> str:
    """Why a window is not possible, and what helps."""
    reach = f"reach {held.range.largest * scale:.3g}"
    if held.window > LARGEST_WINDOW:
        return (
            f"{reach}, which needs a window of {held.window} bits; {LARGEST_WINDOW} are possible. Use a smaller margin, or normalise the "
            "activations"
        )
    return (
        f"{reach} in units of 2^{math.log2(scale):.0f}: {held.drop} bits to round away and a window of {held.window} bits, "
        f"{held.drop + held.window} together; {LARGEST_ROUNDING} are possible. Use larger weights in the linear layers before it, an "
        "activation or a normalisation between them, or smaller constants"
    )


def _held(bounds: Interval, scale: float, source: str) -> Held:
    drop = dropped(bounds.largest, scale)
    return Held(bounds, drop, window_bits(bounds.largest, drop), source)


def dropped(largest: float, scale: float) -> int:
    """How many bits are dropped from a sum of up to `largest`."""
    finest, coarsest = (max(0, round(-math.log2(scale)) - fraction) for fraction in (FRACTION, LEAST_FRACTION))
    while finest > 0 and window_bits(largest, finest) < LEAST_WINDOW:
        finest -= 1
    return next((drop for drop in range(finest, coarsest) if window_bits(largest, drop) <= GOOD_WINDOW), coarsest)


def window_bits(largest: float, drop: int) -> int:
    """Return the smallest w >= 3 with largest <= 2^(drop + w - 1) - 2^(drop + 1)."""
    needed = largest + 2.0 ** (drop + 1)
    return max(3, math.ceil(math.log2(needed) + 1e-9) - drop + 1)


def common_multiple(counts: list[int]) -> int:
    """Return a number that all counts divide, or nearly, to a relative 2^-`TABLE_BITS`, if the least such number is large."""
    return counts[0] if len(counts) == 1 else min(math.lcm(*counts), max(counts) << TABLE_BITS)


def common_scale(scales: list[float]) -> tuple[float, list[int]]:
    """One scale, and an integer factor to it from each, right to a relative 2^-20."""
    finest = min(scales)
    for bits in range(SUM_BITS):
        scale = finest * 2.0**-bits
        exact = [Fraction(each) / Fraction(scale) for each in scales]
        factors = [round(f) for f in exact]
        if all(abs(f - e) <= e / 2**20 for f, e in zip(factors, exact, strict=True)):
            break
    return scale, factors


def weight_bits(kernel: Real, bits: int) -> int:
    """Fractional bits of a layer's weights: `bits`, or more where the largest weight would have less than `SIGNIFICANT_BITS`."""
    largest = float(np.abs(kernel).max(initial=0.0))
    return max(bits, SIGNIFICANT_BITS - math.floor(math.log2(largest))) if largest else bits


def whole(values: Real, scale: float, node: Node) -> Ring:
    """Weights as integers.

    Raises:
        WindowError: the ring does not hold them.
    """
    try:
        return encode(values, scale)
    except EncodingError:
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): weights or biases up to {np.abs(values).max():.3g} in units of 2^{math.log2(scale):.0f}, "
            "with what is folded into them, do not fit the fixed point. A feature that hardly varies and is divided by that needs a range "
            "that is as narrow, or is better left out"
        ) from None
