"""From a network to a program: integers, scales, and for each rounding a window that is proved or calibrated.

Every value is a tensor of integers with a public real scale. Weights are rounded to `WEIGHT_BITS` fractional bits; their precision is free,
because whatever a rounding drops costs nothing. A rectifier rounds to `FRACTION` fractional bits where the window stays within
`GOOD_WINDOW` bits, and to fewer, but at least `LEAST_FRACTION`, where sums are large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from protocols import program as ops
from protocols.errors import WindowError
from protocols.exchange import Ring
from protocols.fixed_point import encode
from protocols.lowering import network as net
from protocols.lowering.intervals import Interval, combined, convolve, sums
from protocols.lowering.network import Node, Real
from protocols.program import AnyOp, Kind, Program, Shape

INPUT_BITS = 16
WEIGHT_BITS = 20
FRACTION = 15
LEAST_FRACTION = 13
GOOD_WINDOW = 24
LARGEST_WINDOW = 32
SLOPE_BITS = 16
TABLE_BITS = 16
LABEL_WINDOW = 49
MOST_CLASSES = 256
RING = 62
"""drop + window of a rounding, and the bits of any sum, stay within this."""


@dataclass(frozen=True)
class Layer:
    """How the sums of one layer are held.

    Attributes:
        name: of the Keras layer.
        kind: its class, and those that were folded into it.
        bound: the largest sum, in real numbers, that the window was made for.
        window: bits of the rounded value, its sign included.
        drop: bits that are rounded away.
        source: "proved" from the weights and the input range, or "calibrated" on samples.
    """

    name: str
    kind: str
    bound: float
    window: int
    drop: int
    source: str


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the program while it is written: where it is, what it is, and how large it can be."""

    position: int
    kind: Kind
    scale: float
    range: Interval

    @property
    def shape(self) -> Shape:
        """Without the batch axis."""
        return self.range.low.shape

    @property
    def bits(self) -> float:
        """Bits of the largest absolute value."""
        return math.log2(max(1.0, self.range.largest))


