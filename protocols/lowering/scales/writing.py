"""A whole network as a program: which method of a writer writes which node, and what comes first and last."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from protocols.errors import WindowError
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.nonlinear import written
from protocols.lowering.scales.rounding import SUM_BITS, LayerWindow
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.engine.values import Shape
from protocols.mpc.inputs.ranges import Ranges
from protocols.mpc.inputs.structure import Structure
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program

End = Callable[[Writer, RangedValue, Node], RangedValue]
"""Appends to a program what comes after the model."""


def write(
    nodes: list[Node],
    input_range: tuple[float, float],
    samples: Real | None,
    margin: float,
    *,
    end: End | None = None,
    clamp: bool = False,
    clamp_label: bool = False,
    ranges: Ranges | None = None,
    step: float = math.inf,
    kind: type[Writer] = Writer,
    inputs: Structure | None = None,
    outputs: Structure | None = None,
    memory: int = MEMORY,
) -> tuple[Program, list[Ring], tuple[LayerWindow, ...]]:
    """Write the program; return it, its integer weights, and how the sums of each layer are held.

    Args:
        nodes: the network.
        input_range: (low, high) of the inputs.
        samples: encoded inputs, or None.
        margin: of calibrated windows.
        end: what comes after the model.
        clamp: servers enforce the input range, for all answers.
        clamp_label: servers enforce the input range, for labels.
        ranges: of each feature, whose units `nodes` read; None if there is one for all.
        step: the largest that the fixed point of the input may have.
        kind: of the writer.
        inputs: what lies in the row that is the input, if that is several.
        outputs: what lies in the row that is the output; then there is no label.
        memory: bytes of randomness of one operation, for one example: see `Draft`.
    """
    writer = kind(nodes[0].shape, input_range, samples, margin, clamp=clamp, ranges=ranges, step=step, memory=memory)
    values: list[RangedValue] = []
    compared = None
    for node in nodes:
        writer.node = node
        given = [values[x] for x in node.inputs]
        if node is nodes[-1] and _rising(node, given):
            compared = writer.compared(given[0])
        values.append(_written(writer, node, given))
    program = ended(
        writer,
        values[-1],
        nodes[-1],
        compared,
        input_range=input_range,
        example=nodes[0].shape,
        end=end,
        clamp_label=clamp_label,
        ranges=ranges,
        inputs=inputs,
        outputs=outputs,
    )
    return program, writer.weights, tuple(writer.layers)


def ended(
    writer: Writer,
    output: RangedValue,
    node: Node,
    compared: RangedValue | None,
    *,
    input_range: tuple[float, float],
    example: Shape,
    end: End | None = None,
    clamp_label: bool = False,
    ranges: Ranges | None = None,
    inputs: Structure | None = None,
    outputs: Structure | None = None,
) -> Program:
    """Return the program that a writer has written, with what comes last.

    Args:
        writer: of it.
        output: what it gives until now.
        node: that made it.
        compared: what a label compares in place of the output.
        input_range: see `write`.
        example: the shape of an input.
        end: see `write`.
        clamp_label: see `write`.
        ranges: see `write`.
        inputs: see `write`.
        outputs: see `write`.
    """
    output = writer.share(output)
    if output.range.largest > 2.0**SUM_BITS:
        output = writer.truncated(output, node)
    if end is not None:
        output = end(writer, output, node)
    if output.position != len(writer.ops) - 1:
        output = writer.put(Reshape(output.position, output.shape), output.scale, output.range)
    output, label = writer.finished(output, compared)
    return Program(
        tuple(writer.ops),
        writer.shapes,
        example,
        writer.input.scale,
        input_range,
        output.scale,
        label if outputs is None else None,
        label_clamped=clamp_label,
        ranges=ranges,
        answer=writer.answer,
        inputs=msgspec.UNSET if inputs is None else inputs,
        outputs=msgspec.UNSET if outputs is None else outputs,
    )


def _rising(node: Node, inputs: list[RangedValue]) -> bool:
    """Whether the largest element of what a node reads is that of what it gives, and can be compared: the logits of a softmax."""
    return isinstance(node, net.Softmax) and inputs[0].kind != "wire" and inputs[0].range.largest <= 2.0**SUM_BITS


def _written(writer: Writer, node: Node, inputs: list[RangedValue]) -> RangedValue:
    match node:
        case net.Start():
            return writer.input
        case net.Convolution() | net.Product():
            return writer.linear(node, inputs[0])
        case net.ChannelAffine():
            return writer.affine(node, inputs[0])
        case net.Rescale():
            return writer.rescaled(node, inputs[0])
        case net.Shifted():
            return writer.shifted(node, node.shift, inputs[0])
        case net.AveragePool():
            return writer.pooled(node, inputs[0])
        case net.Rectify():
            return writer.rectified(node, inputs[0])
        case net.Taken(axis=axis, indices=indices):
            return writer.taken(axis, indices, inputs[0])
        case net.Permuted(axes=axes):
            return writer.permuted(axes, inputs[0])
        case net.Shaped():
            return writer.shaped(node.shape, inputs[0])
        case net.Within():
            return _proved(node, inputs[0])
        case net.Padded():
            return writer.padded(node, inputs[0])
        case net.Joined():
            return writer.joined(node, inputs)
        case net.SignedSum():
            return writer.summed(node, inputs)
        case _:
            return written(writer, node, inputs)


def _proved(node: net.Within, x: RangedValue) -> RangedValue:
    """Return the value, if it is proved to stay inside of its integer type.

    Raises:
        WindowError: it may leave it, where Keras would go on at the other end.
    """
    low, high = float(x.range.low.min()) * x.scale, float(x.range.high.max()) * x.scale
    slack = 2.0**-20 * max(1.0, abs(low), abs(high))
    if low < node.low - min(slack, 0.5) or high > node.high + min(slack, 0.5):
        raise WindowError(
            f"layer {node.layer!r} ({node.kind}): its numbers may be from {low:g} to {high:g}, and {node.dtype} holds those from "
            f"{node.low} to {node.high}: Keras goes on at the other end; cast to int32 or float32 before, or give a smaller input_range"
        )
    return x
