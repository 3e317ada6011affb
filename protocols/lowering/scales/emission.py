"""From a network to a program: integers and scales. How sums are rounded is in `rounding.py`.

Every value is a tensor of integers with a public real scale. Weights have `WEIGHT_BITS` fractional bits, or more where they are small;
their precision is free, because whatever a rounding drops costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np

from protocols.errors import WindowError
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.draft import MOST_PARTS, WEIGHTS, Draft, stretches
from protocols.lowering.scales.intervals import Interval, combined, convolve, sums
from protocols.lowering.scales.rounding import (
    FRACTION,
    SUM_BITS,
    Held,
    LayerWindow,
    common_multiple,
    common_scale,
    hold,
    hold_beside,
    weight_bits,
    window_bits,
)
from protocols.lowering.scales.values import RangedValue, saturated
from protocols.mpc.encoding import input_scale
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.engine.values import Shape
from protocols.mpc.inputs.ranges import Ranges
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.moves import Concatenate, Pad, Permute, Reshape, Take
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine, Scale, SumPool
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense, Shift
from protocols.mpc.operations.wires import Input
from protocols.mpc.program import enforced

WEIGHT_BITS = 20
WORTH_ROUNDING = 4  # bits
SLOPE_BITS = 16
LABEL_WINDOW = 49
MOST_CLASSES = 256


class Writer(Draft):
    """Writes a program, operation by operation.

    Attributes:
        slack: how much wider than expected a calibrated value is at least, as a part of it; above 0 where it is checked (`checking.py`).
        answer: the shape of an answer, where the program gives more than that.
    """

    slack = 0.0
    answer: Shape | msgspec.UnsetType = msgspec.UNSET

    def __init__(
        self,
        input_shape: Shape,
        input_range: tuple[float, float],
        samples: Real | None,
        margin: float,
        *,
        clamp: bool = False,
        ranges: Ranges | None = None,
        step: float = math.inf,
        scale: float | None = None,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(input_shape, memory)
        self.layers: list[LayerWindow] = []
        self.margin = margin
        self._rounded: dict[tuple[int, float], RangedValue] = {}
        scale = input_scale(input_range, ranges, step) if scale is None else scale
        cut = enforced(input_range, scale, ranges)
        low, high = (np.broadcast_to(np.array(end, np.float64).reshape(cut.shape), input_shape) for end in (cut.low, cut.high))
        samples = np.zeros((0, *input_shape)) if samples is None else samples
        encoded = np.rint(samples / scale) if ranges is None else ranges.encoded(samples, scale).view(np.int64).astype(np.float64)
        self.input = self.put(cut if clamp else Input(), scale, Interval(low, high, encoded))

    # How large values are.

    def most(self, x: Interval) -> float:
        """Return the largest absolute value, by proof or on the samples."""
        return x.expected(self.margin)

    def bits(self, x: Interval) -> float:
        """Bits of that."""
        return math.log2(max(1.0, self.most(x)))

    def check(self, x: RangedValue, bounds: Interval) -> None:
        """From here on x is taken to lie within `bounds`: nothing at run time, unless the program is checked."""

    def likely(self, x: RangedValue, node: Node) -> RangedValue:
        """Return the value with the range of the samples, where that is checked; otherwise with that of its proof."""
        return x

    def within(self, x: RangedValue, domain: Interval) -> tuple[RangedValue, Interval, str]:
        """Return the value, the domain of a function that reads it, and whether x is proved to lie in there or calibrated."""
        inside = domain.low.min() <= x.range.low.min() and domain.high.max() >= x.range.high.max()
        return x, domain, "proved" if inside else "calibrated"

    def truncated(self, x: RangedValue, node: Node) -> RangedValue:
        """Round to a usual fraction, once however many layers need it; return the value itself if there is hardly anything to drop."""
        known = self._rounded.get((x.position, x.scale))
        if known is not None:
            return known
        held = hold(x.range, x.scale, node, margin=self.margin, slack=self.slack)
        if held.drop < WORTH_ROUNDING and held.source == "proved":
            return x
        self.check(x, held.range)
        op = Truncate(self.share(x).position, held.drop, held.window)
        rounded = self.put(op, x.scale * 2.0**held.drop, held.rounded)
        self.report(node, held.range.largest * x.scale, held.window, held.drop, held.source)
        self._rounded[x.position, x.scale] = rounded
        return rounded

    def report(self, node: Node, bound: float, window: int, drop: int, source: str, *, least: float | None = None) -> None:
        """Note how a sum is held."""
        self.layers.append(LayerWindow(node.layer, node.kind, bound, window, drop, source, least))

    def held(self, x: RangedValue, node: Node) -> Held:
        """Return the window in which a value is rounded, noted in the list of layers."""
        held = hold(x.range, x.scale, node, margin=self.margin, slack=self.slack)
        self.check(x, held.range)
        self.report(node, held.range.largest * x.scale, held.window, held.drop, held.source)
        return held

    def _with_room(self, x: RangedValue, bits: float, node: Node) -> RangedValue:
        """Return the value, rounded if it could not grow by so many bits."""
        return x if self.bits(x.range) + bits <= SUM_BITS else self.truncated(self.likely(x, node), node)

    # One method for each kind of node.

    def linear(self, node: net.Convolution | net.Product, x: RangedValue) -> RangedValue:
        """Write a convolution or matrix product, rounding before if its sums would not fit the ring."""
        finest = weight_bits(node.kernel, WEIGHT_BITS)
        z = self._product(node, x, finest)
        if self.bits(z) > SUM_BITS:
            x = self.truncated(self.likely(x, node), node)
            z = self._product(node, x, finest)
        bits = finest
        if self.bits(z) > SUM_BITS:
            bits -= math.floor(self.bits(z) - SUM_BITS) + 1
            missing = weight_bits(node.kernel, bits) - bits
            if missing and x.scale * 2.0**missing <= 2.0**-FRACTION:
                x, bits = self._coarser(x, missing), bits + missing
            z = self._product(node, x, bits)
        if bits < weight_bits(node.kernel, bits) or self.bits(z) > SUM_BITS:
            raise WindowError(
                f"layer {node.layer!r} ({node.kind}): its inputs or biases are so large that its weights would have {bits} fractional "
                f"bits; {weight_bits(node.kernel, bits)} are needed. Normalise its inputs, or give a smaller input_range"
            )
        return self._weighted(node, self.wire(x), 2.0**-bits, z)

    def _weighted(self, node: net.Convolution | net.Product, x: RangedValue, scale: float, z: Interval) -> RangedValue:
        """Multiply a wire with weights of that scale; those of many units in parts, one after the other."""
        units, of = node.kernel.shape[-1], node.groups if isinstance(node, net.Convolution) else 1
        step = units // of if of > 1 else 1  # groups stay whole
        count = min(MOST_PARTS, -(-8 * WEIGHTS * max(node.kernel.size, math.prod(node.shape)) // self.memory))
        parts = []
        for start, stop in stretches(units // step, count):
            first, last = start * step, stop * step
            whole = last - first == units
            kernel = node.kernel if whole else self.columns(node.kernel, first, last)
            bias = node.bias if whole or node.bias is None else self.columns(node.bias, first, last)
            weight, shift = self.weight(kernel, scale), None if bias is None else self.weight(bias, x.scale * scale)
            op: AnyOp
            if isinstance(node, net.Product):
                op = Dense(x.position, weight, shift)
            else:
                each = node.kernel.shape[2]
                read = x if whole or of == 1 else self.taken(2, range(start * each, stop * each), x)
                op = Conv2D(read.position, weight, shift, node.strides, node.padding, node.dilation, stop - start if of > 1 else 1)
            parts.append(self.put(op, x.scale * scale, z.part(len(node.shape) - 1, first, last)))
        joined = Concatenate(tuple(part.position for part in parts), len(node.shape) - 1)
        return parts[0] if len(parts) == 1 else self.put(joined, x.scale * scale, z)

    def _coarser(self, x: RangedValue, drop: int) -> RangedValue:
        """Drop bits of a value that are nothing beside a bias: those of a layer whose outputs are all but zero."""
        bounds = Held(x.range, drop, window_bits(x.range.largest, drop), "proved")
        return self.put(Truncate(self.share(x).position, drop, bounds.window), x.scale * 2.0**drop, bounds.rounded)

    def _product(self, node: net.Convolution | net.Product, x: RangedValue, bits: int) -> Interval:
        scale = 2.0**-bits
        kernel = np.rint(node.kernel / scale)
        bias = None if node.bias is None else np.rint(node.bias / (x.scale * scale))
        if isinstance(node, net.Product):
            return x.range.linear(np.matmul, kernel, bias)
        convolved = partial(
            convolve,
            grid=node.shape[:2],
            strides=node.strides,
            padding=node.padding,
            dilation=node.dilation,
            groups=node.groups,
        )
        return x.range.linear(convolved, kernel, bias)

    def affine(self, node: net.ChannelAffine, x: RangedValue) -> RangedValue:
        """Private scale and shift of channels: a depthwise convolution of 1 x 1."""
        if (node.scale == 1).all():
            return self.shifted(node, np.broadcast_to(node.shift, x.shape), x)
        shape, channels = x.shape, x.shape[-1]
        image = shape if len(shape) == 3 else (1, math.prod(shape[:-1]), channels)
        flat = net.Convolution(
            layer=node.layer,
            kind=node.kind,
            inputs=node.inputs,
            shape=image,
            kernel=node.scale.reshape(1, 1, 1, channels),
            bias=node.shift,
            groups=channels,
        )
        return self.shaped(shape, self.linear(flat, self.shaped(image, x)))

    def shifted(self, node: Node, shift: Real, x: RangedValue) -> RangedValue:
        """x plus private numbers, one for each element."""
        x = self.share(self.beside(node, self._with_room(x, 1, node), float(np.abs(shift).max())))
        weight = self.weight(shift, x.scale)
        whole = np.rint(shift / x.scale)
        bounds = Interval(x.range.low + whole, x.range.high + whole, x.range.samples + whole)
        return self.put(Shift(x.position, weight), x.scale, bounds.widened())

    def shaped(self, shape: Shape, x: RangedValue) -> RangedValue:
        """Another shape."""
        if shape == x.shape:
            return x
        bounds = x.range.mapped(lambda a: a.reshape(len(a), *shape))
        return self.put(Reshape(x.position, shape), x.scale, bounds)

    def rescaled(self, node: net.Rescale, x: RangedValue) -> RangedValue:
        """Apply a public scale, which costs nothing, and a public offset, which is added locally."""
        if node.scale < 0:
            x = self.put(Combine((x.position,), (-1,)), x.scale, combined([x.range], [-1], 0))
        scaled = replace(x, scale=x.scale * abs(node.scale))
        return self._offset(self.beside(node, scaled, node.offset), node.offset) if node.offset else scaled

    def beside(self, node: Node, x: RangedValue, constant: float) -> RangedValue:
        """Round a value held so finely that a constant beside it would leave the ring: after several small linear layers."""
        if abs(constant) <= x.scale * 2.0 ** (SUM_BITS - 1):
            return x
        held = hold_beside(x.range, x.scale, node, constant=abs(constant), margin=self.margin, slack=self.slack)
        self.check(x, held.range)
        self.report(node, held.range.largest * x.scale, held.window, held.drop, held.source)
        op = Truncate(self.share(x).position, held.drop, held.window)
        return self.put(op, x.scale * 2.0**held.drop, held.rounded)

    def _offset(self, x: RangedValue, offset: float) -> RangedValue:
        constant = round(offset / x.scale)
        return self.put(Combine((x.position,), (1,), constant), x.scale, combined([x.range], [1], constant))

    def taken(self, axis: int, indices: Sequence[int], x: RangedValue) -> RangedValue:
        """Slices along an axis, as often as they are named."""
        if list(indices) == list(range(x.shape[axis])):
            return x
        bounds = x.range.mapped(lambda a: a.take(indices, axis + 1))
        return self.put(Take(x.position, axis, tuple(indices)), x.scale, bounds)

    def permuted(self, axes: Sequence[int], x: RangedValue) -> RangedValue:
        """Put axes in another order."""
        bounds = x.range.mapped(lambda a: a.transpose(0, *(axis + 1 for axis in axes)))
        return self.put(Permute(x.position, tuple(axes)), x.scale, bounds)

    def added(self, node: Node, x: RangedValue, y: RangedValue, sign: int = 1) -> RangedValue:
        """x + y, or x - y, on one scale."""
        return self.summed(net.SignedSum(layer=node.layer, kind=node.kind, inputs=(), shape=x.shape, signs=(1, sign)), [x, y])

    def padded(self, node: net.Padded, x: RangedValue) -> RangedValue:
        """Zeros around."""
        bounds = x.range.mapped(lambda a: np.pad(a, ((0, 0), *node.padding, (0, 0))))
        return self.put(Pad(x.position, node.padding), x.scale, bounds)

    def pooled(self, node: net.AveragePool, x: RangedValue) -> RangedValue:
        """Write sums; the division is in the scale, or in a public table where windows reach over the edge."""
        add_up = partial(sums, size=node.size, strides=node.strides, padding=node.padding, grid=node.shape[:2])
        count = add_up(np.ones((1, *x.shape[:2], 1)))[0]
        whole = common_multiple([int(n) for n in np.unique(count)])
        table = np.rint(whole / count)
        x = self._with_room(x, math.log2(whole), node)
        op = SumPool(x.position, node.size, node.strides, node.padding)
        pooled = self.put(op, x.scale / whole, x.range.mapped(add_up).widened())
        if (table == 1).all():
            return pooled
        factors = tuple(int(f) for f in table.reshape(-1))
        bounds = pooled.range.mapped(lambda a: a * table)
        return self.put(Scale(pooled.position, factors, table.shape), pooled.scale, bounds)

    def joined(self, node: net.Joined, values: list[RangedValue]) -> RangedValue:
        """Values on one scale, side by side."""
        values, scale, factors = self._common(node, values)
        same = [self._times(v, factor, scale) for v, factor in zip(values, factors, strict=True)]
        bounds = Interval(
            np.concatenate([v.range.low for v in same], node.axis),
            np.concatenate([v.range.high for v in same], node.axis),
            np.concatenate([v.range.samples for v in same], node.axis + 1),
        )
        return self.put(Concatenate(tuple(v.position for v in same), node.axis), scale, bounds)

    def _times(self, x: RangedValue, factor: int, scale: float) -> RangedValue:
        if factor == 1:
            return replace(x, scale=scale)
        return self.put(Combine((x.position,), (factor,)), scale, combined([x.range], [factor], 0))

    def finer(self, x: RangedValue, bits: int) -> RangedValue:
        """Give a value up to so many fractional bits, if it has fewer: whole numbers have none."""
        room = SUM_BITS - 4 - math.ceil(self.bits(x.range))
        lift = min(bits + math.floor(math.log2(x.scale)), room)
        return self._times(x, 1 << lift, x.scale * 2.0**-lift) if lift > 0 else x

    def _common(self, node: Node, values: list[RangedValue]) -> tuple[list[RangedValue], float, list[int]]:
        """Return the values, one scale for all, and integer factors to it; the finest values are rounded where that is necessary."""
        scale, factors = common_scale([v.scale for v in values])
        if max(math.log2(f) + self.bits(v.range) for f, v in zip(factors, values, strict=True)) + math.log2(len(values)) <= SUM_BITS:
            return values, scale, factors
        finest = min(v.scale for v in values)
        coarser = [self.truncated(self.likely(v, node), node) if v.scale == finest else v for v in values]
        if min(v.scale for v in coarser) == finest:
            raise WindowError(f"layer {node.layer!r} ({node.kind}): its inputs differ too much in scale; normalise them before")
        return self._common(node, coarser)

    def summed(self, node: net.SignedSum, values: list[RangedValue]) -> RangedValue:
        """Write a sum on one scale."""
        same, scale, factors = self._common(node, values)
        signed = [factor * sign for factor, sign in zip(factors, node.signs, strict=True)]
        op = Combine(tuple(v.position for v in same), tuple(signed))
        return self.put(op, scale, combined([v.range for v in same], signed, 0))

    def rectified(self, node: net.Rectify, x: RangedValue) -> RangedValue:
        """max(x, 0) and its relatives, with the rounding in one protocol."""
        x = self.share(x)
        cut = node.maximum if node.maximum is not None and x.range.high.max() * x.scale > node.maximum else 0.0
        x = self.beside(node, x, max(abs(node.threshold), abs(cut)))
        below = self._offset(x, -node.threshold) if node.threshold else x
        y = self._selected(node, below, node.slope, node.threshold)
        if node.maximum is None or x.range.high.max() * x.scale <= node.maximum:
            return y
        over = self._selected(node, self._offset(x, -node.maximum), 0.0, 0.0)
        both = self.summed(net.SignedSum(layer=node.layer, kind=node.kind, inputs=(), shape=node.shape, signs=(1, -1)), [y, over])
        unit = max(y.scale * (1 << SLOPE_BITS if node.slope else 1), over.scale)
        return replace(both, range=saturated(both, y, maximum=node.maximum, unit=unit))

    def _selected(self, node: net.Rectify, x: RangedValue, slope: float, step: float) -> RangedValue:
        held = self.held(x, node)
        positive = 1 << SLOPE_BITS if slope else 1
        negative = round(slope * positive)
        scale = x.scale * 2.0**held.drop / positive
        jump = round(step / scale)

        def select(t: Real) -> Real:
            return np.where(t >= 0, positive * t + jump, negative * t)

        # Increasing below 0 and from 0 on: the ends, and the two sides of the jump, are the extremes.
        low, high = held.rounded.low, held.rounded.high
        ends = [select(end) for end in (low, high, np.clip(0.0, low, high), np.clip(-1.0, low, high))]
        bounds = Interval(np.min(ends, axis=0), np.max(ends, axis=0), select(held.rounded.samples))
        op = Select(x.position, held.drop, held.window, positive, negative, jump)
        return self.put(op, scale, bounds)

    def label(self, x: RangedValue) -> Argmax | None:
        """How the largest output is found, if it is a vector of classes."""
        if len(x.shape) != 1 or not 2 <= x.shape[0] <= MOST_CLASSES:
            return None
        return self.largest(x)

    def largest(self, x: RangedValue) -> Argmax:
        """Write the arg max of a vector."""
        difference = float(x.range.high.max() - x.range.low.min())
        drop = next(d for d in range(SUM_BITS) if window_bits(difference, d) <= LABEL_WINDOW)
        return Argmax(x.position, drop, window_bits(difference, drop))

    def compared(self, logits: RangedValue) -> RangedValue:
        """Return what a label compares in place of a softmax of it, which comes last and is not written yet."""
        return logits

    def finished(self, output: RangedValue, compared: RangedValue | None) -> tuple[RangedValue, Argmax | None]:
        """Return what the program gives for its output, and how a label is found, by comparing that or something else."""
        return output, self.label(output if compared is None else compared)
