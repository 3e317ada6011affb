"""A model as a program over masked wires: the public half of a shared model.

A program says which operations run, on which shapes, with which fixed-point windows. It holds no weight: weights are shared
separately and named by their index. Everybody who takes part knows the program (owner, servers, crypto provider, client), so it must
say nothing that is not meant to be known; the window of a layer is public and tells the order of magnitude of its sums.

Values are numbered by the position of the operation that made them. A value is one of two kinds:

- a **wire**: m = x + lambda is known to both servers, lambda is shared between them and known to the crypto provider;
- a **share**: x = x_0 + x_1 modulo 2^64, one half at each server.

Bilinear operations take wires and give a share; non-linear ones take a share and give a share; `Open` turns a share into a wire;
the local ones (reshape, take, pad, sums) keep the kind. This file knows no Keras, no network and no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import msgspec

from protocols.errors import ProgramError
from protocols.mpc.inputs import declared, edges
from protocols.mpc.inputs.ranges import Ranges
from protocols.mpc.numbers import shapes
from protocols.mpc.operations.instructions import (
    AddNoise,
    AnyOp,
    Argmax,
    AsShare,
    ClampedInput,
    Combine,
    Concatenate,
    Conv2D,
    Dense,
    Hadamard,
    Input,
    Kind,
    MatMul,
    Multiply,
    Op,
    Open,
    Pad,
    Pair,
    Permute,
    Piecewise,
    Reshape,
    Select,
    Shape,
    Shift,
    SumPool,
    Take,
    Truncate,
)
from protocols.mpc.parties.discrete_gaussian import LARGEST_SIGMA

__all__ = [
    "MAX_ELEMENTS",
    "AddNoise",
    "AnyOp",
    "Argmax",
    "AsShare",
    "ClampedInput",
    "Combine",
    "Concatenate",
    "Conv2D",
    "Dense",
    "Hadamard",
    "Input",
    "Kind",
    "MatMul",
    "Multiply",
    "Op",
    "Open",
    "Pad",
    "Pair",
    "Permute",
    "Piecewise",
    "Program",
    "Reshape",
    "Select",
    "Shape",
    "Shift",
    "SumPool",
    "Take",
    "Truncate",
    "Value",
    "enforced",
    "infer",
]


MAX_ELEMENTS = 1 << 31
"""The largest number of ring elements that one value of one example may have."""


class Value(msgspec.Struct, frozen=True):
    """What is known of a value before it runs: its shape without the batch axis, and its kind."""

    shape: Shape
    kind: Kind

    @property
    def size(self) -> int:
        """Elements of one example."""
        return math.prod(self.shape)


class Program(msgspec.Struct, frozen=True):
    """The public half of a model.

    Attributes:
        ops: the operations in order; every operand is an earlier position; the first is `Input`, the last gives the output.
        weights: the shape of each shared weight tensor.
        input_shape: of one example, without the batch axis.
        input_scale: the real number that the integer 1 of the input stands for; in the units of `ranges`, where there are any.
        input_range: (low, high), the closed range of real inputs for which the windows hold. The client checks it; servers enforce it
            where the first operation is `ClampedInput`.
        output_scale: the real number that the integer 1 of the output stands for.
        label: how the largest output is found without opening the outputs, or None where the output is not a vector. It may compare a
            value from which the outputs are made by a rising function, such as softmax.
        label_clamped: the label is that of the input cut into `input_range` (`for_label`), also where the outputs are of any input.
        ranges: a range for each feature, checked and enforced in place of `input_range`, which holds all of them; None: there is only one.
        answer: the shape of an answer, where one number comes after it that says whether it means nothing: 1 where the input left a window
            that is calibrated, and the answer is zeros then. A label has one class more, the last, for this. Not set, and not in the
            fingerprint, where nothing is checked.
    """

    ops: tuple[AnyOp, ...]
    weights: tuple[Shape, ...]
    input_shape: Shape
    input_scale: float
    input_range: tuple[float, float]
    output_scale: float
    label: Argmax | None = None
    label_clamped: bool = False
    ranges: Ranges | None = None
    answer: Shape | msgspec.UnsetType = msgspec.UNSET

    @property
    def output_shape(self) -> Shape:
        """Of one answer, without the batch axis."""
        return infer(self)[-1].shape if isinstance(self.answer, msgspec.UnsetType) else self.answer

    @property
    def checked(self) -> bool:
        """Whether an answer says that its input has left a calibrated window."""
        return not isinstance(self.answer, msgspec.UnsetType)

    def for_label(self) -> Program:
        """The same program with the arg max as its last operation, without what only the output needs.

        Raises:
            ProgramError: the output is not a vector of at least two classes.
        """
        if self.label is None:
            raise ProgramError(
                f"the label of an output of shape {self.output_shape} was asked for: a label needs a vector of classes; "
                "ask for reveal='logits'"
            )
        first = enforced(self.input_range, self.input_scale, self.ranges) if self.label_clamped else self.ops[0]
        return msgspec.structs.replace(self, ops=(first, *self.ops[1 : self.label.x + 1], self.label), label=None)


def enforced(input_range: tuple[float, float], scale: float, ranges: Ranges | None = None) -> ClampedInput:
    """The first operation of a program whose servers enforce the input range, or that of each feature."""
    if ranges is not None:
        return ClampedInput(*ranges.edges(scale), ranges.shape)
    low, high = (round(bound / scale) for bound in input_range)
    return ClampedInput(low, high)


@lru_cache(maxsize=64)  # every query asks
def infer(program: Program) -> tuple[Value, ...]:
    """Shapes and kinds of all values of a program, checked: the one place that says whether a program is well formed.

    Raises:
        ProgramError: an operand is not an earlier value, has the wrong kind or shape, or a window does not fit the ring.
    """
    declared.check(program.input_shape, program.input_scale, program.input_range, program.ranges)
    declared.check_scale("output_scale", program.output_scale)
    values: list[Value] = []
    for position, op in enumerate(program.ops):
        try:
            values.append(_value(op, position, program, values))
        except (ProgramError, IndexError, ValueError) as error:
            raise ProgramError(f"operation {position} ({type(op).__name__}): {error}") from None
        if not all(n > 0 for n in values[-1].shape) or values[-1].size > MAX_ELEMENTS:
            raise ProgramError(f"operation {position} ({type(op).__name__}): a value of shape {values[-1].shape} is not possible")
    if not values or values[-1].kind != "share":
        raise ProgramError("a program must end in a share: its output depends on nothing secret")
    _check_answer(program, values)
    return tuple(values)


def _check_answer(program: Program, values: list[Value]) -> None:
    """Refuse a label or an answer that the values do not give."""
    answer = values[-1].shape if isinstance(program.answer, msgspec.UnsetType) else program.answer
    declared.check_shape("answer", answer)
    if program.checked and values[-1].shape != (math.prod(answer) + 1,):
        raise ProgramError(f"an answer of shape {answer} and one number more do not fit a value of shape {values[-1].shape}")
    if program.label is not None:
        _value(program.label, len(values), program, values)


def _value(op: AnyOp, position: int, program: Program, values: list[Value]) -> Value:
    def operand(x: int, kind: Kind | None = None) -> Value:
        if not 0 <= x < position:
            raise ProgramError(f"operand {x} is not an earlier value")
        if kind is not None and values[x].kind != kind:
            raise ProgramError(f"operand {x} is a {values[x].kind}, a {kind} is needed")
        return values[x]

    if isinstance(op, Input | ClampedInput) != (position == 0):
        raise ProgramError("the input is the first operation, and only that")
    match op:
        case Input():
            return Value(program.input_shape, "wire")
        case ClampedInput():
            edges.check(op.low, op.high, op.shape, program.input_shape)
            return Value(program.input_shape, "wire")
        case Open(x):
            return Value(operand(x, "share").shape, "wire")
        case AsShare(x):
            return Value(operand(x, "wire").shape, "share")
        case Dense():
            return _dense(op, program, operand(op.x, "wire"))
        case Conv2D():
            return _conv(op, program, operand(op.x, "wire"))
        case Shift(x, weight):
            value = operand(x, "share")
            if _weight(program, weight, len(value.shape)) != value.shape:
                raise ProgramError(f"weight {weight} of shape {program.weights[weight]} does not fit a value of shape {value.shape}")
            return value
        case Hadamard(x, y):
            return Value(shapes.product(operand(x, "wire").shape, operand(y, "wire").shape), "share")
        case MatMul(x, y):
            return Value(shapes.matrix_product(operand(x, "wire").shape, operand(y, "wire").shape), "share")
        case Truncate(x, drop, window) | Select(x, drop, window):
            declared.check_window(drop, window)
            return operand(x, "share")
        case AddNoise(x, sigma):
            if not 1 <= sigma <= LARGEST_SIGMA:
                raise ProgramError(f"noise of sigma {sigma} is not possible; from 1 to {LARGEST_SIGMA} is")
            return operand(x, "share")
        case Piecewise(x, drop, window):
            declared.check_window(drop, window)
            declared.check_pieces(op.knots, op.slopes, op.offsets, window)
            return operand(x, "share")
        case Argmax(x, drop, window):
            declared.check_window(drop, window)
            value = operand(x, "share")
            if len(value.shape) != 1 or value.size < 2:
                raise ProgramError(f"an arg max needs a vector of at least two elements, not shape {value.shape}")
            return value
        case _:
            return _local(op, operand)


def _weight(program: Program, index: int, dimensions: int) -> Shape:
    if not 0 <= index < len(program.weights):
        raise ProgramError(f"there is no weight {index}")
    shape = program.weights[index]
    if len(shape) != dimensions or any(n < 1 for n in shape):
        raise ProgramError(f"weight {index} has shape {shape}, {dimensions} dimensions are needed")
    return shape


def _check_bias(program: Program, index: int | None, units: int) -> None:
    if index is not None and _weight(program, index, 1) != (units,):
        raise ProgramError(f"bias {index} has shape {program.weights[index]}, ({units},) is needed")


def _dense(op: Dense, program: Program, x: Value) -> Value:
    inputs, units = _weight(program, op.weight, 2)
    if not x.shape or x.shape[-1] != inputs:
        raise ProgramError(f"an input of shape {x.shape} does not fit a weight of shape {(inputs, units)}")
    _check_bias(program, op.bias, units)
    return Value((*x.shape[:-1], units), "share")


def _conv(op: Conv2D, program: Program, x: Value) -> Value:
    kh, kw, channels, filters = _weight(program, op.weight, 4)
    if len(x.shape) != 3 or op.groups < 1 or x.shape[2] != channels * op.groups or filters % op.groups:
        raise ProgramError(f"an input of shape {x.shape} does not fit {op.groups} groups of a kernel {(kh, kw, channels, filters)}")
    _check_bias(program, op.bias, filters)
    return Value((*shapes.windows(x.shape, (kh, kw), op.strides, op.padding, op.dilation), filters), "share")


def _local(op: AnyOp, operand: Callable[[int], Value]) -> Value:
    match op:
        case Reshape(x, shape):
            value = operand(x)
            if math.prod(shape) != value.size or any(n < 1 for n in shape):
                raise ProgramError(f"{value.shape} cannot be reshaped to {shape}")
            return Value(shape, value.kind)
        case Permute(x, axes):
            value = operand(x)
            return Value(shapes.permuted(value.shape, axes), value.kind)
        case Take(x, axis, indices):
            value = operand(x)
            return Value(shapes.taken(value.shape, axis, indices), value.kind)
        case Pad(x, padding):
            value = operand(x)
            if len(value.shape) != 3 or min(*padding[0], *padding[1]) < 0:
                raise ProgramError(f"a value of shape {value.shape} cannot be padded by {padding}")
            h, w, c = value.shape
            return Value((h + sum(padding[0]), w + sum(padding[1]), c), value.kind)
        case SumPool(x, size, strides, padding):
            value = operand(x)
            if len(value.shape) != 3:
                raise ProgramError(f"a pool needs (height, width, channels), not shape {value.shape}")
            return Value((*shapes.windows(value.shape, size, strides, padding), value.shape[2]), value.kind)
        case Concatenate(xs, axis):
            kind = _same_kind([operand(x) for x in xs]).kind
            return Value(shapes.joined([operand(x).shape for x in xs], axis), kind)
        case Combine(xs, factors):
            first = _same_kind([operand(x) for x in xs])
            if len(factors) != len(xs) or any(operand(x).shape != first.shape for x in xs):
                raise ProgramError("combined values need one shape and one factor each")
            return first
        case Multiply(x, factors, shape):
            value = operand(x)
            shapes.check_table(len(factors), shape, value.shape)
            return value
        case _:
            raise ProgramError("unknown operation")


def _same_kind(values: list[Value]) -> Value:
    if not values:
        raise ProgramError("at least one operand is needed")
    if any(value.kind != values[0].kind for value in values):
        raise ProgramError("wires and shares cannot be mixed; use AsShare")
    return values[0]
