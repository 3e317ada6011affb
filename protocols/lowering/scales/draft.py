"""A program while it is written: its operations, its weights, and in which form a value is at hand."""

from __future__ import annotations

from dataclasses import replace

from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import whole
from protocols.lowering.scales.values import Value
from protocols.mpc.engine import loops
from protocols.mpc.engine.sides import Scope
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.wires import AsShare, Open
from protocols.mpc.parties.exchange import Ring


class Draft:
    """Operations in order, each checked as it is written.

    Attributes:
        node: what is written now, for errors.
        ops: what has been written.
        weights: integers, each once.
    """

    node: Node

    def __init__(self, input_shape: Shape) -> None:
        self.ops: list[AnyOp] = []
        self.weights: list[Ring] = []
        self._shapes: list[Shape] = []
        self._scope = Scope([], self._shapes, input_shape)
        self._wires: dict[int, int] = {}
        self._encoded: dict[tuple[int, float], tuple[int, Real]] = {}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of all weights."""
        return tuple(self._shapes)

    def unknown(self, shape: Shape) -> int:
        """Append a weight whose numbers nobody knows."""
        self._shapes.append(shape)
        return len(self._shapes) - 1

    def put(self, op: AnyOp, scale: float, bounds: Interval) -> Value:
        """Append an operation."""
        loops.infer([op], self._scope)
        self.ops.append(op)
        position = len(self.ops) - 1
        return Value(position, self._scope.values[position].kind, scale, bounds)

    def weight(self, values: Real, scale: float) -> int:
        """Append a weight, rounded to integers; one that several operations use is there once."""
        key = (id(values), scale)
        if key not in self._encoded:
            self.weights.append(whole(values, scale, self.node))
            self._shapes.append(self.weights[-1].shape)
            self._encoded[key] = (len(self.weights) - 1, values)
        return self._encoded[key][0]

    def share(self, x: Value) -> Value:
        """Return the value as something that depends on more than what servers are sent."""
        return x if x.kind != "wire" else self.put(AsShare(x.position), x.scale, x.range)

    def wire(self, x: Value) -> Value:
        """Return the value as a wire, opened once however many layers read it."""
        if x.kind == "wire":
            return x
        if x.position not in self._wires:
            self._wires[x.position] = self.put(Open(x.position), x.scale, x.range).position
        return replace(x, position=self._wires[x.position], kind="wire")

    def factor(self, x: Value) -> Value:
        """Return the value as a factor of an element by element product: what a rounding gives needs no opening."""
        return x if x.kind == "affine" and x.position not in self._wires else self.wire(x)
