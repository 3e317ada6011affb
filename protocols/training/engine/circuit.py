"""One step of training as a program over whole batches: the public half of an encrypted training.

Like `protocols.mpc.program`, but weights change in every step, so they are values like all others, and two secret values may be multiplied.
Values are numbered by the position of the operation that made them. Three kinds, all arrays over Z_2^64 whose first axis is the batch
or that of a weight:

- a **wire**: m = x + lambda is known to both servers;
- **affine**: x = a - R + kappa h, with a and kappa known to both servers, R and h known to the crypto provider and shared;
- a **share**: x = x_0 + x_1.

Each wire is affine (a = m, R = lambda, kappa = 0), and each affine value can be used as a share. What truncation and comparison give is
affine already (Section 2.3 of the design), so that a product of such values needs no opening of its own. What is linear maps wires to
wires: m and lambda go the same way.

This file knows no network, no Keras and no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.operations.instructions import Shape

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Kind = Literal["wire", "affine", "share"]


class Op(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An operation of a circuit. Its position is the number of the value that it makes."""


class Given(Op, frozen=True):
    """A value from outside: a wire, of which the provider knows the mask, or a share of something that nobody knows."""

    name: str
    shape: Shape
    kind: Kind


class Open(Op, frozen=True):
    """Share `x` becomes a wire. Rounds: 1. Bytes: 8 an element and direction."""

    x: int


class Truncate(Op, frozen=True):
    """t = floor(x / 2^drop) + u, u in {0, 1} random and unbiased; affine. Rounds: 1. Bytes: 8 an element and direction.

    Holds for |x| <= 2^(drop + window - 1) - 2^(drop + 1).
    """

    x: int
    drop: int
    window: int


class Sign(Op, frozen=True):
    """D = [x >= 0], affine, for `x` a `Truncate`, or a wire within +-2^(window - 1). Rounds: 2. Bytes: (2 (B - 1) + 1) / 8 an element.

    If `strict`, D = [x > 0]. The bits that are compared are those of the value that is public already: c of the truncation, m of the wire.
    """

    x: int
    window: int | None = None
    strict: bool = False


class Largest(Op, frozen=True):
    """One-hot bits of the largest of the last axis of share `x` (rows, classes), ties to the lower index; affine.

    Rounds: 3 + the levels of ANDs. Holds for differences below 2^(window - 1) - 2.
    """

    x: int
    window: int


class Piecewise(Op, frozen=True):
    """slopes[k] t + offsets[k], t = `x` / 2^drop rounded and k the number of `knots` <= t, for share `x`; a share. Rounds: 3.

    See `protocols.mpc.operations.instructions.Piecewise`, whose ranges hold here.
    """

    x: int
    drop: int
    window: int
    knots: tuple[int, ...]
    slopes: tuple[int, ...]
    offsets: tuple[int, ...]


class Multiply(Op, frozen=True):
    """x * y element by element, affine both, broadcast as numpy does; a share. Rounds: 0. Dealt: 8 to 32 B an element."""

    x: int
    y: int


class MatMul(Op, frozen=True):
    """x y for two wires (matrices), each transposed first if asked; a share. Rounds: 0. Dealt: 8 B an element of the product."""

    x: int
    y: int
    transpose_x: bool = False
    transpose_y: bool = False


class Convolve(Op, frozen=True):
    """The cross-correlation of wires x (n, H, W, C) and y, a kernel (kh, kw, C, F); a share (n, OH, OW, F). Dealt: 8 B an element."""

    x: int
    y: int
    strides: Pair
    padding: Padding


class KernelGradient(Op, frozen=True):
    """What `Convolve` gives is linear in its kernel: the transpose of that, for wires x (n, H, W, C) and y (n, OH, OW, F); a share."""

    x: int
    y: int
    size: Pair
    strides: Pair
    padding: Padding


class InputGradient(Op, frozen=True):
    """What `Convolve` gives is linear in its input: the transpose of that, for wires x (n, OH, OW, F) and y, the kernel; a share."""

    x: int
    y: int
    image: Pair
    strides: Pair
    padding: Padding


class Reshape(Op, frozen=True):
    """The elements of `x` in another shape; a wire if x is one, else a share."""

    x: int
    shape: Shape


class Take(Op, frozen=True):
    """The slices `indices` of an axis of `x`; a wire if x is one, else a share."""

    x: int
    axis: int
    indices: tuple[int, ...]


class Put(Op, frozen=True):
    """Transposes of `Take`, added: slice i of xs[k] is added to slice places[k][i] of `length` zeros along the axis; a wire if all are."""

    xs: tuple[int, ...]
    axis: int
    places: tuple[tuple[int, ...], ...]
    length: int


