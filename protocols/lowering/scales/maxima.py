"""Largest values by tournament: max(a, b) = b + ReLU(a - b), with the rounding in the first level. Rounds: 3 a level.

The comparison is exact for rounded values: the result is one of those within one unit of the last place of the largest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node
from protocols.lowering.scales.emission import WORTH_ROUNDING, Writer
from protocols.lowering.scales.intervals import Interval, combined
from protocols.lowering.scales.rounding import window_bits
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate


def maximum(w: Writer, node: Node, a: RangedValue, b: RangedValue, drop: int = 0) -> RangedValue:
    """Write the larger of two shares of one scale, both with `drop` bits dropped, for each element. Rounds: 3."""
    difference = combined([a.range, b.range], [1, -1], 0)
    d = w.put(Combine((a.position, b.position), (1, -1)), a.scale, difference)
    kept = rounded(w, b, drop)
    slack = 2.0 if drop else 0.0
    excess = _dropped(difference, drop).mapped(lambda t: np.maximum(t, 0.0))
    above = w.put(Select(d.position, drop, window_bits(difference.largest, drop)), kept.scale, replace(excess, high=excess.high + slack))
    sides = [_dropped(each, drop) for each in (a.range, b.range)]
    low, high, samples = (np.maximum(*pair) for pair in zip(*((s.low, s.high, s.samples) for s in sides), strict=True))
    bounds = Interval(low - slack, high + slack, samples)
    return w.put(Combine((kept.position, above.position), (1, 1)), kept.scale, bounds)


def rounded(w: Writer, x: RangedValue, drop: int) -> RangedValue:
    """Drop the `drop` lowest bits of a share. Rounds: 1, none for 0."""
    if not drop:
        return x
    bounds = _dropped(x.range, drop)
    op = Truncate(x.position, drop, window_bits(x.range.largest, drop))
    return w.put(op, x.scale * 2.0**drop, Interval(bounds.low - 1, bounds.high + 2, bounds.samples))


def _dropped(x: Interval, drop: int) -> Interval:
    return Interval(np.floor(x.low * 2.0**-drop), np.floor(x.high * 2.0**-drop), np.rint(x.samples * 2.0**-drop))


def largest(w: Writer, node: Node, x: RangedValue, axis: int) -> RangedValue:
    """Write the largest along an axis, which stays with length 1. Rounds: 3 ceil(log2 n)."""
    x = w.share(x)
    if x.shape[axis] == 1:
        return x
    held = w.held(x, node)
    x = replace(x, range=held.range)
    drop = held.drop if held.drop >= WORTH_ROUNDING else 0
    while (length := x.shape[axis]) > 1:
        pairs = length // 2
        best = maximum(w, node, w.taken(axis, range(0, 2 * pairs, 2), x), w.taken(axis, range(1, 2 * pairs, 2), x), drop)
        if length % 2:
            last = rounded(w, w.taken(axis, (length - 1,), x), drop)
            best = w.joined(net.Joined(layer=node.layer, kind=node.kind, inputs=(), shape=(), axis=axis), [best, last])
        x, drop = best, 0
    return x


def pooled(w: Writer, node: net.MaxPool, x: RangedValue) -> RangedValue:
    """Write the largest of each window: along rows, then columns. What lies outside is the nearest element inside. Rounds: 6 for 2 x 2."""
    for axis in (1, 0):
        length, size, stride = x.shape[axis], node.size[axis], node.strides[axis]
        windows = node.shape[axis]
        places = [stride * i + tap - node.padding[axis][0] for tap in range(size) for i in range(windows)]
        inside = w.taken(axis, [min(max(place, 0), length - 1) for place in places], x)
        apart = w.shaped((*x.shape[:axis], size, windows, *x.shape[axis + 1 :]), inside)
        best = largest(w, node, apart, axis)
        x = w.shaped((*x.shape[:axis], windows, *x.shape[axis + 1 :]), best)
    return x


def largest_of(w: Writer, node: net.Largest, values: list[RangedValue]) -> RangedValue:
    """Write the largest, or smallest, of several values for each element. Rounds: 3 ceil(log2 n)."""
    stacked = [w.shaped((1, *value.shape), value) for value in values]
    joined = w.joined(net.Joined(layer=node.layer, kind=node.kind, inputs=(), shape=(), axis=0), stacked)
    if node.smallest:
        return negated(w, w.shaped(node.shape, largest(w, node, negated(w, joined), 0)))
    return w.shaped(node.shape, largest(w, node, joined, 0))


def negated(w: Writer, x: RangedValue) -> RangedValue:
    """-x. Rounds: 0."""
    return w.put(Combine((x.position,), (-1,)), x.scale, combined([x.range], [-1], 0))
