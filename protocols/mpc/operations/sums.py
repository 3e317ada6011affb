"""Sums with public factors: what each holder of a value does alone."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.sides import Clear, Scope, broadcast
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Pair, Shape, Value
from protocols.mpc.numbers import ring, shapes
from protocols.mpc.operations.local import Local
from protocols.mpc.operations.moves import Put, Reshape, Take, joint
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KEY_BYTES, KeyStream

PATTERNS = 4
"""Choices of signs that rows of a projection have in turn."""


class Combine(Local, frozen=True):
    """sum_i factors[i] * xs[i] + constant with public integers, broadcast as numpy does."""

    xs: tuple[int, ...]
    factors: tuple[int, ...]
    constant: int = 0

    def value(self, scope: Scope) -> Value:
        """Return a value of the shape to which all are broadcast; a wire if all are, else a share."""
        values = [scope.operand(x) for x in self.xs]
        if len(self.factors) != len(values):
            raise ProgramError(f"{len(values)} values are combined with {len(self.factors)} factors: one each is needed")
        shape, batched = broadcast(values)
        return joint(values, shape, batched=batched)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Combine arrays."""
        first, *others = xs
        total: Ring = np.multiply(first, _word(self.factors[0])) if self.factors[0] != 1 else first.copy()
        shape = np.broadcast_shapes(*(x.shape for x in xs))
        if total.shape != shape:
            total = np.broadcast_to(total, shape).copy()
        for x, factor in zip(others, self.factors[1:], strict=True):
            if factor == 1:
                total += x
            elif factor == -1:
                total -= x
            else:
                total += x * _word(factor)
        if constant and self.constant:
            total += _word(self.constant)
        return total

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Multiply by the factor; what is repeated is rounded once, for all that need it, and summed."""
        x = self.xs[side]
        if tape.value(x).shape != tape.value(at).shape:
            gradient = fitted(tape, tape.factor(gradient), tape.value(x))
        return tape.times(gradient, self.factors[side], tape.bits(at) - tape.bits(x))


def fitted(tape: Tape, gradient: int, value: Value) -> int:
    """Return the gradient by a value that is broadcast: its sum over what is repeated.

    Raises:
        ProgramError: the value is there once, and what it was broadcast to is there for each example.
    """
    bits, shape = tape.bits(gradient), tape.value(gradient).shape
    if tape.value(gradient).batched != value.batched:
        raise ProgramError("a sum over the examples of clients cannot be had")
    more = len(shape) - len(value.shape)
    if more:
        rows = tape.put(Reshape(gradient, (math.prod(shape[:more]), *shape[more:])), bits)
        gradient = tape.put(Sum(rows, 0, keep=False), bits)
    for axis, n in enumerate(value.shape):
        if n == 1 != tape.value(gradient).shape[axis]:
            gradient = tape.put(Sum(gradient, axis), bits)
    return gradient


class Scale(Local, frozen=True):
    """`x` times a public table of integers `factors`, of shape `shape`, broadcast over the example as numpy does."""

    x: int
    factors: tuple[int, ...]
    shape: Shape

    def value(self, scope: Scope) -> Value:
        """Return a value of the same shape."""
        value = scope.operand(self.x)
        shapes.check_table(len(self.factors), self.shape, value.shape)
        return joint([value], value.shape, batched=value.batched)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Multiply an array."""
        product: Ring = xs[0] * np.array(self.factors, np.int64).view(np.uint64).reshape(self.shape)
        return product

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Multiply by the same factors."""
        more = tape.bits(at) - tape.bits(self.x)
        gradient = tape.room(gradient, more)
        return tape.put(Scale(gradient, self.factors, self.shape), tape.bits(gradient) + more)


class SumPool(Local, frozen=True):
    """Sums over windows of `x` (H, W, C), zeros outside. An average pool is this with the division in the public scale."""

    x: int
    size: Pair
    strides: Pair
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))

    def value(self, scope: Scope) -> Value:
        """Return a sum for each window."""
        value = scope.operand(self.x)
        if len(value.shape) != 3 or not value.batched:
            raise ProgramError(f"a pool needs (height, width, channels) of each example, not shape {value.shape}")
        shape = (*shapes.windows(value.shape, self.size, self.strides, self.padding), value.shape[2])
        return joint([value], shape, batched=True)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Sum an array over windows."""
        return ring.sum_pool(xs[0], self.size, strides=self.strides, padding=self.padding)

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Give each place of a window the gradient by its sum, and leave out what lies outside."""
        bits, windows, image = tape.bits(gradient), tape.value(at).shape, tape.value(self.x).shape
        for axis, (size, stride, zeros) in enumerate(zip(self.size, self.strides, self.padding, strict=True)):
            reach = range(0, windows[axis] * stride, stride)
            places = tuple(tuple(start + place for start in reach) for place in range(size))
            gradient = tape.put(Put((gradient,) * size, axis, places, image[axis] + sum(zeros)), bits)
            gradient = tape.put(Take(gradient, axis, tuple(range(zeros[0], zeros[0] + image[axis]))), bits)
        return tape.times(gradient, 1, tape.bits(at) - tape.bits(self.x))

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the sums, window by window."""
        x = np.pad(clear[self.x], ((0, 0), *self.padding, (0, 0)))
        _, h, w, _ = clear.values[at].full(len(x))
        out = np.zeros(clear.values[at].full(len(x)), np.uint64)
        for i in range(self.size[0]):
            for j in range(self.size[1]):
                rows, columns = (
                    slice(k, k + (n - 1) * step + 1, step) for k, n, step in ((i, h, self.strides[0]), (j, w, self.strides[1]))
                )
                out += x[:, rows, columns]
        return out