class Combine(Op, frozen=True):
    """sum_i factors[i] * xs[i] + constant with public integers, broadcast as numpy does; a wire if all xs are, else a share."""

    xs: tuple[int, ...]
    factors: tuple[int, ...]
    constant: int = 0


class Sum(Op, frozen=True):
    """The sum of `x` over `axis` (kept, with length 1, or not), over everything (shape (1,)) if None; a wire if x is one, else a share."""

    x: int
    axis: int | None = None
    keep: bool = True


class Project(Op, frozen=True):
    """`count` sums of share `x` with public signs, over each `row` of so many elements; a share (rows, count)."""

    x: int
    count: int
    row: int


Bilinear = MatMul | Convolve | KernelGradient | InputGradient
Linear = Reshape | Take | Put | Combine | Sum
AnyOp = Given | Open | Truncate | Sign | Largest | Piecewise | Multiply | Bilinear | Linear | Project


class Value(msgspec.Struct, frozen=True):
    """What is known of a value before it is computed."""

    shape: Shape
    kind: Kind

    @property
    def size(self) -> int:
        """How many ring elements."""
        return math.prod(self.shape)


class Circuit(msgspec.Struct, frozen=True):
    """One step.

    Attributes:
        ops: in order; every operand is an earlier position.
        outputs: the positions of the values that a step hands on, by name.
    """

    ops: tuple[AnyOp, ...]
    outputs: dict[str, int]


def infer(circuit: Circuit) -> list[Value]:
    """Shape and kind of every value.

    Raises:
        ProgramError: the circuit is not well formed.
    """
    values: list[Value] = []
    for position in range(len(circuit.ops)):
        values.append(_next(circuit.ops, values, position))
    if not all(0 <= position < len(values) for position in circuit.outputs.values()):
        raise ProgramError("an output of the circuit is no position of it")
    return values


def operands(op: AnyOp) -> tuple[int, ...]:
    """The positions that an operation reads."""
    match op:
        case Given():
            return ()
        case Multiply(x, y) | MatMul(x, y) | Convolve(x, y) | KernelGradient(x, y) | InputGradient(x, y):
            return (x, y)
        case Combine(xs) | Put(xs):
            return xs
        case _:
            return (op.x,)


def compared(ops: Sequence[AnyOp], op: Sign) -> tuple[int, int]:
    """Which bits of the public value a comparison reads: from which on, and how many."""
    cut = ops[op.x]
    if isinstance(cut, Truncate):
        return cut.drop, cut.window
    assert op.window is not None
    return 0, op.window


def _next(ops: Sequence[AnyOp], values: list[Value], position: int) -> Value:
    op = ops[position]
    if any(not 0 <= x < position for x in operands(op)):
        raise ProgramError(f"operation {position} uses values {operands(op)}: earlier positions are needed")
    xs = [values[x] for x in operands(op)]
    match op:
        case Sign(x, window):
            fits = window is None if isinstance(ops[x], Truncate) else xs[0].kind == "wire" and window is not None and 1 < window < 64
            _require(fits, position, "a truncation, or a wire and a window")
            return Value(xs[0].shape, "affine")
        case MatMul() | Convolve() | KernelGradient() | InputGradient():
            _require(all(x.kind == "wire" for x in xs), position, "two wires")
            return Value(_product_shape(op, xs[0].shape, xs[1].shape, position), "share")
        case Reshape() | Take() | Put() | Combine() | Sum():
            kind: Kind = "wire" if all(x.kind == "wire" for x in xs) else "share"
            return Value(_linear_shape(op, xs, position), kind)
        case _:
            return _value(op, xs, position)


