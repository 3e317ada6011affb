"""Several values as one long row, and pieces of it: what is done to each of them alike is done once.

An operation has a price of its own beside that of its elements: in an optimizer's update small weights cost as much as large ones.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.sides import Scope
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Shape, Value
from protocols.mpc.operations.local import Local, Move
from protocols.mpc.operations.moves import Put, joint
from protocols.mpc.parties.exchange import Ring


class Row(Local, frozen=True):
    """The elements of the values `xs`, each in row-major order, one value after the other; a wire if all are, else a share."""

    xs: tuple[int, ...]

    def value(self, scope: Scope) -> Value:
        """Return a value with one axis; there is one, not one for each example."""
        values = [scope.operand(x) for x in self.xs]
        if not values or any(value.batched for value in values):
            raise ProgramError("a row is made of at least one value, none of which is there for each example")
        return joint(values, (sum(value.size for value in values),), batched=False)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Put arrays one after the other."""
        return np.concatenate([x.reshape(-1) for x in xs])

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Take the piece of the value."""
        sizes = [tape.value(x).size for x in self.xs]
        return tape.put(Piece(gradient, sum(sizes[:side]), tape.value(self.xs[side]).shape), tape.bits(gradient))


class Piece(Move, frozen=True):
    """The elements of `x`, a row, from `start` on, in another shape."""

    x: int
    start: int
    shape: Shape

    def value(self, scope: Scope) -> Value:
        """Return the value of that shape."""
        value, size = scope.operand(self.x), math.prod(self.shape)
        if value.batched or len(value.shape) != 1 or self.start < 0 or self.start + size > value.size:
            raise ProgramError(f"there are no {size} elements from number {self.start} on in a value of shape {value.shape}")
        return msgspec.structs.replace(value, shape=tuple(self.shape), cut=None)

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Put the piece back between zeros."""
        size, length = math.prod(self.shape), tape.value(self.x).size
        row = tape.put(Row((gradient,)), tape.bits(gradient))
        return tape.put(Put((row,), 0, (tuple(range(self.start, self.start + size)),), length), tape.bits(gradient))

    def move(self, x: Ring, value: Value) -> Ring:
        """Return a view of an array."""
        return x[self.start : self.start + value.size].reshape(value.shape)
