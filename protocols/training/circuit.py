"""One step of training as a program over whole batches: the public half of an encrypted training.

Like `protocols.program`, but weights change in every step, so they are values like all others, and two secret values may be multiplied.
Values are numbered by the position of the operation that made them. Three kinds, all arrays over Z_2^64 whose first axis is the batch
or that of a weight:

- a **wire**: m = x + lambda is known to both servers;
- **affine**: x = a - R + kappa h, with a and kappa known to both servers, R and h known to the crypto provider and shared;
- a **share**: x = x_0 + x_1.

Each wire is affine (a = m, R = lambda, kappa = 0), and each affine value can be used as a share. What truncation and comparison give is
affine already (Section 2.3 of the design), so that a product of such values needs no opening of its own.

This file knows no network, no Keras and no randomness.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from protocols.errors import ProgramError
from protocols.program import Shape

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
    """D = [t >= 0] for `x`, the position of a `Truncate`; affine. Rounds: 2. Bytes: (2 (B - 1) + 1) / 8 an element."""

    x: int


class Largest(Op, frozen=True):
    """One-hot bits of the largest of the last axis of share `x` (rows, classes), ties to the lower index; affine.

    Rounds: 3 + the levels of ANDs. Holds for differences below 2^(window - 1) - 2.
    """

    x: int
    window: int


class Piecewise(Op, frozen=True):
    """slopes[k] t + offsets[k], t = `x` / 2^drop rounded and k the number of `knots` <= t, for share `x`; a share. Rounds: 3.

    See `protocols.program.Piecewise`, whose ranges hold here.
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


class Combine(Op, frozen=True):
    """sum_i factors[i] * xs[i] + constant with public integers, broadcast as numpy does; a share."""

    xs: tuple[int, ...]
    factors: tuple[int, ...]
    constant: int = 0


class Sum(Op, frozen=True):
    """The sum of `x` over `axis` (kept, with length 1, or not), or over everything (shape (1,)) if None; a share."""

    x: int
    axis: int | None = None
    keep: bool = True


class Project(Op, frozen=True):
    """`count` sums of share `x` with public signs, over each row or over everything; a share (rows, count) or (1, count)."""

    x: int
    count: int
    rows: bool


AnyOp = Given | Open | Truncate | Sign | Largest | Piecewise | Multiply | MatMul | Combine | Sum | Project


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
    for position, op in enumerate(circuit.ops):
        if any(not 0 <= x < position for x in operands(op)):
            raise ProgramError(f"operation {position} uses values {operands(op)}: earlier positions are needed")
        values.append(_value(op, [values[x] for x in operands(op)], circuit, position))
    if not all(0 <= position < len(values) for position in circuit.outputs.values()):
        raise ProgramError("an output of the circuit is no position of it")
    return values


def operands(op: AnyOp) -> tuple[int, ...]:
    """The positions that an operation reads."""
    match op:
        case Given():
            return ()
        case Multiply(x, y) | MatMul(x, y):
            return (x, y)
        case Combine(xs):
            return xs
        case _:
            return (op.x,)


def _value(op: AnyOp, xs: list[Value], circuit: Circuit, position: int) -> Value:
    match op:
        case Given(_, shape, kind):
            _require(kind != "affine" and min(shape, default=1) > 0, position, "a wire or a share of at least one element")
            return Value(shape, kind)
        case Open():
            return Value(xs[0].shape, "wire")
        case Truncate(_, drop, window):
            _require(drop > 0 and window > 1 and drop + window <= 63, position, "0 < drop, 1 < window, drop + window <= 63")
            return Value(xs[0].shape, "affine")
        case Sign(x):
            _require(isinstance(circuit.ops[x], Truncate), position, "a truncated value")
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
        case MatMul():
            _require(all(x.kind == "wire" and len(x.shape) == 2 for x in xs), position, "two wires with two axes")
            a, b = (
                value.shape[::-1] if turned else value.shape for value, turned in zip(xs, (op.transpose_x, op.transpose_y), strict=True)
            )
            _require(a[1] == b[0], position, f"matrices that fit, not {a} and {b}")
            return Value((a[0], b[1]), "share")
        case Combine(_, factors):
            _require(0 < len(xs) == len(factors), position, "a factor for each of at least one value")
            return Value(_broadcast(xs, position), "share")
        case Project(_, count, rows):
            return Value((xs[0].size // xs[0].shape[-1] if rows else 1, count), "share")
        case Sum(_, axis, keep):
            shape = xs[0].shape
            _require(axis is None or 0 <= axis < len(shape), position, "an axis of the value")
            return Value((1,) if axis is None else (*shape[:axis], *[1] * keep, *shape[axis + 1 :]), "share")


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

    def __call__(self, op: AnyOp) -> int:
        """Appends an operation and returns the position of its value."""
        self._ops.append(op)
        return len(self._ops) - 1

    def circuit(self, outputs: dict[str, int]) -> Circuit:
        """The finished circuit, checked.

        Raises:
            ProgramError: it is not well formed.
        """
        circuit = Circuit(tuple(self._ops), outputs)
        infer(circuit)
        return circuit
