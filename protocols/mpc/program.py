"""A model as a program over masked wires: the public half of a shared model.

A program says which operations run, on which shapes, with which fixed-point windows. It holds no weight: weights are shared
separately and named by their index. Everybody who takes part knows the program (owner, servers, crypto provider, client), so it must
say nothing that is not meant to be known; the window of a layer is public and tells the order of magnitude of its sums.

Values are numbered by the position of the operation that made them; `engine/values.py` says of what kinds they are. What an operation is,
means and does is in its file in `operations/`. This file knows no Keras, no network and no randomness.
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec

from protocols.errors import ProgramError
from protocols.mpc.engine import loops
from protocols.mpc.engine.sides import Scope
from protocols.mpc.engine.values import Shape, Value
from protocols.mpc.inputs import declared
from protocols.mpc.inputs.ranges import Ranges
from protocols.mpc.inputs.structure import Structure
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.wires import Input


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
        inputs: what lies in the row that a client sends, where the model has several inputs; not set otherwise.
        outputs: what lies in the row of an answer, where it has several outputs.
        integers: the names of the inputs that the model takes as integers, or casts to them: the client checks it; not set without any.
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
    inputs: Structure | msgspec.UnsetType = msgspec.UNSET
    outputs: Structure | msgspec.UnsetType = msgspec.UNSET
    integers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def output_shape(self) -> Shape:
        """Of one answer, without the batch axis."""
        return infer(self)[-1].shape if isinstance(self.answer, msgspec.UnsetType) else self.answer

    @property
    def checked(self) -> bool:
        """Whether an answer says that its input has left a calibrated window."""
        return not isinstance(self.answer, msgspec.UnsetType)

    def for_label(self) -> Program:
        """Return the same program with the arg max as its last operation, without what only the output needs.

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
    """Return the first operation of a program whose servers enforce the input range, or that of each feature."""
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
    if not program.ops or not isinstance(program.ops[0], Input | ClampedInput):
        raise ProgramError("operation 0: the input is the first operation, and only that")
    scope = Scope([], program.weights, program.input_shape)
    loops.infer(program.ops, scope)
    values = scope.values
    if values[-1].kind == "wire":
        raise ProgramError("a program must end in a share: its output depends on nothing secret")
    _check_answer(program, scope)
    return tuple(values)


def _check_answer(program: Program, scope: Scope) -> None:
    """Refuse a label or an answer that the values do not give."""
    last = scope.values[-1].shape
    answer = last if isinstance(program.answer, msgspec.UnsetType) else program.answer
    declared.check_shape("answer", answer)
    if program.checked and last != (math.prod(answer) + 1,):
        raise ProgramError(f"an answer of shape {answer} and one number more do not fit a value of shape {last}")
    if not isinstance(program.inputs, msgspec.UnsetType):
        program.inputs.check("input", program.input_shape)
        if not isinstance(program.integers, msgspec.UnsetType) and not set(program.integers) <= {
            part.name for part in program.inputs.parts
        }:
            raise ProgramError(f"integers are told of inputs {program.integers}, which are not all there")
    if not isinstance(program.outputs, msgspec.UnsetType):
        program.outputs.check("output", answer)
    if program.label is not None:
        program.label.value(scope)
