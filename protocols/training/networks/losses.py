"""What a network is trained for: the gradient of a loss by the outputs of the network, and the metrics that belong to it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from protocols.curves.activations import TOLERANCE
from protocols.curves.splines import Real, fit
from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.distances import ENDS, Compared, CosineSimilarity, TargetLoss
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION, SPLINE, WINDOW, SoftmaxValues, logarithm, sigmoid, softmax, softplus, spline
from protocols.training.networks.own_loss import OwnLoss
from protocols.training.networks.window import Watched

Loss = Literal["crossentropy", "binary_crossentropy", "mse"] | Compared | OwnLoss

METRIC_BITS: dict[str, int] = {"crossentropy": FRACTION, "binary_crossentropy": FRACTION, "mse": 2 * FRACTION}
"""Fractional bits of the metric of each loss; the value of each loss has 2 `FRACTION`, and is the metric of all others."""

SUM_BITS = 61
"""Sums that are told are below 2^SUM_BITS."""


class Told(msgspec.Struct, frozen=True):
    """How sums of losses over an epoch are told, so that they never wrap around.

    Attributes:
        each: what an output adds (of a softmax an example) is below 2^each.
        lost: of the sum over a batch so many fractional bits are rounded away before it is added to others.
    """

    each: int = 0
    lost: int = 0


EXACT = Told()
"""Nothing is rounded."""


class Labels(msgspec.Struct, frozen=True):
    """What is made of targets before a cross-entropy compares with them.

    Attributes:
        smoothing: y (1 - smoothing) + smoothing / n takes their place, n the number of classes, or 2 of truths.
        relative: sum y log y is added to the loss, which then is a Kullback-Leibler divergence. It is that of the logits: Keras cuts
            probabilities at 1e-7, and a class that is less likely than that and yet the label moves nothing there; here it does.
    """

    smoothing: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 1:
            raise ModelError(f"label_smoothing={self.smoothing:g}: a number from 0 to 1 is needed")


AS_GIVEN = Labels()
"""Targets are what is compared with."""

LARGEST_FACTOR = 16.0
"""Of the gradient of one output beside that of another, in units of which both are held."""
LEAST_PART = 2.0**-10
"""Of the gradient of a loss beside that of another: one that counts less vanishes beside it in fixed point."""


class Head(msgspec.Struct, frozen=True):
    """One of several outputs of a network, and its loss.

    Attributes:
        name: as Keras calls it.
        outputs: how many numbers it has.
        loss: of its numbers and its targets.
        labels: what a cross-entropy makes of targets.
        weight: how many times its loss counts, up to 1, beside others.
        threshold: see `Plan`.
        sums: how sums of its losses over an epoch are told; all heads lose as many bits.
        told: whether its metric is one of those that are told.
    """

    name: str
    outputs: int
    loss: Loss
    labels: Labels = AS_GIVEN
    weight: float = 1.0
    threshold: float = 0.0
    sums: Told = EXACT
    told: bool = True

    @property
    def rate(self) -> float:
        """Return the factor of `loss_gradient` in the gradient of the joint loss."""
        return self.weight * gradient_scale(self.loss, self.outputs)


class JointLoss(msgspec.Struct, frozen=True, tag=True):
    """The weighted sum of the losses of several outputs, which lie side by side in a row.

    Attributes:
        heads: in the order of the row.
    """

    heads: tuple[Head, ...]

    def __post_init__(self) -> None:
        """Refuse losses that cannot be added.

        Raises:
            ModelError: there is one only, names are double, or one counts too little beside another, or more than once.
        """
        names = [head.name for head in self.heads]
        if len(names) < 2 or len(set(names)) < len(names) or not all(head.outputs > 0 for head in self.heads):
            raise ModelError(f"several outputs have names of their own, and a number at least; {names} were given")
        if len({head.sums.lost for head in self.heads}) > 1 or not all(0 < head.weight <= 1 for head in self.heads):
            raise ModelError("losses of several outputs count up to once, and are told alike")
        rates = {head.name: head.rate for head in self.heads}
        least, most = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        if rates[least] < LEAST_PART * rates[most]:
            raise ModelError(
                f"the gradient of output {least!r} would count {rates[least] / rates[most]:.1e} times that of {most!r}, beside which it"
                f" vanishes in fixed point: at least {LEAST_PART:.1e} is needed, see loss_weights="
            )

    def scale(self, outputs: int) -> float:
        """Return the unit in which `training/networks/ended.py` gives gradients of the loss."""
        rates = [head.rate for head in self.heads]
        return max(min(rates), max(rates) / LARGEST_FACTOR)

    def numbers(self, outputs: int) -> int:
        """Return of how many numbers of an example the loss is a mean: it is a sum of means."""
        return 1


AnyLoss = Loss | JointLoss


def losses(loss: AnyLoss) -> tuple[Loss, ...]:
    """Return the loss of each output."""
    return tuple(head.loss for head in loss.heads) if isinstance(loss, JointLoss) else (loss,)


def told(loss: Loss, outputs: int, examples: int, *, truths: bool, beside: float = 0.0, weighted: bool = False) -> Told:
    """Return how sums over an epoch are told; squared errors and losses are bounded by outputs and targets within +-2^`ENDS`.

    Args:
        loss: which.
        outputs: of an example.
        examples: of an epoch.
        truths: whether targets are 0 and 1 only, of a softmax a single 1.
        beside: what penalties add to the loss of an example, at most.
        weighted: whether losses are multiplied by weights within 2^`ENDS`.
    """
    match loss:
        case "mse":  # (z - y)^2
            each, count = 2 * (ENDS + 1), outputs
        case "crossentropy":  # log sum exp(z) - y z: the largest of z less another, or y z itself
            each, count = ENDS + 2 if truths else 2 * ENDS + 1 + math.ceil(math.log2(outputs)), 1
        case "binary_crossentropy":  # log(1 + e^z) - y z
            each, count = ENDS + 1 if truths else 2 * ENDS + 1, outputs
        case _:
            each, count = math.ceil(math.log2(loss.most(truths=truths))), loss.numbers(outputs)
    each += ENDS * weighted
    most = math.ceil(math.log2(examples * (count + beside * 2.0**-each)))
    return Told(each, max(0, each + most + 2 * FRACTION - SUM_BITS))


def truths(loss: AnyLoss) -> bool:
    """Whether labels are truths of one output: of two classes the one that is called 1 is compared with."""
    return loss == "binary_crossentropy" or (isinstance(loss, TargetLoss) and loss.truths)


def metric_bits(loss: Loss, sums: Told) -> int:
    """Fractional bits of what the metric is told with: of one that is a value of the loss some are lost."""
    if isinstance(loss, str) and loss != "mse":
        return METRIC_BITS[loss]
    return 2 * FRACTION - sums.lost


def never_negative(loss: Loss) -> bool:
    """Whether the value of a loss is at least 0."""
    return not isinstance(loss, CosineSimilarity | OwnLoss) and not (isinstance(loss, TargetLoss) and not loss.truths)


class LossGradient(NamedTuple):
    """What `loss_gradient` gives, as positions.

    Attributes:
        wire: the gradient by the outputs, with `FRACTION` fractional bits.
        metric: of the batch, summed, (1,).
        loss: of the batch, summed, (1,), with 2 `FRACTION` fractional bits; -1 if it was not asked for.
        softmax: what it was made of, if there is one.
        large: what must be an activation.
        watched: what else must be watched.
    """

    wire: int
    metric: int
    loss: int
    softmax: SoftmaxValues | None = None
    large: tuple[Signal, ...] = ()
    watched: tuple[Watched, ...] = ()


def compared(loss: AnyLoss, outputs: int) -> int:
    """Of how many numbers of an example the loss is a mean: of its outputs, or of one for all of them."""
    return loss.numbers(outputs) if not isinstance(loss, str) else 1 if loss == "crossentropy" else outputs


def gradient_scale(loss: AnyLoss, outputs: int) -> float:
    """Return the factor of `loss_gradient` in the gradient of the loss: all but the cross-entropy of a softmax are means over outputs."""
    if not isinstance(loss, str):
        return loss.scale(outputs)
    return {"crossentropy": 1.0, "binary_crossentropy": 1 / outputs, "mse": 2 / outputs}[loss]


def loss_gradient(
    build: Builder,
    loss: Loss,
    z: int,
    y: int,
    outputs: int,
    *,
    value: bool = False,
    threshold: float = 0.0,
    sums: Told = EXACT,
    labels: Labels = AS_GIVEN,
    weights: Signal | None = None,
) -> LossGradient:
    """Write the gradient by the outputs `z` (batch, outputs), what a `Truncate` gave, for the targets `y`, a wire.

    - crossentropy: softmax(z) - y; the metric counts rows that have their largest output where y has its 1; the loss is
      log sum exp(z) - y z.
    - binary_crossentropy: sigmoid(z) - y; the metric counts outputs that are above `threshold` where y is 1, and not where y is 0; the
      loss is log(1 + e^z) - y z.
    - mse: z - y; metric and loss are the sum of squares.

    The loss itself, within 2^-9 an output, or an example and 2^-14 a class, is computed only if `value` asks for it: 2 rounds
    more for crossentropy, none for the others. It is rounded as `sums` say. A cross-entropy compares with what `labels` make of targets.

    With `weights` of the examples, a wire (batch, 1), each loss counts so many times; gradient and metric do not. 1 round more, or 2.
    """
    soft = _smoothed(build, y, labels, 2 if loss == "binary_crossentropy" else outputs)
    match loss:
        case "mse":
            wire = build(Open(build(Combine((z, y), (1, -1)))))
            squares = build(Multiply(wire, wire))
            metric = _summed(build, squares, sums)
            return LossGradient(wire, metric, metric if weights is None else _summed(build, squares, sums, weights))
        case "binary_crossentropy":
            distance = build(Combine((sigmoid(build, z), soft), (1, -(1 << (SPLINE - FRACTION)))))
            wire = build(Open(build(Truncate(distance, SPLINE - FRACTION, 63 - SPLINE + FRACTION))))
            missed = _missed(build, softplus(build, z), z, soft, sums, weights) if value else -1
            return LossGradient(wire, _right(build, z, y, threshold), missed)
        case "crossentropy":
            found = softmax(build, z, outputs)
            wire = build(Open(build(Combine((found.probabilities, soft), (1, -1)))))
            right = build(Sum(build(Multiply(found.largest, y))))
            if not value:
                return LossGradient(wire, right, -1, found)
            total = build(Combine((logarithm(build, found.total, outputs), found.top), (1, 1 << FRACTION)))
            if labels.relative:
                total = build(Combine((total, build(Sum(build(spline(y, fit(_entropy, 0.0, 1.0, tolerance=TOLERANCE))), 1))), (1, 1)))
            return LossGradient(wire, right, _missed(build, total, z, soft, sums, weights), found)
        case _:
            assert isinstance(build, StepDraft) or not isinstance(loss, OwnLoss)  # only networks have losses of one's own
            found_by = loss.write(build, z, y, outputs)  # type: ignore[arg-type]
            values = _summed(build, found_by.values, sums)
            weighed = values if weights is None else _summed(build, found_by.values, sums, weights)
            return LossGradient(found_by.wire, values, weighed, None, found_by.large, found_by.sums)


def _smoothed(build: Builder, y: int, labels: Labels, classes: int) -> int:
    """Write what is compared with, affine. Rounds: 0, or 1."""
    if not labels.smoothing:
        return y
    own = round((1 - labels.smoothing) * 2**FRACTION)
    return build(Truncate(build(Combine((y,), (own,), round(labels.smoothing / classes * 4**FRACTION))), FRACTION, 63 - FRACTION))


def _entropy(x: Real) -> Real:
    """X log x, as Keras clips it."""
    inside = np.maximum(x, 1e-7)
    y: Real = inside * np.log(inside)
    return y


def _missed(build: Builder, total: int, z: int, y: int, sums: Told, weights: Signal | None) -> int:
    """Write the sum of `total` - y z over everything, with 2 `FRACTION` fractional bits."""
    product = build(Multiply(y, z))
    if build.value(total).shape != build.value(product).shape:  # one total for all outputs
        product = build(Sum(product, 1))
    return _summed(build, build(Combine((total, product), (1, -1))), sums, weights)


def _summed(build: Builder, losses: int, sums: Told, weights: Signal | None = None) -> int:
    """Write the sum of all losses (batch, any), exact or rounded: then no more are added before than cannot wrap around.

    With `weights` each is rounded, and multiplied, before.
    """
    if weights is not None:
        rounded = build(Truncate(losses, FRACTION, 63 - FRACTION))
        losses = build(Multiply(rounded, weights.at))
        if weights.bits > FRACTION:
            losses = build(Truncate(losses, weights.bits - FRACTION, 63 - weights.bits + FRACTION))
    if not sums.lost:
        return build(Sum(losses))
    size = build.value(losses).size
    most = min(size, 2 ** max(0, SUM_BITS - 2 * FRACTION - sums.each))
    row = max(row for row in range(1, most + 1) if size % row == 0)
    parts = build(Sum(build(Reshape(losses, (size // row, row))), 1))
    return build(Sum(build(Truncate(parts, sums.lost, 63 - sums.lost))))


def _right(build: Builder, z: int, y: int, threshold: float) -> int:
    """How often y is what D = [z > threshold] says: the sum of 1 - y - D + 2 y D, with `FRACTION` fractional bits."""
    edge, one = round(threshold * 2**FRACTION), 1 << FRACTION
    above = build(Truncate(build(Combine((z,), (2,), -2 * edge)), 1, WINDOW + 1)) if edge else z
    if build.value(above).cut is None:
        above = above if build.value(above).kind == "wire" else build(Open(above))
    d = build(Sign(above, None if build.value(above).cut else WINDOW, strict=True))
    return build(Sum(build(Combine((y, d, build(Multiply(y, d))), (-1, -one, 2), one))))
