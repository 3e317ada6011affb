"""A network that reads each feature in its own unit, made of one that reads real numbers: x = unit v + origin for each element.

What moves elements moves units and origins. What is linear takes them in, in float64, and costs nothing more:

    (unit v + origin) W + b = v (unit W) + (origin W + b)

and so for convolutions and for scales of channels, `Normalization` and batch normalisation among them. A rectifier has the unit of what it
takes: max(unit w, 0) = unit max(w, 0) for unit > 0, and what is public is added before, so that 0 is where it was. Only where something
else reads the input, or where units differ along an axis that a layer repeats its weights over, the values are brought to one unit: by
public powers of two, without communication.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from protocols.lowering.features.places import MOVES, moved
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.intervals import convolve
from protocols.mpc.inputs.ranges import Ranges


@dataclass(frozen=True, eq=False)
class _Raw:
    """A value that is still in units: its position in the new network, and x = unit v + origin; unit 0 where it is always the origin.

    `low` and `high` are the ends of v.
    """

    position: int
    unit: Real
    origin: Real
    low: Real
    high: Real


def in_units(nodes: Sequence[Node], ranges: Ranges) -> list[Node]:
    """Rewrite a network for inputs in the units of their ranges; the first node is the input, the last the output."""
    units = _Units(nodes[0], ranges)
    for position, node in enumerate(nodes[1:], 1):
        units.add(position, node)
    return units.finished(len(nodes) - 1)


class _Units:
    def __init__(self, start: Node, ranges: Ranges) -> None:
        low, high, unit, origin = (ranges.table(table) for table in (ranges.low, ranges.high, ranges.unit, ranges.origin))
        constant = low == high
        seen = np.where(constant, origin.astype(np.float32), origin)  # as a Keras layer of float32 sees it
        tables = (np.where(constant, 0.0, unit), seen, *((end - origin) / unit for end in (low, high)))
        self._nodes: list[Node] = [start]
        self._raw: dict[int, _Raw] = {0: _Raw(0, *(np.broadcast_to(table, start.shape) for table in tables))}
        self._real: dict[int, int] = {}

    def finished(self, last: int) -> list[Node]:
        """Return the new network."""
        if self._real.get(last) != len(self._nodes) - 1:
            self._brought(last)
        return self._nodes

    def add(self, position: int, node: Node) -> None:
        """Add the next node of the network."""
        raw = [self._raw.get(x) for x in node.inputs]
        first = raw[0] if raw else None
        if first is not None and isinstance(node, MOVES) and all(raw):
            known = [each for each in raw if each is not None]
            tables = (moved(node, [getattr(each, name) for each in known]) for name in ("unit", "origin", "low", "high"))
            self._raw[position] = _Raw(self._put(node, *(each.position for each in known)), *tables)
        elif first is not None and isinstance(node, net.Rescale):
            self._raw[position] = replace(first, unit=first.unit * node.scale, origin=first.origin * node.scale + node.offset)
        elif first is not None and isinstance(node, net.Shifted):
            self._raw[position] = replace(first, origin=first.origin + node.shift)
        elif first is not None and isinstance(node, net.Rectify) and not node.threshold and _one_sign(first.unit):
            self._raw[position] = self._rectified(node, first)
        elif isinstance(node, net.SignedSum) and first is not None and all(one is not None and _same(one.unit, first.unit) for one in raw):
            self._raw[position] = self._summed(node, [each for each in raw if each is not None])
        else:
            taken_in = None if first is None else self._taken_in(node, first)
            self._real[position] = self._put(node, *(self._brought(x) for x in node.inputs)) if taken_in is None else taken_in

    def _put(self, node: Node, *inputs: int) -> int:
        self._nodes.append(replace(node, inputs=inputs))
        return len(self._nodes) - 1

    def _rectified(self, node: net.Rectify, x: _Raw) -> _Raw:
        """Write a rectifier in the units of its input; with a maximum M min(f(x), M) = f(x) - max(x - M, 0)."""
        y = self._bent(node, x, node.slope)
        if node.maximum is None or (y.unit * y.high + y.origin <= node.maximum).all():
            return y
        over = self._bent(node, replace(x, origin=x.origin - node.maximum), 0.0)
        cut = self._summed(_like(node, net.SignedSum, node.shape, signs=(1, -1)), [y, over])
        always = (y.unit > 0) & (y.unit * y.low + y.origin >= node.maximum)  # M whatever x is: v is 0 then, as that of a constant
        if not always.any():
            return cut
        shift = np.divide(cut.origin - node.maximum, y.unit, out=np.zeros(y.unit.shape), where=always)
        position = self._put(_like(node, net.Shifted, node.shape, shift=shift), cut.position)
        unit, origin = np.where(always, 0.0, cut.unit), np.where(always, np.float32(node.maximum), cut.origin)
        return _Raw(position, unit, origin, np.where(always, 0.0, cut.low), np.where(always, 0.0, cut.high))

    def _summed(self, node: Node, values: list[_Raw]) -> _Raw:
        """Write a sum of values in the same units."""
        assert isinstance(node, net.SignedSum)
        ends = [(v.low, v.high) if sign > 0 else (-v.high, -v.low) for sign, v in zip(node.signs, values, strict=True)]
        low, high = (np.sum(each, axis=0) for each in zip(*ends, strict=True))
        origin = sum((sign * v.origin for sign, v in zip(node.signs, values, strict=True)), np.zeros(node.shape))
        return _Raw(self._put(node, *(v.position for v in values)), values[0].unit, origin, low, high)

    def _bent(self, node: net.Rectify, x: _Raw, slope: float) -> _Raw:
        """x where it is above 0, `slope` x below: of w = v + s, where s moves v no further than the sign of w says that of x."""
        turned, unit = bool((x.unit < 0).any()), np.abs(x.unit)
        low, high = (-x.high, -x.low) if turned else (x.low, x.high)
        zero = np.divide(-x.origin, unit, out=np.zeros(unit.shape), where=unit != 0)
        above, below = (unit * low + x.origin >= 0), (unit * high + x.origin <= 0)
        shift = np.where(unit == 0, 0.0, np.where(above, np.maximum(0.0, -low), np.where(below, np.minimum(0.0, -high), -zero)))
        rest = x.origin - unit * shift  # x = unit w + rest, where rest is 0 if x has both signs
        position = x.position
        if turned:
            position = self._put(_like(node, net.Rescale, node.shape, scale=-1.0, offset=0.0), position)
        if shift.any():
            position = self._put(_like(node, net.Shifted, node.shape, shift=shift), position)
        position = self._put(replace(node, slope=slope, maximum=None), position)
        ends = [np.where(w >= 0, w, slope * w) for w in (low + shift, high + shift, np.clip(0.0, low + shift, high + shift))]
        unit = np.where(below & (slope == 0.0), 0.0, unit)  # 0 whatever x is
        return _Raw(position, unit, np.where(above, rest, slope * rest), np.min(ends, axis=0), np.max(ends, axis=0))

    def _taken_in(self, node: Node, x: _Raw) -> int | None:
        """Write a linear layer on a value in units; None if it is not one that can take them in."""
        channel = _by_channel(x.unit)
        match node:
            case net.ChannelAffine() if channel is None:  # other units in each place: a scale of its own for each element
                return self._flat(node, x)
            case net.ChannelAffine() if channel is not None:
                return self._shifted(replace(node, scale=node.scale * channel), x, node.scale * x.origin)
            case net.Product() if channel is not None:
                return self._shifted(replace(node, kernel=channel[:, None] * node.kernel), x, x.origin @ node.kernel)
            case net.Convolution() if channel is not None:
                kh, kw, depth, filters = node.kernel.shape
                grouped = node.kernel.reshape(kh, kw, depth, node.groups, filters // node.groups)
                scaled = grouped * channel.reshape(node.groups, depth).T[:, :, None]
                return self._shifted(replace(node, kernel=scaled.reshape(node.kernel.shape)), x, _convolved(node, x.origin))
            case _:
                return None

    def _flat(self, node: net.ChannelAffine, x: _Raw) -> int:
        scale = (x.unit * node.scale).reshape(-1)
        shift = (x.origin * node.scale + node.shift).reshape(-1)
        flat = self._put(_like(node, net.Shaped, scale.shape), x.position)
        scaled = self._put(_like(node, net.ChannelAffine, scale.shape, kind=node.kind, scale=scale, shift=shift), flat)
        return self._put(_like(node, net.Shaped, node.shape), scaled)

    def _shifted(self, node: net.ChannelAffine | net.Product | net.Convolution, x: _Raw, constant: Real) -> int:
        """Write a linear layer, and what it makes of the origins: in its bias where that is the same in all places."""
        channel = _by_channel(constant)
        if channel is not None:
            if isinstance(node, net.ChannelAffine):
                return self._put(replace(node, shift=node.shift + channel), x.position)
            if channel.any():
                node = replace(node, bias=channel if node.bias is None else node.bias + channel)
            return self._put(node, x.position)
        position = self._put(node, x.position)
        return self._put(_like(node, net.Shifted, node.shape, shift=constant), position)

    def _brought(self, position: int) -> int:
        """Write a value as real numbers in one unit."""
        if position in self._real:
            return self._real[position]
        x, node = self._raw[position], self._nodes[0]
        like: Callable[..., Node] = partial(_like, node, shape=x.unit.shape, kind="Input")
        varied = x.unit[x.unit != 0]
        least = float(varied.flat[np.abs(varied).argmin()]) if varied.size else 1.0  # all are negative after a negative Rescaling
        table = np.where(x.unit == 0, 1.0, x.unit / least)
        now = x.position
        if (table != 1).any():
            now = self._put(like(node_class=net.Scaled, table=table), now)
        same = bool((x.origin == x.origin.flat[0]).all())
        now = self._put(like(node_class=net.Rescale, scale=least, offset=float(x.origin.flat[0]) if same else 0.0), now)
        if not same:
            now = self._put(like(node_class=net.Shifted, shift=x.origin), now)
        self._real[position] = now
        return now


def _like(node: Node, node_class: type[Node], shape: Sequence[int], *, kind: str | None = None, **settings: Any) -> Node:
    return node_class(layer=node.layer, kind=kind or node.kind, inputs=(), shape=tuple(shape), **settings)


def _one_sign(unit: Real) -> bool:
    return bool((unit >= 0).all() or (unit <= 0).all())


def _same(one: Real, other: Real) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _by_channel(table: Real) -> Real | None:
    """Return a table's last axis if all others only repeat it."""
    rows = table.reshape(-1, table.shape[-1])
    first: Real = rows[0]
    return first if (rows == first).all() else None


def _convolved(node: net.Convolution, x: Real) -> Real:
    found: Real = convolve(
        x[None],
        node.kernel,
        strides=node.strides,
        padding=node.padding,
        dilation=node.dilation,
        groups=node.groups,
        grid=node.shape[:2],
    )[0]
    return found
