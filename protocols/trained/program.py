"""A network that was trained on shares as a program of predictions, and what is computed of its weights before.

The forward part of the network (`training/step.py`), written for one example, is cut in two. What depends on weights alone is computed
once, on shares, when the model is placed (`Derivation`); what depends on the input becomes the program, whose weights are what the first
part gives. The servers then open W + lambda_W for masks that the third party has dealt, and serve the model like any other: no party
learns a weight, and the owner does not either.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from protocols.curves.activations import CURVES
from protocols.errors import ProgramError, UnsupportedLayer, WindowError
from protocols.lowering.nodes import network as net
from protocols.lowering.scales.checking import RING_BITS
from protocols.lowering.scales.nonlinear import written
from protocols.lowering.scales.products import rounded
from protocols.lowering.scales.rounding import LayerWindow
from protocols.lowering.scales.values import RangedValue
from protocols.lowering.scales.writing import End, ended
from protocols.mpc.circuit import Builder
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.engine.values import Shape
from protocols.mpc.inputs.ranges import Ranges
from protocols.mpc.inputs.structure import Structure
from protocols.mpc.operations.bilinear import Convolve, MatMul
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.moves import Concatenate, Permute, Reshape, Take
from protocols.mpc.operations.sums import Combine, Project, Sum
from protocols.mpc.operations.weights import Conv2D, Dense, Shift
from protocols.mpc.operations.wires import Given
from protocols.mpc.program import Program
from protocols.trained.bounds import reach, window
from protocols.trained.one_example import NONE, OneExample, one_example
from protocols.trained.writer import AssumedWriter, too_large
from protocols.training.asked import Derivation
from protocols.training.networks.layers import LARGEST
from protocols.training.networks.window import WEIGHTS, Watched, outside, together
from protocols.training.step import Plan

SUMS = 40
"""A weight that is too large is missed with a probability of 2^-SUMS."""
LEAST_WEIGHTS = 4
"""Weights within +-2^LEAST_WEIGHTS at least are served; more where sums of them are proved to stay in the ring."""


class ServedNetwork(NamedTuple):
    """What serves a network as it was trained.

    Attributes:
        program: of predictions.
        derivation: what is computed of the weights.
        layers: how the sums of what was proved are held.
        largest: weights lie within +-`largest`, or they are refused when they are placed.
    """

    program: Program
    derivation: Derivation
    layers: tuple[LayerWindow, ...]
    largest: float


def served(
    plan: Plan,
    endings: Sequence[str | None],
    shape: Shape,
    like: Program,
    *,
    end: End | None = None,
    watching: bool = True,
    memory: int = MEMORY,
) -> ServedNetwork:
    """Return the program of a network that is trained by a plan.

    Args:
        plan: of its training.
        endings: what each output ends in beside the plan, "softmax" or a name of `CURVES`.
        shape: of an answer, as the Keras model gives it; of several outputs that of their row.
        like: the program of the model before it was trained: its input range is kept, and whether servers enforce it, and how several
            inputs and outputs lie in their rows.
        end: what comes after the model, see `lowering/scales/writing.py`.
        watching: whether an answer tells that a number has left its window.
        memory: bytes of randomness of one operation, for one example: see `Draft`.

    Raises:
        WindowError: sums of weights are not proved to stay in the ring, however small weights are.
        UnsupportedLayer: the network computes what cannot be served so.
    """
    network, failed = one_example(plan), WindowError("nothing was tried")

    def attempt(exponent: int, *, wide: bool) -> ServedNetwork | None:
        nonlocal failed
        translation = _Translation(plan, network, exponent, like, wide=wide, watching=watching, memory=memory)
        try:
            return translation.served(endings, shape, end)
        except WindowError as error:
            failed = error
        except ProgramError as error:
            raise UnsupportedLayer(f"the network cannot be served as it was trained: {error}; reveal() it, and share that") from None
        return None

    for wide in (False, True):
        if made := attempt(WEIGHTS, wide=wide):
            return made
        if not attempt(LEAST_WEIGHTS, wide=wide):  # it is not for its weights that it fails
            continue
        for exponent in range(WEIGHTS - 1, LEAST_WEIGHTS - 1, -1):
            if made := attempt(exponent, wide=wide):
                return made
    raise too_large(failed) from None


class _Translation:
    """One attempt, for weights within +-2^exponent.

    Args:
        plan: of the network.
        network: its forward part.
        exponent: the same.
        like: see `served`.
        wide: whether what is watched in a training is assumed, and looked at, where sums are not proved to stay in the ring otherwise.
        watching: see `served`.
        memory: see `served`.
    """

    def __init__(self, plan: Plan, network: OneExample, exponent: int, like: Program, *, wide: bool, watching: bool, memory: int) -> None:
        self._plan, self._circuit, self._bits, self._exponent, self._like = plan, network.circuit, network.bits, exponent, like
        self._limits, self._least, self._proved, self._softmaxes = network.limits, network.least, network.proved, network.softmaxes
        self._large = network.large if wide else {}
        self._ranges = None if like.ranges is None else plain(like.ranges)
        self._node = net.Start(layer="trained on shares", kind="network", inputs=(), shape=plan.example)
        clamp = isinstance(like.ops[0], ClampedInput)
        self._writer = AssumedWriter(
            self._node, plan.example, like.input_range, ranges=self._ranges, clamp=clamp, watching=watching, memory=memory
        )
        self._uses = Counter(x for op in self._circuit.ops for x in op.operands)
        self._values: dict[int, RangedValue] = {}
        self._linear: dict[int, int] = {}
        self._build = Builder()
        self._constants: dict[int, int] = {}
        self._reaches: dict[int, float] = {}
        self._watched: list[Watched] = []
        self._made: list[int] = []
        self._known: dict[tuple[int, int, Shape], int] = {}

    def served(self, endings: Sequence[str | None], shape: Shape, end: End | None) -> ServedNetwork:
        """Return what has been written, with the end of the model."""
        for at, op in enumerate(self._circuit.ops):
            if isinstance(op, Given) and op.name == "x":
                self._values[at] = self._writer.given(op.shape)
            elif at in self._softmaxes:
                self._values[at] = self._softmax(at, op)
            elif all(x in self._constants for x in op.operands):
                self._constant(at, op)
            else:
                self._values[at] = self._value(at, op)
            if at in self._limits and at in self._values:
                self._values[at] = self._writer.assumed(self._values[at], self._limits[at])
            if at in self._least and at in self._values:
                self._writer.above(self._values[at], self._least[at])
        program = msgspec.structs.replace(self._ended(endings, shape, end), integers=self._like.integers)
        return ServedNetwork(program, self._derivation(), tuple(self._writer.layers), 2.0**self._exponent)

    # What depends on weights alone.

    def _constant(self, at: int, op: Operation) -> None:
        """Compute it beside the program; what its windows need is looked at there."""
        known = [self._circuit.values[x] for x in op.operands]
        self._constants[at] = self._build(op.on([self._constants[x] for x in op.operands]))
        if not op.operands:
            self._watch(at, 2.0 ** (self._exponent + self._bits[at]))
            return
        for x, of in zip(op.operands, known, strict=True):
            limit = window(op, of)
            if self._reaches[x] > limit:
                self._watch(x, limit)
        largest = reach(op, known, [self._reaches[x] for x in op.operands])
        self._reaches[at] = min(largest, self._proved.get(at, math.inf))
        if self._reaches[at] > self._limits.get(at, math.inf):
            if self._limits[at] == NONE:
                raise ProgramError("weights alone are looked up, or are divided by")
            self._watch(at, self._limits[at])

    def _watch(self, at: int, edge: float) -> None:
        """Have a constant looked at: it is within +-`edge`, less where twice that is more than the ring holds, or nothing is served."""
        edge = min(edge, 2.0**RING_BITS)
        self._watched.append(Watched(self._constants[at], edge))
        self._reaches[at] = edge

    def _weight(self, at: int, shape: Shape | None = None, *, factor: int = 1) -> int:
        """Return the number of a weight of the program: a constant, times a factor, repeated to a shape."""
        shape = self._circuit.values[at].shape if shape is None else shape
        if (at, factor, shape) not in self._known:
            edge = 2.0 ** (self._exponent + self._bits[at])
            if self._reaches[at] > edge:
                self._watch(at, edge)
            self._made.append(self._fitted(self._constants[at], shape, factor))
            self._known[at, factor, shape] = self._writer.unknown(shape)
        return self._known[at, factor, shape]

    def _fitted(self, made: int, shape: Shape, factor: int) -> int:
        if factor != 1:
            made = self._build(Combine((made,), (factor,)))
        known = self._build.value(made).shape
        if math.prod(known) != math.prod(shape):
            made = self._build(Reshape(made, (1,) * (len(shape) - len(known)) + known))
            for axis, (have, want) in enumerate(zip(self._build.value(made).shape, shape, strict=True)):
                if have != want:
                    made = self._build(Take(made, axis, (0,) * want))
        return made if self._build.value(made).shape == shape else self._build(Reshape(made, shape))

    def _derivation(self) -> Derivation:
        sums: defaultdict[float, list[Watched]] = defaultdict(list)  # by edges: multiples of large numbers would leave the ring
        for choice, one in enumerate(self._watched):
            sums[one.edge].append(Watched(self._build(Project(one.at, SUMS, self._build.value(one.at).size, choice << 8)), one.edge))
        both = [together(self._build, alike) for alike in sums.values()]
        bit = outside(self._build, self._build(Given("outside", (1,), "share")), [], both)
        ops = self._build.circuit({"outside": bit}).ops
        return Derivation(self._plan, ops, tuple(self._made), bit)

    # What depends on the input.

    def _value(self, at: int, op: Operation) -> RangedValue:
        writer, known = self._writer, [self._circuit.values[x] for x in op.operands]
        match op:
            case MatMul() if op.y in self._constants and len(known[1].shape) == 2:
                return self._dense(at, op)
            case Convolve() if op.y in self._constants:
                return self._convolved(at, op)
            case Combine() if any(x in self._constants for x in op.xs):
                return self._combined(at, op)
            case Row():
                parts = [writer.shaped((x.size,), self._read(place)) for place, x in zip(op.xs, known, strict=True)]
                joined = Concatenate(tuple(x.position for x in parts), 0)
                return writer.appended(joined, max(x.range.largest for x in parts))
            case Piece():
                x = self._read(op.x)
                size = math.prod(op.shape)
                piece = writer.appended(Take(x.position, 0, tuple(range(op.start, op.start + size))), x.range.largest)
                return writer.shaped(op.shape, piece)
            case Sum(axis=None):
                row = writer.shaped((1, known[0].size), self._read(op.x))
                return writer.shaped(
                    (1,), writer.written(Sum(0, 1), [row], [msgspec.structs.replace(known[0], shape=row.shape)], [math.inf])
                )
        axes = max(len(one.shape) for one in known)
        large = [self._large.get(x, math.inf) for x in op.operands]
        return writer.written(op, [self._read(x, axes) for x in op.operands], known, large, self._proved.get(at, math.inf))

    def _softmax(self, at: int, op: Operation) -> RangedValue:
        """Write a softmax of rows as predictions have it, in the unit that the circuit has for it."""
        (x,), bits = op.operands, self._bits[at]
        node = net.Softmax(layer=self._node.layer, kind="Softmax", inputs=(), shape=self._circuit.values[at].shape)
        made = written(self._writer, node, [dataclasses.replace(self._read(x), scale=2.0 ** -self._bits[x])])
        made = rounded(self._writer, node, made, 2.0**-bits)
        if made.scale != 2.0**-bits:
            raise ProgramError(f"a softmax has steps of {made.scale}")
        return self._writer.limited(made)

    def _read(self, x: int, axes: int = 0) -> RangedValue:
        """Return a value; a constant becomes one for each example, with so many axes at least."""
        if x in self._values:
            return self._values[x]
        shape = self._circuit.values[x].shape
        shape = (1,) * (axes - len(shape)) + shape
        return self._writer.lifted(self._weight(x, shape), shape, self._reaches[x])

    def _dense(self, at: int, op: MatMul) -> RangedValue:
        x, kernel = self._values[op.x], op.y
        if op.transpose_x:
            axes = tuple(range(len(x.shape)))
            x = self._writer.appended(Permute(x.position, (*axes[:-2], axes[-1], axes[-2])), x.range.largest)
        index = self._weight(kernel) if not op.transpose_y else self._turned(kernel)
        largest = reach(op, [self._circuit.values[one] for one in op.operands], [x.range.largest, self._reaches[kernel]])
        made = self._writer.appended(Dense(self._writer.wire(x).position, index), largest)
        self._linear[at] = made.position
        return made

    def _turned(self, at: int) -> int:
        self._weight(at)  # looked at
        self._made.append(self._build(Permute(self._constants[at], (1, 0))))
        return self._writer.unknown(self._circuit.values[at].shape[::-1])

    def _convolved(self, at: int, op: Convolve) -> RangedValue:
        x, known = self._values[op.x], [self._circuit.values[one] for one in op.operands]
        index = self._weight(op.y)
        largest = reach(op, known, [x.range.largest, self._reaches[op.y]])
        image = self._writer.shaped(x.shape[1:], self._writer.wire(x))
        made = self._writer.appended(Conv2D(image.position, index, strides=op.strides, padding=op.padding), largest)
        self._linear[at] = made.position
        return self._writer.shaped(self._circuit.values[at].shape, made)

    def _combined(self, at: int, op: Combine) -> RangedValue:
        """Write a sum with constants: a bias where a linear operation has been written for nothing else, or added as a weight."""
        terms = list(zip(op.xs, op.factors, strict=True))
        own = [(x, factor) for x, factor in terms if x in self._values]
        others = [(x, factor) for x, factor in terms if x not in self._values]
        largest = reach(op, [self._circuit.values[x] for x in op.xs], [self._reach(x) for x in op.xs])
        shape = self._circuit.values[at].shape
        if len(own) == len(others) == 1 and own[0][1] == 1 and not op.constant:
            biased = self._biased(own[0][0], *others[0])
            if biased is not None:
                return self._writer.reaching(biased, largest)
        positions = tuple(self._values[x].position for x, _ in own)
        total = self._writer.appended(Combine(positions, tuple(factor for _, factor in own), op.constant), largest)
        if total.shape != shape:
            raise ProgramError(f"weights of shape {shape} are larger than the values of shape {total.shape} that they are added to")
        for x, factor in others:
            total = self._writer.appended(Shift(total.position, self._weight(x, shape, factor=factor)), largest)
        return total

    def _reach(self, x: int) -> float:
        return self._values[x].range.largest if x in self._values else self._reaches[x]

    def _biased(self, x: int, bias: int, factor: int) -> RangedValue | None:
        """Give a linear operation that nothing else reads its bias; None if that is not what is added."""
        units, shape = self._circuit.values[x].shape[-1], self._circuit.values[bias].shape
        if x not in self._linear or self._uses[x] > 1 or shape[-1:] != (units,) or math.prod(shape) != units:
            return None
        at = self._linear.pop(x)
        self._writer.ops[at] = msgspec.structs.replace(self._writer.ops[at], bias=self._weight(bias, (units,), factor=factor))
        return self._values[x]

    def _ended(self, endings: Sequence[str | None], shape: Shape, end: End | None) -> Program:
        """Write the end of the model, as predictions have it: what follows is proved, for logits within their window."""
        writer, at = self._writer, self._circuit.outputs["outputs"]
        unit = 2.0 ** -self._bits[at]
        flat = writer.assumed(writer.shaped((self._plan.outputs,), self._values[at]), LARGEST / unit)
        output, compared = dataclasses.replace(flat, scale=unit), None
        node: net.Node = self._node
        if len(endings) > 1:
            output = self._heads(output, endings)
        elif endings[0] is not None:
            compared = writer.compared(output) if endings[0] == "softmax" else None
            node = self._last(endings[0], (self._plan.outputs,))
            output = written(writer, node, [output])
        return ended(
            writer,
            writer.shaped(shape, output),
            node,
            compared,
            input_range=self._like.input_range,
            example=self._plan.example,
            end=end,
            clamp_label=self._like.label_clamped,
            ranges=self._ranges,
            inputs=_given(self._like.inputs),
            outputs=_given(self._like.outputs),
        )

    def _heads(self, row: RangedValue, endings: Sequence[str | None]) -> RangedValue:
        """Write the end of each output, and join them again."""
        outputs, parts = _given(self._like.outputs), []
        if outputs is None or len(outputs.parts) != len(endings):
            raise ProgramError("the model was shared with other outputs")
        start = 0
        for part, ending in zip(outputs.parts, endings, strict=True):
            value = self._writer.taken(0, tuple(range(start, start + part.size)), row)
            parts.append(value if ending is None else written(self._writer, self._last(ending, (part.size,)), [value]))
            start += part.size
        joined = net.Joined(layer=self._node.layer, kind="outputs", inputs=(), shape=row.shape, axis=0)
        return self._writer.joined(joined, parts)

    def _last(self, ending: str, shape: Shape) -> net.Node:
        """Return the node of an activation at the end of an output."""
        named: dict[str, Any] = {"layer": self._node.layer, "inputs": (), "shape": shape}
        if ending == "softmax":
            return net.Softmax(kind="Softmax", **named)
        return net.Curved(kind=ending, curve=CURVES[ending], **named)


def _given(structure: Structure | msgspec.UnsetType) -> Structure | None:
    return None if structure is msgspec.UNSET else structure


def plain(ranges: Ranges) -> Ranges:
    """Return the same ranges with the unit 1 and the origin 0 for all, as the network was trained."""
    count = len(ranges.low)
    return msgspec.structs.replace(ranges, unit=(1.0,) * count, origin=(0.0,) * count)
