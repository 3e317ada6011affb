"""Features and targets of a training: with which of them a loss and a metric on shares are those of Keras; what is told of an epoch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec

from protocols.datasets.dataset import SharedDataset, alike
from protocols.errors import InputError
from protocols.training.networks.distances import TargetLoss
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import SUM_BITS, JointLoss, Loss, Told, compared, told
from protocols.training.step import Plan

METRICS: dict[str, str] = {"crossentropy": "accuracy", "binary_crossentropy": "accuracy", "mse": "mean squared error"}
"""The name of the metric of each loss; of all others it is the loss itself."""


def metric_of(loss: Loss) -> str:
    """Return the name of the metric of a loss."""
    return METRICS[loss] if isinstance(loss, str) else loss.name.replace("_", " ")


def asked(metrics: bool | Collection[str], loss: Loss) -> tuple[str, ...]:
    """Return the names of what is told, of all that can be with this loss.

    Raises:
        InputError: something else was asked for.
    """
    possible = (metric_of(loss), "loss")
    if isinstance(metrics, bool):
        return possible[:1] if metrics else ()
    wanted = {metrics} if isinstance(metrics, str) else set(metrics)
    if wanted - set(possible):
        raise InputError(f"metrics={metrics!r} was asked for; with this loss {' and '.join(map(repr, possible))} can be told")
    return tuple(name for name in possible if name in wanted)


def _are_truths(expected: str, y: SharedDataset) -> bool:
    return y.content == "labels" or y.dataset.binary or (expected == "signs" and y.dataset.signs)


def check_targets(expected: str, y: SharedDataset, loss: Loss = "mse") -> None:
    """Refuse targets with which the gradient would not be that of Keras.

    The gradient of a categorical cross-entropy is p sum(y) - y; on shares p - y is computed, so rows must sum to 1.

    Args:
        expected: what the loss compares with, see `compiled_loss.expects`.
        y: the targets.
        loss: as it is in the plan.

    Raises:
        InputError: labels were stored where the loss compares with numbers, or the other way round; or rows do not sum to 1.
    """
    if expected == "labels" and y.content != "labels":
        raise InputError(f"the loss needs labels, and {y.name!r} was stored as numbers: store one integer an example")
    if isinstance(loss, TargetLoss) and loss.truths and not _are_truths(expected, y):
        wanted = "0 and 1, or -1 and 1" if expected == "signs" else "0 and 1"
        raise InputError(
            f"this loss compares with {wanted}, and {y.name!r} has other numbers; data that were left with workers by an earlier version"
            " must be left anew"
        )
    if expected == "single ones" and y.content == "numbers" and not (y.dataset.binary and y.dataset.summing):
        raise InputError(f"a categorical hinge needs labels, or rows with a single 1, and {y.name!r} has others")
    if expected == "numbers" and y.content == "labels":
        raise InputError(f"the loss needs numbers, and {y.name!r} was stored as labels because it is made of integers: store floats")
    if expected == "one-hot rows" and y.content == "numbers" and y.shape[1] > 1 and not y.dataset.summing:
        raise InputError(
            f"a categorical cross-entropy needs one-hot rows or probabilities, and not every row of {y.name!r} sums to 1: divide each row"
            " by its sum, or train several labels an example with a binary cross-entropy; data that were left with workers by an earlier"
            " version must be left anew"
        )


def check_features(shape: tuple[int, ...], x: SharedDataset) -> None:
    """Refuse features whose examples had other axes than those of the model: flattened, they would be other images.

    Args:
        shape: of an example, as the model takes it.
        x: the features.

    Raises:
        InputError: their shapes differ.
    """
    if not alike(shape, x.dataset.example):
        raise InputError(
            f"the model takes examples of shape {shape}, and those of {x.name!r} had the shape {x.dataset.example}: give them their axes in"
            " that order before they are shared"
        )


def check_told(loss: Loss, y: SharedDataset) -> None:
    """Refuse to tell an accuracy of targets that are neither right nor wrong: in Keras they never equal what is predicted.

    Raises:
        InputError: the targets are numbers other than 0 and 1.
    """
    if loss in ("crossentropy", "binary_crossentropy") and y.content == "numbers" and not y.dataset.binary:
        raise InputError(
            f"{y.name!r} has numbers other than 0 and 1, with which an accuracy means nothing: say metrics=['loss'] or metrics=False, or"
            " store labels, or zeros and ones; data that were left with workers by an earlier version must be left anew"
        )


def sums_told(loss: Loss, outputs: int, y: SharedDataset, beside: float = 0.0, most: int = 1, *, weighted: bool = False) -> Told:
    """How sums over an epoch of these targets are told; the loss of an example has `beside` more at most, and counts `most` times.

    `weighted` says whether examples, or classes, count differently.
    """
    ones = y.content == "labels" or (y.dataset.binary and (loss != "crossentropy" or y.dataset.summing)) or y.dataset.signs
    return told(loss, outputs, y.shape[0] * most, truths=ones, beside=beside, weighted=weighted)


def fitted(plan: Plan, ys: Sequence[SharedDataset], batch: int, told: Collection[int] = ()) -> Plan:
    """Return a plan as it is for these targets: how sums are told, and whether truths are held as -1 and 1.

    Args:
        plan: as it is compiled.
        ys: the targets of each output.
        batch: examples of a step, at most.
        told: of several outputs: whose metrics are told.
    """
    sizes = {name: math.prod(shape) for name, shape in plan.shapes.items()}
    beside = sum(one.most(sizes[one.name]) for one in plan.penalties) + sum(one.most for one in plan.activities)
    most = batch if plan.summed else 1
    weighted = plan.weighted or bool(plan.classes)
    if not isinstance(plan.loss, JointLoss):
        (y,) = ys
        beside *= compared(plan.loss, plan.outputs) / plan.weight
        sums = sums_told(plan.loss, plan.outputs, y, beside, most, weighted=weighted)
        return msgspec.structs.replace(plan, loss=_held(plan.loss, y), sums=sums)
    both = list(zip(plan.loss.heads, ys, strict=True))
    each = [sums_told(head.loss, head.outputs, y, 0.0, most, weighted=weighted) for head, y in both]
    penalty = 2 * FRACTION - SUM_BITS + math.ceil(math.log2(ys[0].shape[0] * beside)) if beside else 0
    lost = max(0, penalty, *(one.lost for one in each))
    heads = (
        msgspec.structs.replace(head, loss=_held(head.loss, y), sums=Told(sums.each, lost), told=place in told)
        for place, ((head, y), sums) in enumerate(zip(both, each, strict=True))
    )
    return msgspec.structs.replace(plan, loss=JointLoss(tuple(heads)), sums=Told(0, lost))


def _held(loss: Loss, y: SharedDataset) -> Loss:
    """Return a loss as it is for targets that are held as 0 and 1, or as -1 and 1."""
    if not isinstance(loss, TargetLoss) or not loss.truths:
        return loss
    return msgspec.structs.replace(loss, signs=y.content == "numbers" and not y.dataset.binary)