def _value(op: Given | Open | Truncate | Largest | Piecewise | Multiply | Project, xs: list[Value], position: int) -> Value:
    match op:
        case Given(_, shape, kind):
            _require(kind != "affine" and min(shape, default=1) > 0, position, "a wire or a share of at least one element")
            return Value(shape, kind)
        case Open():
            return Value(xs[0].shape, "wire")
        case Truncate(_, drop, window):
            _require(drop > 0 and window > 1 and drop + window <= 63, position, "0 < drop, 1 < window, drop + window <= 63")
            return Value(xs[0].shape, "affine")
        case Largest():
            _require(len(xs[0].shape) == 2 and xs[0].shape[1] > 1, position, "a matrix with at least two columns")
            return Value(xs[0].shape, "affine")
        case Piecewise(_, drop, window, knots, slopes, offsets):
            _require(drop > 0 and drop + window <= 63, position, "0 < drop, drop + window <= 63")
            _require(0 < len(knots) == len(slopes) - 1 == len(offsets) - 1, position, "a slope and an offset more than knots")
            return Value(xs[0].shape, "share")
        case Multiply():
            _require(all(x.kind != "share" for x in xs), position, "two affine values")
            return Value(_broadcast(xs, position), "share")
        case Project(_, count, row):
            _require(count > 0 and row > 0 and xs[0].size % row == 0, position, f"rows that fit into {xs[0].shape}")
            return Value((xs[0].size // row, count), "share")


def _product_shape(op: Bilinear, x: Shape, y: Shape, position: int) -> Shape:
    if isinstance(op, MatMul):
        _require(len(x) == len(y) == 2, position, "two matrices")
        a, b = (x[::-1] if op.transpose_x else x), (y[::-1] if op.transpose_y else y)
        _require(a[1] == b[0], position, f"matrices that fit, not {a} and {b}")
        return (a[0], b[1])
    _require(len(x) == len(y) == 4, position, "two values with four axes")
    match op:
        case Convolve():
            out, kernel = (x[0], *windows(x[1:3], y[:2], op.strides, op.padding, position), y[3]), y
            _require(x[3] == y[2], position, f"as many channels as its kernel has, not {x} and {y}")
            return out
        case KernelGradient():
            image, kernel, slopes, made = x, (*op.size, x[3], y[3]), y, (*op.size, x[3], y[3])
        case InputGradient():
            image, kernel, slopes = (x[0], *op.image, y[2]), y, x
            made = image
    fits = (image[0], *windows(image[1:3], kernel[:2], op.strides, op.padding, position), kernel[3])
    _require(slopes == fits, position, f"the gradient by an output of shape {fits}, not {slopes}")
    return made


def windows(image: Shape, size: Shape, strides: Pair, padding: Padding, position: int = 0) -> Pair:
    """How many windows fit down and right.

    Raises:
        ProgramError: none does, or a setting is out of range: paddings are from 0 to the size of the window less 1.
    """
    reach = [n + sum(zeros) - k for n, zeros, k in zip(image, padding, size, strict=True)]
    padded = all(0 <= zeros < k for pair, k in zip(padding, size, strict=True) for zeros in pair)
    _require(min(*reach, *(n - 1 for n in strides)) >= 0 and padded, position, f"windows that fit: {size} in {image}, {strides}, {padding}")
    return reach[0] // strides[0] + 1, reach[1] // strides[1] + 1


def _linear_shape(op: Linear, xs: list[Value], position: int) -> Shape:
    shape = xs[0].shape if xs else ()
    match op:
        case Reshape(_, new):
            _require(math.prod(new) == xs[0].size, position, f"as many elements as {shape}")
            return new
        case Take(_, axis, indices):
            inside = axis in range(len(shape)) and len(indices) > 0 and all(index in range(shape[axis]) for index in indices)
            _require(inside, position, f"slices of an axis of {shape}")
            return (*shape[:axis], len(indices), *shape[axis + 1 :])
        case Put(_, axis, places, length):
            alike = axis in range(len(shape)) and len(places) == len(xs) and all(x.shape == shape for x in xs)
            inside = alike and all(len(at) == shape[axis] and all(index in range(length) for index in at) for at in places)
            _require(inside, position, f"a place for each slice of an axis of {shape}")
            return (*shape[:axis], length, *shape[axis + 1 :])
        case Combine(_, factors):
            _require(0 < len(xs) == len(factors), position, "a factor for each of at least one value")
            return _broadcast(xs, position)
        case Sum(_, axis, keep):
            _require(axis is None or 0 <= axis < len(shape), position, "an axis of the value")
            return (1,) if axis is None else (*shape[:axis], *[1] * keep, *shape[axis + 1 :])


def _broadcast(xs: list[Value], position: int) -> Shape:
    try:
        return np.broadcast_shapes(*(x.shape for x in xs))
    except ValueError:
        raise ProgramError(f"operation {position} has operands of shapes {[x.shape for x in xs]}, which do not fit") from None


def _require(holds: bool, position: int, what: str) -> None:
    if not holds:
        raise ProgramError(f"operation {position} of the circuit needs {what}")


class Builder:
    """Writes a circuit operation by operation."""

    def __init__(self) -> None:
        self._ops: list[AnyOp] = []
        self._values: list[Value] = []

    def __call__(self, op: AnyOp) -> int:
        """Appends an operation and returns the position of its value.

        Raises:
            ProgramError: its operands do not fit.
        """
        self._ops.append(op)
        self._values.append(_next(self._ops, self._values, len(self._values)))
        return len(self._ops) - 1

    def value(self, position: int) -> Value:
        """What is known of a value."""
        return self._values[position]

    def circuit(self, outputs: dict[str, int]) -> Circuit:
        """The finished circuit, checked.

        Raises:
            ProgramError: it is not well formed.
        """
        circuit = Circuit(tuple(self._ops), outputs)
        infer(circuit)
        return circuit
