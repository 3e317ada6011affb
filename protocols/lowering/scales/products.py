"""Products of two private values, and sums along an axis: what functions of several values are made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from protocols.errors import WindowError
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import LARGEST_ROUNDING, SUM_BITS, Held, calibrated_end, window_bits
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import SumPool
from protocols.mpc.operations.truncation import Truncate


def product(w: Writer, node: Node, x: RangedValue, y: RangedValue) -> RangedValue:
    """x y element for element, axes of length 1 repeated; a square where both are one value.

    Rounds: 1, none where both are wires or were just rounded.

    Raises:
        WindowError: the product may leave the ring, even of rounded factors.
    """
    x, y = _fitting(w, node, x, y, 1)
    low, high = _corners(x.range, y.range)
    if x.position == y.position and x.kind == y.kind:
        low = low.clip(0.0)
    bounds = Interval(low, high, x.range.samples * y.range.samples).widened()
    left, right = w.factor(x), w.factor(y)
    return w.put(Multiply(left.position, right.position), x.scale * y.scale, bounds)


def matrix_product(w: Writer, node: Node, x: RangedValue, y: RangedValue) -> RangedValue:
    """x y over the last two axes. Rounds: 1, none where both are wires.

    Raises:
        WindowError: a sum may leave the ring, even of rounded factors.
    """
    x, y = _fitting(w, node, x, y, x.shape[-1])
    low, high = _corners(_lifted(x.range, -1), _lifted(y.range, -3))
    bounds = Interval(low.sum(-2), high.sum(-2), x.range.samples @ y.range.samples).widened()
    left, right = w.wire(x), w.wire(y)
    return w.put(MatMul(left.position, right.position), x.scale * y.scale, bounds)


def total(w: Writer, node: Node, x: RangedValue) -> RangedValue:
    """Sum over the last axis, which stays with length 1. Rounds: 0."""
    outer, length = math.prod(x.shape[:-1]), x.shape[-1]
    if w.bits(x.range) + math.log2(length) > SUM_BITS:
        x = w.truncated(w.likely(x, node), node)
    flat = w.shaped((outer, length, 1), x)
    bounds = flat.range.mapped(lambda a: a.sum(2, keepdims=True)).widened()
    added = w.put(SumPool(flat.position, (1, length), (1, length)), flat.scale, bounds)
    return w.shaped((*x.shape[:-1], 1), added)


def spread(w: Writer, x: RangedValue, length: int) -> RangedValue:
    """Repeat a last axis of length 1. Rounds: 0."""
    return w.taken(len(x.shape) - 1, (0,) * length, x)


def rounded(w: Writer, node: Node, x: RangedValue, unit: float) -> RangedValue:
    """x in steps of at most `unit`, a real number; itself if its steps are no finer. Error: one step. Rounds: 1.

    Raises:
        WindowError: x is too large to be rounded.
    """
    drop = math.floor(math.log2(unit / x.scale))
    if drop <= 0:
        return x
    proved = window_bits(x.range.largest, drop) + drop <= LARGEST_ROUNDING
    bounds = x.range if proved else x.range.clipped(calibrated_end(x.range, w.margin, w.slack))
    held = Held(bounds, drop, window_bits(bounds.largest, drop), "proved" if proved else "calibrated")
    if held.drop + held.window > LARGEST_ROUNDING:
        return w.truncated(x, node)
    w.report(node, bounds.largest * x.scale, held.window, drop, held.source)
    w.check(x, held.range)
    return w.put(Truncate(w.share(x).position, drop, held.window), x.scale * 2.0**drop, held.rounded)


def _fitting(w: Writer, node: Node, x: RangedValue, y: RangedValue, terms: int) -> tuple[RangedValue, RangedValue]:
    """Both factors, rounded where their product would leave the ring: the finer first."""
    for _ in range(2):
        if w.bits(x.range) + w.bits(y.range) + math.log2(terms) <= SUM_BITS:
            break
        if x.position == y.position:
            x = y = w.truncated(w.likely(x, node), node)
        elif x.scale <= y.scale:
            x = w.truncated(w.likely(x, node), node)
        else:
            y = w.truncated(w.likely(y, node), node)
    if w.bits(x.range) + w.bits(y.range) + math.log2(terms) > SUM_BITS:
        largest = x.range.largest * x.scale * y.range.largest * y.scale
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): the product of its inputs may reach {largest:.3g}, which does not fit the fixed point. "
            "Normalise them before, or give sample inputs as calibration="
        )
    return x, y


def _lifted(x: Interval, axis: int) -> Interval:
    """With one axis more, so that numpy's broadcasting makes all products of a matrix product."""
    low, high = (np.expand_dims(bound, axis) for bound in (x.low, x.high))
    return replace(x, low=low, high=high)


def _corners(x: Interval, y: Interval) -> tuple[Real, Real]:
    corners = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)