class Writer:
    """Writes a program, operation by operation."""

    def __init__(self, input_shape: Shape, input_range: tuple[float, float], samples: Real | None, margin: float) -> None:
        self.ops: list[AnyOp] = [ops.Input()]
        self.weights: list[Ring] = []
        self.layers: list[Layer] = []
        self._margin = margin
        self._wires: dict[int, Value] = {}
        self.scale = 2.0 ** -max(0, INPUT_BITS - max(0, math.ceil(math.log2(max(1.0, *map(abs, input_range))))))
        low, high = (np.full(input_shape, round(bound / self.scale), np.float64) for bound in input_range)
        encoded = np.zeros((0, *input_shape)) if samples is None else np.rint(samples / self.scale)
        self.input = Value(0, "wire", self.scale, Interval(low, high, encoded))
        self.sampled = samples is not None

    def put(self, op: AnyOp, kind: Kind, scale: float, bounds: Interval) -> Value:
        """Appends an operation."""
        self.ops.append(op)
        return Value(len(self.ops) - 1, kind, scale, bounds)

    def weight(self, values: Real, scale: float) -> int:
        """Appends a weight, rounded to integers."""
        self.weights.append(encode(values, scale))
        return len(self.weights) - 1

    def share(self, x: Value) -> Value:
        """The value as a share."""
        return x if x.kind == "share" else self.put(ops.AsShare(x.position), "share", x.scale, x.range)

    def wire(self, x: Value) -> Value:
        """The value as a wire, opened once however many layers read it."""
        if x.kind == "wire":
            return x
        if x.position not in self._wires:
            self._wires[x.position] = self.put(ops.Open(x.position), "wire", x.scale, x.range)
        return self._wires[x.position]

    # Rounding.

    def _window(self, x: Value, node: Node) -> tuple[int, int, Interval]:
        """(drop, window, range) for rounding a share to a good fraction."""
        bounds, source = x.range, "proved"
        finest = max(0, round(-math.log2(x.scale)) - FRACTION)
        coarsest = max(0, round(-math.log2(x.scale)) - LEAST_FRACTION)
        drop = next((d for d in range(finest, coarsest + 1) if _bits(bounds.largest, d) <= GOOD_WINDOW), coarsest)
        window = _bits(bounds.largest, drop)
        if window > LARGEST_WINDOW or drop + window > RING:
            bounds, source = self._calibrated(x, node, drop), "calibrated"
            drop = next((d for d in range(finest, coarsest + 1) if _bits(bounds.largest, d) <= GOOD_WINDOW), coarsest)
            window = _bits(bounds.largest, drop)
            if window > LARGEST_WINDOW or drop + window > RING:
                raise WindowError(
                    f"layer {node.layer!r} ({node.kind}): on the calibration samples, with margin {self._margin:g}, its sums reach "
                    f"{bounds.largest * x.scale:.3g}, which needs a window of {window} bits; {LARGEST_WINDOW} are possible. "
                    "Use a smaller margin, or normalise the activations"
                )
        self.layers.append(Layer(node.layer, node.kind, bounds.largest * x.scale, window, drop, source))
        return drop, window, bounds

    def _calibrated(self, x: Value, node: Node, drop: int) -> Interval:
        if not self.sampled:
            possible = 2.0 ** (min(LARGEST_WINDOW, RING - drop) - 1 + drop) * x.scale
            raise WindowError(
                f"layer {node.layer!r} ({node.kind}): its sums are proved to stay below {x.range.largest * x.scale:.3g} only, the fixed "
                f"point holds {possible:.3g}. Give sample inputs as calibration=, a smaller input_range, or use BatchNormalization"
            )
        return x.range.clipped(self._margin * x.range.largest_sample + 1)

    def truncated(self, x: Value, node: Node) -> Value:
        """The value rounded to a usual fraction."""
        drop, window, bounds = self._window(self.share(x), node)
        rounded = _rounded(bounds, drop)
        return self.put(ops.Truncate(self.share(x).position, drop, window), "share", x.scale * 2.0**drop, rounded)

    # One method for each kind of node.

    def linear(self, node: net.Convolution | net.Product, x: Value) -> Value:
        """A convolution or matrix product, rounded before if its sums would not fit the ring."""
        scale = 2.0**-WEIGHT_BITS
        if not self._fits(node, x, scale):
            x = self.truncated(x, node)
            if not self._fits(node, x, scale):
                raise WindowError(f"layer {node.layer!r} ({node.kind}): its weights are too large for the fixed point; normalise them")
        wire = self.wire(x)
        weight = self.weight(node.kernel, scale)
        bias = None if node.bias is None else self.weight(node.bias, wire.scale * scale)
        op: AnyOp
        if isinstance(node, net.Product):
            op = ops.Dense(wire.position, weight, bias)
        else:
            op = ops.Conv2D(wire.position, weight, bias, node.strides, node.padding, node.dilation, node.groups)
        return self.put(op, "share", wire.scale * scale, self._product(node, wire, scale))

    def _product(self, node: net.Convolution | net.Product, x: Value, scale: float) -> Interval:
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

    def _fits(self, node: net.Convolution | net.Product, x: Value, scale: float) -> bool:
        largest = self._product(node, x, scale)
        reach = largest.largest if not self.sampled else min(largest.largest, self._margin * largest.largest_sample + 1)
        drop = max(0, round(-math.log2(x.scale * scale)) - LEAST_FRACTION)
        return max(_bits(reach, drop) + drop, math.log2(max(1.0, reach)) + 1) <= RING

    def affine(self, node: net.Affine, x: Value) -> Value:
        """Private scale and shift of channels: a depthwise convolution of 1 x 1."""
        shape, channels = x.shape, x.shape[-1]
        kernel = node.scale.reshape(1, 1, 1, channels)
        flat = net.Convolution(
            layer=node.layer,
            kind=node.kind,
            inputs=node.inputs,
            shape=(1, int(np.prod(shape[:-1])), channels),
            kernel=kernel,
            bias=node.shift,
            groups=channels,
        )
        return self.shaped(shape, self.linear(flat, self.shaped(flat.shape, x)))

    def shaped(self, shape: Shape, x: Value) -> Value:
        """Another shape."""
        if shape == x.shape:
            return x
        bounds = x.range.mapped(lambda a: a.reshape(len(a), *shape))
        return self.put(ops.Reshape(x.position, shape), x.kind, x.scale, bounds)

    def rescaled(self, node: net.Rescale, x: Value) -> Value:
        """A public scale costs nothing, a public offset is added locally."""
        scaled = Value(x.position, x.kind, x.scale * node.scale, x.range)
        return self._offset(scaled, node.offset) if node.offset else scaled

    def _offset(self, x: Value, offset: float) -> Value:
        constant = round(offset / x.scale)
        return self.put(ops.Combine((x.position,), (1,), constant), x.kind, x.scale, combined([x.range], [1], constant))

    def padded(self, node: net.Padded, x: Value) -> Value:
        """Zeros around."""
        bounds = x.range.mapped(lambda a: np.pad(a, ((0, 0), *node.padding, (0, 0))))
        return self.put(ops.Pad(x.position, node.padding), x.kind, x.scale, bounds)

    def pooled(self, node: net.AveragePool, x: Value) -> Value:
        """Sums; the division is in the scale, or in a public table where windows reach over the edge."""
        add_up = partial(sums, size=node.size, strides=node.strides, padding=node.padding, grid=node.shape[:2])
        op = ops.SumPool(x.position, node.size, node.strides, node.padding)
        pooled = self.put(op, x.kind, x.scale, x.range.mapped(add_up))
        count = add_up(np.ones((1, *x.shape)))[0, ..., 0]
        if (count == count[0, 0]).all():
            return Value(pooled.position, pooled.kind, x.scale / count[0, 0], pooled.range)
        table = np.rint(2.0**TABLE_BITS / count)[..., None]
        factors = tuple(int(f) for f in table.reshape(-1))
        bounds = pooled.range.mapped(lambda a: a * table)
        return self.put(ops.Multiply(pooled.position, factors, table.shape), x.kind, x.scale * 2.0**-TABLE_BITS, bounds)

    def joined(self, node: net.Joined, values: list[Value]) -> Value:
        """Values on one scale, side by side."""
        same = self._aligned(node, values)
        bounds = Interval(
            np.concatenate([v.range.low for v in same], node.axis),
            np.concatenate([v.range.high for v in same], node.axis),
            np.concatenate([v.range.samples for v in same], node.axis + 1),
        )
        return self.put(ops.Concatenate(tuple(v.position for v in same), node.axis), same[0].kind, same[0].scale, bounds)

    def _aligned(self, node: Node, values: list[Value]) -> list[Value]:
        scale, factors = self._common(node, values)
        same = self._one_kind(values)
        return [self._times(v, factor, scale) for v, factor in zip(same, factors, strict=True)]

    def _one_kind(self, values: list[Value]) -> list[Value]:
        return values if all(v.kind == values[0].kind for v in values) else [self.share(v) for v in values]

    def _times(self, x: Value, factor: int, scale: float) -> Value:
        if factor == 1:
            return Value(x.position, x.kind, scale, x.range)
        return self.put(ops.Combine((x.position,), (factor,)), x.kind, scale, combined([x.range], [factor], 0))

    def _common(self, node: Node, values: list[Value]) -> tuple[float, list[int]]:
        """One scale for all, and integer factors to it, right to a relative 2^-20."""
        finest = min(v.scale for v in values)
        for bits in range(RING):
            scale = finest * 2.0**-bits
            exact = [Fraction(v.scale) / Fraction(scale) for v in values]
            factors = [round(f) for f in exact]
            if all(abs(f - e) <= e / 2**20 for f, e in zip(factors, exact, strict=True)):
                break
        largest = max(math.log2(f) + v.bits for f, v in zip(factors, values, strict=True)) + math.log2(len(values))
        if largest > RING - 1:
            raise WindowError(f"layer {node.layer!r} ({node.kind}): its inputs differ too much in scale; normalise them before")
        return scale, factors

    def summed(self, node: net.Sum, values: list[Value]) -> Value:
        """A sum on one scale."""
        scale, factors = self._common(node, values)
        signed = [factor * sign for factor, sign in zip(factors, node.signs, strict=True)]
        same = self._one_kind(values)
        op = ops.Combine(tuple(v.position for v in same), tuple(signed))
        return self.put(op, same[0].kind, scale, combined([v.range for v in same], signed, 0))

    def rectified(self, node: net.Rectify, x: Value) -> Value:
        """max(x, 0) and its relatives, with the rounding in one protocol."""
        x = self.share(x)
        below = self._offset(x, -node.threshold) if node.threshold else x
        y = self._selected(node, below, node.slope, node.threshold)
        if node.maximum is None:
            return y
        over = self._selected(node, self._offset(x, -node.maximum), 0.0, 0.0)
        return self.summed(net.Sum(layer=node.layer, kind=node.kind, inputs=(), shape=node.shape, signs=(1, -1)), [y, over])

    def _selected(self, node: net.Rectify, x: Value, slope: float, step: float) -> Value:
        drop, window, bounds = self._window(x, node)
        positive = 1 << SLOPE_BITS if slope else 1
        negative = round(slope * positive)
        scale = x.scale * 2.0**drop / positive
        jump = round(step / scale)

        def select(t: Real) -> Real:
            return np.where(t >= 0, positive * t + jump, negative * t)

        rounded = _rounded(bounds, drop)
        ends = [select(end) for end in (rounded.low, rounded.high, np.zeros_like(rounded.low), np.full_like(rounded.low, -1.0))]
        inside = [ends[0], ends[1], np.where((rounded.low <= 0) & (rounded.high >= 0), ends[2], ends[1])]
        inside.append(np.where((rounded.low <= -1) & (rounded.high >= -1), ends[3], ends[1]))
        range_ = Interval(np.min(inside, axis=0), np.max(inside, axis=0), select(rounded.samples))
        return self.put(ops.Select(x.position, drop, window, positive, negative, jump), "share", scale, range_)

    def label(self, x: Value) -> ops.Argmax | None:
        """How the largest output is found, if it is a vector of classes."""
        if len(x.shape) != 1 or not 2 <= x.shape[0] <= MOST_CLASSES:
            return None
        difference = float(x.range.high.max() - x.range.low.min())
        drop = next(d for d in range(RING) if _bits(difference, d) <= LABEL_WINDOW)
        return ops.Argmax(x.position, drop, _bits(difference, drop))


