"""What comes after the outputs of a network in a step: one loss, or those of several outputs, and the gradients by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from protocols.mpc.operations.moves import Concatenate, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine, Scale, Sum
from protocols.mpc.operations.wires import Given
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION, SoftmaxValues
from protocols.training.networks.losses import JointLoss, LossGradient, loss_gradient
from protocols.training.networks.window import Watched

CLASS_BITS = 12
"""Fractional bits of the weight of a class."""
FACTOR_BITS = 14
"""Bits of a factor of a gradient that are kept, below its first one."""


class Ended(NamedTuple):
    """What losses make of outputs.

    Attributes:
        gradients: by the positions of outputs; they have their fractional bits.
        metric: of the batch, summed, (1,); of several outputs (n,), those that are told.
        loss: the same; -1 if it was not asked for.
        large: what must be an activation.
        watched: what else must be watched.
        softmaxes: what cross-entropies were made of, and of how many classes.
    """

    gradients: dict[int, int]
    metric: int
    loss: int
    large: tuple[Signal, ...]
    watched: tuple[Watched, ...]
    softmaxes: tuple[tuple[SoftmaxValues, int], ...]


def array_name(kind: str, place: int) -> str:
    """Return what a circuit calls the features, the targets or the weights (x, y or w) of an input or an output."""
    return f"{kind} {place}" if place else kind


def weights_of(draft: StepDraft, y: int, classes: Sequence[float], *, weighted: bool) -> Signal | None:
    """Return the weight of each example with the targets `y`, a wire (batch, outputs); None: all count alike. Rounds: 0."""
    batch, outputs = draft.value(y).shape
    if weighted:
        return Signal(draft(Given("w", (batch, 1), "wire")))
    if not classes:
        return None
    factors = [round(weight * 2.0**CLASS_BITS) for weight in classes]
    if outputs == 1:  # y is 1 for the second class, and 0 for the first
        return Signal(draft(Combine((y,), (factors[1] - factors[0],), factors[0] << FRACTION)), FRACTION + CLASS_BITS)
    return Signal(draft(Sum(draft(Scale(y, tuple(factors), (outputs,))), 1)), FRACTION + CLASS_BITS)


def ended(draft: StepDraft, found: LossGradient, z: int, outputs: int, weights: Signal | None) -> Ended:
    """Write the gradient by one output: of an example it is as large as the example counts."""
    softmaxes = () if found.softmax is None else ((found.softmax, outputs),)
    return Ended({z: _weighted(draft, found.wire, weights)}, found.metric, found.loss, found.large, found.watched, softmaxes)


def jointly_ended(draft: StepDraft, joint: JointLoss, outputs: int, batch: int, *, value: bool, weighted: bool) -> Ended:
    """Write the losses of several outputs for the position of their row, not rounded yet.

    Given: wires `y` (batch, outputs) of the first output, `y 1`, ... of the others; `w` (batch, 1), `w 1`, ... if examples have weights.
    """
    start, scale, every = 0, joint.scale(outputs), []
    for place, head in enumerate(joint.heads):
        part = draft.put(Take(outputs, 1, tuple(range(start, start + head.outputs))), draft.bits(outputs))
        start += head.outputs
        z, y = draft.affine(part), draft(Given(array_name("y", place), (batch, head.outputs), "wire"))
        weights = Signal(draft(Given(array_name("w", place), (batch, 1), "wire"))) if weighted else None
        found = loss_gradient(
            draft,
            head.loss,
            z,
            y,
            head.outputs,
            value=value,
            threshold=head.threshold,
            sums=head.sums,
            labels=head.labels,
            weights=weights,
        )
        one = ended(draft, found, z, head.outputs, weights)
        factor, shift = _fraction(head.rate / scale)
        every.append(one._replace(gradients={z: draft.times(one.gradients[z], factor, shift)}))
    told = [one.metric for one, head in zip(every, joint.heads, strict=True) if head.told] or [one.metric for one in every]
    return Ended(
        {z: gradient for one in every for z, gradient in one.gradients.items()},
        draft(Concatenate(tuple(told), 0)),
        draft(Concatenate(tuple(one.loss for one in every), 0)) if value else -1,
        tuple(signal for one in every for signal in one.large),
        tuple(watched for one in every for watched in one.watched),
        tuple(softmax for one in every for softmax in one.softmaxes),
    )


def _weighted(draft: StepDraft, gradient: int, weights: Signal | None) -> int:
    draft.say(gradient, FRACTION)
    return gradient if weights is None else draft.put(Multiply(gradient, weights.at), FRACTION + weights.bits)


def _fraction(factor: float) -> tuple[int, int]:
    """Return an integer and a number of bits by which it is shifted, which together are a factor."""
    shift = FACTOR_BITS - math.floor(math.log2(factor))
    return round(factor * 2.0**shift), shift
