"""A program while it is written: its operations, its weights, and in which form a value is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import whole
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.engine import loops
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.engine.sides import Scope
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.moves import Concatenate, Take
from protocols.mpc.operations.wires import AsShare, Open
from protocols.mpc.parties.exchange import Ring

MOST_PARTS = 256
"""Parts into which an operation is cut, at most."""
WEIGHTS = 4
"""Weights of one operation have this part of the memory."""


class Draft:
    """Operations in order, each checked as it is written.

    Attributes:
        node: what is written now, for errors.
        ops: what has been written.
        weights: integers, each once.
        memory: bytes of randomness for one example, of one operation; larger ones are cut into up to `MOST_PARTS`. What is needed at once
            is less in streams, at the price of more rounds; elsewhere it costs none. Weights beyond a part of it are cut, too, so that
            they never are there as a whole.
    """

    node: Node

    def __init__(self, input_shape: Shape, memory: int = MEMORY) -> None:
        self.memory = memory
        self.ops: list[AnyOp] = []
        self.weights: list[Ring] = []
        self._shapes: list[Shape] = []
        self._scope = Scope([], self._shapes, input_shape)
        self._wires: dict[int, int] = {}
        self._columns: dict[tuple[int, int, int], tuple[Real, Real]] = {}
        self._sliced: dict[tuple[int, int, int, int], int] = {}
        self._encoded: dict[tuple[int, float], tuple[int, Real]] = {}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of all weights."""
        return tuple(self._shapes)

    def unknown(self, shape: Shape) -> int:
        """Append a weight whose numbers nobody knows."""
        self._shapes.append(shape)
        return len(self._shapes) - 1

    def put(self, op: AnyOp, scale: float, bounds: Interval) -> RangedValue:
        """Append an operation, in parts if it is elementwise and too large."""
        return self._put(op, scale, bounds, self.memory)

    def _put(self, op: AnyOp, scale: float, bounds: Interval, most: int) -> RangedValue:
        """Append an operation in parts of `most` bytes of randomness, or more where those would be too many."""
        loops.infer([op], self._scope)
        size = self._dealt(op)
        if size > most:
            shape = self._scope.values.pop().shape
            return self._in_parts(op, scale, bounds, shape, size, max(most, -(-size // MOST_PARTS)))
        self.ops.append(op)
        position = len(self.ops) - 1
        return RangedValue(position, self._scope.values[position].kind, scale, bounds)

    def _dealt(self, op: AnyOp) -> int:
        """Return the bytes of randomness for one example of the last operation in the scope; 0 where it cannot be cut."""
        values = self._scope.values
        if not op.elementwise or values[-1].size == 1:
            return 0
        _, columns = op.rows(values[-1], 1)
        return 8 * sum(field.words for field in op.fields(values[-1], [values[x] for x in op.operands], columns))

    def _in_parts(self, op: AnyOp, scale: float, bounds: Interval, shape: Shape, size: int, most: int) -> RangedValue:
        """Append the operation on slices along its longest axis, and what joins them."""
        axis = shape.index(max(shape))
        parts = []
        for start, stop in stretches(shape[axis], -(-size // most)):
            named = {name: getattr(op, name) for name in ("x", "y") if hasattr(op, name)}
            operands = {name: self._slice(x, axis - len(shape), shape[axis], start, stop) for name, x in named.items()}
            parts.append(self._put(msgspec.structs.replace(op, **operands), scale, bounds.part(axis, start, stop), most).position)
        return self.put(Concatenate(tuple(parts), axis), scale, bounds)

    def _slice(self, x: int, axis: int, length: int, start: int, stop: int) -> int:
        """Return where the elements of a value from `start` to `stop` along an axis of `length` are; all, where it is repeated there."""
        shape = self._scope.values[x].shape
        if len(shape) < -axis or shape[axis] != length:
            return x
        key = (x, axis, start, stop)
        if key not in self._sliced:
            op = Take(x, axis + len(shape), tuple(range(start, stop)))
            loops.infer([op], self._scope)
            self.ops.append(op)
            self._sliced[key] = len(self.ops) - 1
        return self._sliced[key]

    def weight(self, values: Real, scale: float) -> int:
        """Append a weight, rounded to integers; one that several operations use is there once."""
        key = (id(values), scale)
        if key not in self._encoded:
            self.weights.append(whole(values, scale, self.node))
            self._shapes.append(self.weights[-1].shape)
            self._encoded[key] = (len(self.weights) - 1, values)
        return self._encoded[key][0]

    def columns(self, values: Real, start: int, stop: int) -> Real:
        """Return a stretch of the last axis of a weight, the same array each time."""
        _, found = self._columns.setdefault((id(values), start, stop), (values, values[..., start:stop]))
        return found

    def share(self, x: RangedValue) -> RangedValue:
        """Return the value as something that depends on more than what servers are sent."""
        return x if x.kind != "wire" else self.put(AsShare(x.position), x.scale, x.range)

    def wire(self, x: RangedValue) -> RangedValue:
        """Return the value as a wire, opened once however many layers read it."""
        if x.kind == "wire":
            return x
        if x.position not in self._wires:
            self._wires[x.position] = self.put(Open(x.position), x.scale, x.range).position
        return replace(x, position=self._wires[x.position], kind="wire")

    def factor(self, x: RangedValue) -> RangedValue:
        """Return the value as a factor of an element by element product: what a rounding gives needs no opening."""
        return x if x.kind == "affine" and x.position not in self._wires else self.wire(x)


def stretches(length: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of up to `count` stretches of a length, about as long each."""
    count = min(length, count)
    for number in range(count):
        yield length * number // count, length * (number + 1) // count
