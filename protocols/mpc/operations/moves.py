"""Elements in other places: what each holder of a value does alone."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.sides import Scope
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Pair, Shape, Value, wire
from protocols.mpc.numbers import shapes
from protocols.mpc.operations.local import Local, Move
from protocols.mpc.parties.exchange import Ring

FEW = 64
"""Elements of a slice below which one by one is faster than slice by slice."""


def _of(value: Value, shape: Shape) -> Value:
    """Return what is known of the same elements in another shape."""
    return msgspec.structs.replace(value, shape=shape, cut=None)


class Reshape(Move, frozen=True):
    """The elements of `x` in row-major order, in another shape (without the batch axis)."""

    x: int
    shape: Shape

    def value(self, scope: Scope) -> Value:
        """Return the value, with as many elements."""
        value = scope.operand(self.x)
        if math.prod(self.shape) != value.size or any(n < 1 for n in self.shape):
            raise ProgramError(f"{value.shape} cannot be reshaped to {self.shape}")
        return _of(value, tuple(self.shape))

    def move(self, x: Ring, value: Value) -> Ring:
        """Reshape an array."""
        return x.reshape(value.full(len(x)))

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Reshape back."""
        return tape.put(Reshape(gradient, tape.value(self.x).shape), tape.bits(gradient))


class Permute(Move, frozen=True):
    """The axes of `x` in another order; 0 is the first axis after the batch."""

    x: int
    axes: tuple[int, ...]

    def value(self, scope: Scope) -> Value:
        """Return the value with its axes in that order."""
        value = scope.operand(self.x)
        return _of(value, shapes.permuted(value.shape, self.axes))

    def move(self, x: Ring, value: Value) -> Ring:
        """Transpose an array."""
        return x.transpose(*range(value.batched), *(axis + value.batched for axis in self.axes))

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Put the axes back."""
        back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return tape.put(Permute(gradient, back), tape.bits(gradient))


class Take(Move, frozen=True):
    """The slices `indices` of `x` along `axis`, in that order, any of them any number of times."""

    x: int
    axis: int
    indices: tuple[int, ...]

    def value(self, scope: Scope) -> Value:
        """Return the slices, all of which are there."""
        value = scope.operand(self.x)
        return _of(value, shapes.taken(value.shape, self.axis, self.indices))

    def move(self, x: Ring, value: Value) -> Ring:
        """Take the slices of an array."""
        taken: Ring = x[_slices(self.axis + value.batched, self.indices)]
        return taken

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Put the slices back, added up where one was taken several times."""
        length = tape.value(self.x).shape[self.axis]
        return tape.put(Put((gradient,), self.axis, (self.indices,), length), tape.bits(gradient))


class Pad(Move, frozen=True):
    """Zeros around the first two axes of `x` (H, W, C): `padding` is ((top, bottom), (left, right))."""

    x: int
    padding: tuple[Pair, Pair]

    def value(self, scope: Scope) -> Value:
        """Return the larger value."""
        value = scope.operand(self.x)
        if len(value.shape) != 3 or min(*self.padding[0], *self.padding[1]) < 0:
            raise ProgramError(f"a value of shape {value.shape} cannot be padded by {self.padding}")
        h, w, c = value.shape
        return _of(value, (h + sum(self.padding[0]), w + sum(self.padding[1]), c))

    def move(self, x: Ring, value: Value) -> Ring:
        """Pad an array."""
        return np.pad(x, ((0, 0),) * value.batched + (*self.padding, (0, 0)))

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Take what lies inside."""
        bits, image = tape.bits(gradient), tape.value(self.x).shape
        for axis, (before, _) in enumerate(self.padding):
            gradient = tape.put(Take(gradient, axis, tuple(range(before, before + image[axis]))), bits)
        return gradient


class Concatenate(Local, frozen=True):
    """The values `xs` joined along `axis` (0 is the first axis after the batch); a wire if all are, else a share."""

    xs: tuple[int, ...]
    axis: int

    def value(self, scope: Scope) -> Value:
        """Return what the values are side by side."""
        values = [scope.operand(x) for x in self.xs]
        if not values or any(value.batched != values[0].batched for value in values):
            raise ProgramError("values that are joined are at least one, and all there for each example, or none")
        return joint(values, shapes.joined([value.shape for value in values], self.axis), batched=values[0].batched)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Join arrays."""
        return np.concatenate(xs, self.axis + value.batched)

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Take the part of the value."""
        lengths = [tape.value(x).shape[self.axis] for x in self.xs]
        start = sum(lengths[:side])
        return tape.put(Take(gradient, self.axis, tuple(range(start, start + lengths[side]))), tape.bits(gradient))


class Put(Local, frozen=True):
    """Transposes of `Take`, added: slice i of xs[k] is added to slice places[k][i] of `length` zeros along the axis."""

    xs: tuple[int, ...]
    axis: int
    places: tuple[tuple[int, ...], ...]
    length: int

    def value(self, scope: Scope) -> Value:
        """Return the value with that many slices; a wire if all are, else a share."""
        values = [scope.operand(x) for x in self.xs]
        shape = values[0].shape if values else ()
        alike = all(value.shape == shape and value.batched == values[0].batched for value in values)
        fits = 0 <= self.axis < len(shape) and len(self.places) == len(values) and alike and self.length > 0
        if not fits or any(len(at) != shape[self.axis] or not all(0 <= index < self.length for index in at) for at in self.places):
            raise ProgramError(f"a place below {self.length} for each slice along axis {self.axis} of values of shape {shape} is needed")
        return joint(values, (*shape[: self.axis], self.length, *shape[self.axis + 1 :]), batched=values[0].batched)

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Add the slices of arrays to zeros."""
        out = np.zeros(value.full(len(xs[0])), np.uint64)
        axis = self.axis + value.batched
        for x, indices in zip(xs, self.places, strict=True):
            at = _slices(axis, indices)
            if isinstance(at[-1], slice):
                out[at] += x
                continue
            _add(np.moveaxis(out, axis, 0), indices, np.moveaxis(x, axis, 0))
        return out

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Take the slices to which the value was added."""
        return tape.put(Take(gradient, self.axis, self.places[side]), tape.bits(gradient))


def _add(target: Ring, indices: tuple[int, ...], pieces: Ring) -> None:
    """Add pieces to slices of an array, where an index may come twice."""
    if len(set(indices)) == len(indices):
        target[list(indices)] += pieces
    elif pieces[0].size < FEW:
        np.add.at(target, list(indices), pieces)
    else:
        for index, piece in zip(indices, pieces, strict=True):
            target[index] += piece


def joint(values: list[Value], shape: Shape, *, batched: bool) -> Value:
    """Return what is known of a linear function of several values: a wire if all are, else a share."""
    return wire(shape, batched=batched) if all(value.kind == "wire" for value in values) else Value(shape, "share", batched)


def _slices(axis: int, indices: tuple[int, ...]) -> tuple[slice | tuple[int, ...], ...]:
    """Return an index for some slices of an axis: a slice, which copies nothing, where they are evenly spaced."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    even = step > 0 and indices == tuple(range(indices[0], indices[-1] + 1, step))
    return (*[slice(None)] * axis, slice(indices[0], indices[-1] + 1, step) if even else indices)