class Sum(Local, frozen=True):
    """The sum of `x` over `axis` (kept, with length 1, or not), over everything (shape (1,)) if None."""

    x: int
    axis: int | None = None
    keep: bool = True

    def value(self, scope: Scope) -> Value:
        """Return the shorter value; a wire if x is one, else a share."""
        value, axis = scope.operand(self.x), self.axis
        if axis is None:
            if value.batched:
                raise ProgramError("a sum over everything is one over the examples, too: name an axis")
            return joint([value], (1,), batched=False)
        if not 0 <= axis < len(value.shape):
            raise ProgramError(f"axis {axis} does not exist in shape {value.shape}")
        shape = (*value.shape[:axis], *[1] * self.keep, *value.shape[axis + 1 :])
        return joint([value], shape, batched=value.batched)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Sum an array."""
        if self.axis is None:
            everything: Ring = xs[0].sum(keepdims=True).reshape(1)
            return everything
        total: Ring = xs[0].sum(self.axis + value.batched, keepdims=self.keep)
        return total

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Repeat the gradient by a sum for all that it is made of."""
        bits, shape = tape.bits(gradient), tape.value(self.x).shape
        axes = range(len(shape)) if self.axis is None else (self.axis,)
        gradient = tape.put(Reshape(gradient, tuple(1 if axis in axes else n for axis, n in enumerate(shape))), bits)
        for axis in axes:
            gradient = tape.put(Take(gradient, axis, (0,) * shape[axis]), bits)
        return tape.times(gradient, 1, tape.bits(at) - tape.bits(self.x))


class Project(Local, frozen=True):
    """`count` sums of `x` with public random signs, over each `row` of so many elements; (rows, count).

    Another `choice` has other signs, and so has each of `PATTERNS` rows one after the other: what cancels in one row does not in the next.
    """

    ungraded: ClassVar[str] = "it is made to look at values, and nothing is trained by it"

    x: int
    count: int
    row: int
    choice: int = 0

    def value(self, scope: Scope) -> Value:
        """Return the sums; a wire if x is one, else a share."""
        value = scope.operand(self.x)
        if value.batched or self.count < 1 or self.row < 1 or value.size % self.row:
            raise ProgramError(f"{self.count} sums over rows of {self.row} do not fit a value of shape {value.shape}")
        return joint([value], (value.size // self.row, self.count), batched=False)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Sum the rows of an array with signs."""
        rows = xs[0].reshape(-1, self.row)
        sums = np.empty((len(rows), self.count), np.uint64)
        for pattern in range(min(PATTERNS, len(rows))):
            mine = np.ascontiguousarray(rows[pattern::PATTERNS])
            sums[pattern::PATTERNS] = ring.matmul(mine, _signs(self.row, self.count, self.choice + (pattern << 32)))
        return sums


@lru_cache(maxsize=256)
def _signs(rows: int, columns: int, choice: int) -> Ring:
    """Return public signs, 1 or -1 modulo 2^64, the same at both servers."""
    bits = KeyStream(choice.to_bytes(KEY_BYTES, "big")).words((rows, columns)) >> np.uint64(63)
    if rows == 2:  # alike in every other column, so that neither opposite nor equal numbers are hidden in two columns
        bits[1] = (bits[0] + np.arange(columns, dtype=np.uint64)) & np.uint64(1)
    return np.uint64(1) - np.uint64(2) * bits


def _word(factor: int) -> np.uint64:
    return np.uint64(factor % 2**64)
