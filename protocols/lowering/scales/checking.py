"""Programs that say of each answer whether its input has left a range that is calibrated on samples only.

Every number of a program has a range: proved from the weights and the input range, or taken from the samples (`rounding.hold` and others).
What comes after is proved from both. Here each range that is taken from samples is compared with at run time, on shares. **If no
comparison fires, every number lies in its range**, by induction over the operations: up to the first number that leaves one all others are
what they should be, so that number does not exceed its own proof, and the comparison, made for all of the proof, is right about it.
That needs proofs that stay inside the ring, so no number may be above 2^`RING_BITS` by proof: rounding is chosen by proofs, where programs
that are not checked choose by the samples, and a layer for which that is not enough is refused by name.

A range [low, high] is compared with after dropping d bits, 2^d at most a 64th of its end: outside = [t < j] + [t >= k + 1] for the
rounded t with j = ceil(low / 2^d) + 1 and k = floor(high / 2^d) - 1. t is off by less than 1, so what is not found outside is inside for
sure, and what is within 2^(d + 1) of an end may be found outside. For that, ranges are by `SLACK` wider than the margin asks for: inputs
whose numbers are at most `margin` times those of the samples are inside. Knots are public, and would tell how large the sums on the samples
are: an end is therefore 63 / 64 of a power of two, as a window is (`rounding.calibrated_end`), but for what is divided by, or a root or
logarithm is taken of, whose range is in the knots of its function as well.

With n >= 0 comparisons that fired and b = [n >= 1] the program gives (1 - b) y and b in place of outputs y; a label is the arg max of
(1 - b) y and one element more, which is B for b = 1 and -B for b = 0, B above all y. Whoever gets the answer learns b, and for b = 1
nothing else.

**Rounds**: those of a comparison are shared with the layer's own; 2 more where a layer is rounded only; at the end 3 for b and 1 for the
products, of which those that the last layers need, too, are shared. **Bytes**: for each number that is compared a `Piecewise` of one knot
or two, 8 + knots (2 (B - 1) + 1) / 8 each way; 8 for each output.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from protocols.errors import WindowError
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import calibrated_end, window_bits
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.moves import Concatenate
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sums import Combine, SumPool

SLACK = 1 / 16
"""How much wider a range is than what the margin asks for, as a part of it, or more: for roundings, and for the steps of a comparison."""
FINE = 6
"""Bits of the end of a range that are compared."""
RING_BITS = 60.5
"""A number is proved to stay below 2^60.5: the comparisons hold up to a little less than 2^61."""


class CheckedWriter(Writer):
    """Writes a program that finds out at run time whether a calibrated range was left."""

    slack = SLACK
    _counts: tuple[RangedValue, ...] = ()
    _likely: tuple[tuple[int, RangedValue], ...] = ()
    _guarded: RangedValue | None = None

    def put(self, op: AnyOp, scale: float, bounds: Interval) -> RangedValue:
        """Append an operation whose result is proved to stay inside the ring.

        Raises:
            WindowError: it is not.
        """
        self.inside(bounds.largest, scale)
        return super().put(op, scale, bounds)

    def inside(self, largest: float, scale: float) -> None:
        """Refuse sums that are not proved to stay inside the ring.

        Raises:
            WindowError: they are not.
        """
        if largest > 2.0**RING_BITS:
            raise WindowError(
                f"layer {self.node.layer!r} ({self.node.kind}): with checked=True its sums must be proved to stay below "
                f"{2.0**RING_BITS * scale:.3g}, where they could still be compared, and the proof gives {largest * scale:.3g}. "
                "Use BatchNormalization or weight constraints, a smaller input_range, or leave checked= out"
            )

    def most(self, x: Interval) -> float:
        """Return the largest absolute value by proof: what the samples say was checked before, and is in the proof."""
        return x.largest

    def check(self, x: RangedValue, bounds: Interval) -> None:
        """Compare with the ends of `bounds` that are not proved, and count what lies beyond."""
        ends = float(bounds.low.min()), float(bounds.high.max())
        low, high = ends[0] > x.range.low.min(), ends[1] < x.range.high.max()
        if not low and not high:
            return
        drops = [_dropped(end) for end in ends]
        if low and high and drops[0] == drops[1]:
            self._compare(x, drops[0], (_least(ends[0], drops[0]), _most(ends[1], drops[1]) + 1), (1, 0, 1))
            return
        if low:
            self._compare(x, drops[0], (_least(ends[0], drops[0]),), (1, 0))
        if high:
            self._compare(x, drops[1], (_most(ends[1], drops[1]) + 1,), (0, 1))

    def _compare(self, x: RangedValue, drop: int, knots: tuple[int, ...], outside: tuple[int, ...]) -> None:
        """Count the elements that are beyond a knot. Each costs 0 to 2, whatever ring element it is: counts never cancel."""
        window = window_bits(x.range.largest, drop) + 1
        op = Piecewise(self.share(x).position, drop, window, knots, (0,) * len(outside), outside)
        found = self.put(op, 1.0, _between(x, 0.0, 2.0))
        row = self.shaped((1, math.prod(x.shape), 1), found)
        count = SumPool(row.position, (1, row.shape[1]), (1, 1))
        added = self.put(count, 1.0, Interval(np.zeros((1, 1, 1)), np.full((1, 1, 1), 2.0 * row.shape[1]), _none(x, (1, 1, 1))))
        self._counts += (self.shaped((1,), added),)

    def likely(self, x: RangedValue, node: Node) -> RangedValue:
        """Return the value within the range of the samples, checked once however many layers ask; by proof if there are none."""
        known = dict(self._likely).get(x.position)
        if known is not None:
            return replace(x, range=known.range)
        expected = calibrated_end(x.range, self.margin, SLACK)
        if not len(x.range.samples) or expected >= x.range.largest:
            return x
        held = replace(x, range=x.range.clipped(expected))
        self.check(x, held.range)
        drop = _dropped(expected)
        self.report(node, expected * x.scale, window_bits(x.range.largest, drop) + 1, drop, "calibrated")
        self._likely += ((x.position, held),)
        return held

    def within(self, x: RangedValue, domain: Interval) -> tuple[RangedValue, Interval, str]:
        """Return the value within a domain that is a little wider, and is checked."""
        x, domain, source = super().within(x, domain)
        if source == "proved":
            return x, domain, source
        least, largest = float(domain.low.min()) / (1 + SLACK), float(domain.high.max()) * (1 + SLACK)
        wider = Interval(x.range.low.clip(least, largest), x.range.high.clip(least, largest), x.range.samples)
        self.check(x, wider)
        return replace(x, range=wider), wider, source

    def compared(self, logits: RangedValue) -> RangedValue:
        """Return the logits of a softmax, guarded by what was checked until here: a label needs no more."""
        if self._counts and self.label(logits) is not None:
            self._guarded = self._labelled(logits, *self._guard(logits))
        return logits

    def finished(self, output: RangedValue, compared: RangedValue | None) -> tuple[RangedValue, Argmax | None]:
        """Return the guarded output with the bit behind it, and the arg max of guarded values. Where all is proved, nothing is guarded."""
        if not self._counts:
            return super().finished(output, compared)
        self.answer = output.shape
        kept, outside = self._guard(output)
        if self._guarded is None and self.label(output) is not None:
            self._guarded = self._labelled(output, kept, outside)
        label = None if self._guarded is None else self.largest(self._guarded)
        return self._beside(kept, outside, kept.scale), label

    def _guard(self, x: RangedValue) -> tuple[RangedValue, RangedValue]:
        """(1 - b) x as a vector, and b. Rounds: 4."""
        counts = tuple(count.position for count in self._counts)
        largest = sum(float(count.range.high[0]) for count in self._counts)
        total = self.put(Combine(counts, (1,) * len(counts)), 1.0, replace(self._counts[0].range, high=np.full(1, largest)))
        op = Piecewise(total.position, 0, window_bits(largest, 0) + 1, (1,), (0, 0), (0, 1))
        outside = self.put(op, 1.0, _between(total, 0.0, 1.0))
        inside = self.factor(self.put(Combine((outside.position,), (-1,), 1), 1.0, _between(total, 0.0, 1.0)))
        flat = self.factor(self.shaped((math.prod(x.shape),), x))
        bounds = replace(flat.range, low=np.minimum(flat.range.low, 0.0), high=np.maximum(flat.range.high, 0.0))
        return self.put(Multiply(flat.position, inside.position), x.scale, bounds), outside

    def _labelled(self, x: RangedValue, kept: RangedValue, outside: RangedValue) -> RangedValue:
        """Guarded values, and one that is the largest for b = 1 and the smallest for b = 0."""
        most = math.ceil(1.25 * x.range.largest) + 4
        op = Combine((outside.position,), (2 * most,), -most)
        return self._beside(kept, self.put(op, x.scale, _between(outside, float(-most), float(most))), x.scale)

    def _beside(self, vector: RangedValue, one: RangedValue, scale: float) -> RangedValue:
        ranges = vector.range, one.range
        low, high = (np.concatenate([getattr(each, end) for each in ranges]) for end in ("low", "high"))
        bounds = Interval(low, high, np.concatenate([each.samples for each in ranges], 1))
        return self.put(Concatenate((vector.position, one.position), 0), scale, bounds)


def _dropped(end: float) -> int:
    """Bits that are dropped before a comparison with a number: of its size, all but `FINE`."""
    return max(0, math.floor(math.log2(max(abs(end), 1.0))) - FINE)


def _least(low: float, drop: int) -> int:
    """Return the least rounded value that is surely not below `low`."""
    return math.ceil(low / (1 << drop)) + (1 if drop else 0)


def _most(high: float, drop: int) -> int:
    """Return the largest rounded value that is surely not above `high`."""
    return math.floor(high / (1 << drop)) - (1 if drop else 0)


def _between(x: RangedValue, low: float, high: float) -> Interval:
    """Return a range for each element of another value; it is 0 on the samples, or as near as that is."""
    return Interval(np.full(x.shape, low), np.full(x.shape, high), _none(x, x.shape) + np.clip(0.0, low, high))


def _none(x: RangedValue, shape: Shape) -> Real:
    """Zeros for each sample."""
    return np.zeros((len(x.range.samples), *shape))