def _bits(largest: float, drop: int) -> int:
    """The smallest w with largest <= 2^(drop + w - 1) - 2^(drop + 1)."""
    needed = largest + 2.0 ** (drop + 1)
    return max(3, math.ceil(math.log2(needed) + 1e-9) - drop + 1)


def _rounded(bounds: Interval, drop: int) -> Interval:
    """floor(x / 2^drop), and one more at most."""
    return Interval(
        np.floor(bounds.low * 2.0**-drop) - 1,
        np.floor(bounds.high * 2.0**-drop) + 2,
        np.rint(bounds.samples * 2.0**-drop),
    )


def write(
    nodes: list[Node], input_range: tuple[float, float], samples: Real | None, margin: float
) -> tuple[Program, list[Ring], tuple[Layer, ...]]:
    """The program, its integer weights, and how the sums of each layer are held."""
    writer = Writer(nodes[0].shape, input_range, samples, margin)
    values: list[Value] = []
    for node in nodes:
        values.append(_written(writer, node, [values[x] for x in node.inputs]))
    output = writer.share(values[-1])
    if output.range.largest >= 2.0**RING:
        output = writer.truncated(output, nodes[-1])
    if output.position != len(writer.ops) - 1:
        output = writer.put(ops.Reshape(output.position, output.shape), "share", output.scale, output.range)
    program = Program(
        tuple(writer.ops),
        tuple(w.shape for w in writer.weights),
        nodes[0].shape,
        writer.scale,
        input_range,
        output.scale,
        writer.label(output),
    )
    return program, writer.weights, tuple(writer.layers)


def _written(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    match node:
        case net.Start():
            return writer.input
        case net.Convolution() | net.Product():
            return writer.linear(node, inputs[0])
        case net.Affine():
            return writer.affine(node, inputs[0])
        case net.Rescale():
            return writer.rescaled(node, inputs[0])
        case net.AveragePool():
            return writer.pooled(node, inputs[0])
        case net.Rectify():
            return writer.rectified(node, inputs[0])
        case net.Shaped():
            return writer.shaped(node.shape, inputs[0])
        case net.Padded():
            return writer.padded(node, inputs[0])
        case net.Joined():
            return writer.joined(node, inputs)
        case net.Sum():
            return writer.summed(node, inputs)
        case _:
            raise TypeError(f"unknown node {type(node).__name__}")
