"""What the owner of a model is told of an epoch on shares. Start with `epoch_of`."""

from __future__ import annotations

import math
import warnings
from typing import TypeAlias

import msgspec
import numpy as np

from protocols.accounting.spending import ExamplePrivacy
from protocols.errors import PrecisionWarning
from protocols.mpc.numbers.fixed_point import decode
from protocols.owner.targets import metric_of
from protocols.training.asked import SharedEvaluation
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import EXACT, Head, JointLoss, compared, metric_bits, never_negative
from protocols.training.step import Plan
from protocols.training.terms import StepsReport, TrainingTerms

ERROR = 0.01
"""Of a loss that is told, an example and output, at most: that of its protocol is 0.0013 a class, or 2^-9 an output."""

Segment: TypeAlias = tuple[StepsReport, StepsReport]
"""What both servers report of some steps."""


class Epoch(msgspec.Struct, frozen=True):
    """What is known of an epoch.

    Attributes:
        number: from 1.
        metric: "accuracy" or "mean squared error" of the steps, each before its update; None if metrics are not revealed.
        value: of the metric, or None.
        steps: how many were made; fewer than an epoch has if it was resumed in its middle.
        rounds: messages of each server to the other in a step, on average.
        seconds: of a step, on average.
        online: the same without waiting for randomness.
        bytes: in a step on average: between the servers, both ways.
        dealt: in a step on average: from the provider.
        loss: of the steps, each before its update, or None.
        logs: what Keras' callbacks are told: the same by the names of Keras, of several outputs all of theirs, of a validation with val_.
        privacy: what all private epochs so far have spent, or None.
        micro_batches: in how many a step was computed, on average: 1 unless memory or `micro_batch_size` asks for more.
    """

    number: int
    metric: str | None
    value: float | None
    steps: int
    rounds: float
    seconds: float
    online: float
    bytes: float
    dealt: float
    loss: float | None = None
    logs: dict[str, float] = {}
    privacy: ExamplePrivacy | None = None
    micro_batches: float = 1.0

    def __str__(self) -> str:
        metric = "" if self.value is None else f"{self.metric} {self.value:.2f}, "
        if self.loss is not None:
            metric += f"loss {self.loss:.3f}, "
        metric += "".join(f"{name} {value:.3f}, " for name, value in self.logs.items() if self._shown(name))
        if self.privacy is not None:
            metric += f"{self.privacy}, "
        total = (self.bytes + self.dealt) / 1e6
        parts = "" if self.micro_batches == 1 else f" of {self.micro_batches:.3g} micro-batches"
        return f"epoch {self.number}: {metric}{self.steps} steps{parts}, {self.seconds * 1000:.0f} ms/step, {total:.1f} MB/step"

    def _shown(self, name: str) -> bool:
        """Say whether a number of the logs is shown beside metric and loss: of a validation, and of several outputs."""
        return name.startswith("val_") or (self.value is None and name != "loss")


def epoch_of(number: int, terms: TrainingTerms, segments: list[Segment]) -> Epoch:
    """Return what is known of an epoch, counted from 1, from what both servers report of its segments."""
    reports = [report for segment in segments for report in segment]
    made = sum(first.steps for first, _ in segments)
    values = values_of(terms, segments[-1])
    seconds = sum(max(report.seconds for report in segment) for segment in segments)
    online = sum(max(report.seconds - report.waited for report in segment) for segment in segments)
    return Epoch(
        number,
        metric_of(terms.plan.loss) if "metric" in values and not isinstance(terms.plan.loss, JointLoss) else None,
        values.get("metric"),
        made,
        sum(first.rounds for first, _ in segments) / made,
        seconds / made,
        online / made,
        sum(report.sent for report in reports) / made,
        sum(report.dealt for report in reports) / made,
        values.get("loss"),
        values,
        micro_batches=sum(first.micro_batches for first, _ in segments) / made,
    )


def values_of(terms: TrainingTerms, last: Segment) -> dict[str, float]:
    """Return what was told, as means over examples, and over outputs where Keras has it so; NaN where a sum cannot be trusted."""
    plan = terms.plan.plan if isinstance(terms.plan, SharedEvaluation) else terms.plan
    loss = plan.loss
    if isinstance(loss, JointLoss):
        assert isinstance(plan, Plan)  # nothing else has several outputs
        return _of_heads(plan, loss, terms.examples, last)
    count = terms.examples * compared(loss, plan.outputs)
    told = plan.sums if isinstance(plan, Plan) else EXACT
    bits = {"metric": metric_bits(loss, told), "loss": 2 * FRACTION - told.lost}
    sums = {name: decode(share + last[1].told[name], 2.0 ** -bits[name]) for name, share in last[0].told.items()}
    weights, error = {"loss": plan.weight if isinstance(plan, Plan) else 1.0}, ERROR * count * plan.outputs
    if not never_negative(loss):
        error = math.inf
    return {
        name: weights.get(name, 1.0) * trusted(name, float(total[0]), 2.0 ** (63 - bits[name]), error) / count
        for name, total in sums.items()
    }


def _of_heads(plan: Plan, joint: JointLoss, examples: int, last: Segment) -> dict[str, float]:
    """Return the loss, "loss 0", ... of each output, not weighted, and "metric 0", ... of those whose metric was told."""
    sums = {name: share + last[1].told[name] for name, share in last[0].told.items()}
    found: dict[str, float] = {}
    if "loss" in sums:
        found["loss"], bits = 0.0, 2 * FRACTION - joint.heads[0].sums.lost
        for place, (head, total) in enumerate(zip(joint.heads, sums["loss"], strict=False)):  # penalties come last
            found[f"loss {place}"] = _mean("loss", total, bits, head, examples)
            found["loss"] += plan.weight * head.weight * found[f"loss {place}"]
        if plan.penalised:
            found["loss"] += trusted("loss", decode(sums["loss"][-1:], 2.0**-bits)[0], 2.0 ** (63 - bits)) / examples
    told = [place for place, head in enumerate(joint.heads) if head.told]
    for place, total in zip(told, sums.get("metric", ()), strict=False):
        head = joint.heads[place]
        found[f"metric {place}"] = _mean("metric", total, metric_bits(head.loss, head.sums), head, examples)
    return found


def _mean(name: str, total: np.uint64, bits: int, head: Head, examples: int) -> float:
    count = examples * compared(head.loss, head.outputs)
    error = ERROR * count * head.outputs if never_negative(head.loss) else math.inf
    return trusted(name, float(decode(np.array([total]), 2.0**-bits)[0]), 2.0 ** (63 - bits), error) / count


def trusted(name: str, total: float, limit: float, error: float = math.inf) -> float:
    """Return a sum that was told, or NaN if it is so large that it may have passed `limit`, where the ring begins anew.

    Of squared errors and losses so many bits are told that this cannot be (`losses.told`), unless outputs have left their window.

    Args:
        name: "metric" or "loss".
        total: of an epoch, between -`limit` and `limit`. Neither an accuracy nor a loss is below 0, but for the error of its protocol.
        limit: half the size of the ring, in units of the sum.
        error: of the protocol, at most, in these units.

    Warns:
        PrecisionWarning: it is not told.
    """
    if -min(limit / 1024, error) < total < limit / 2:
        return total
    warnings.warn(
        f"the sum of the {name} over an epoch is below 0, or is near {limit:.1e}, or beyond, where it would be another number: it is not"
        " told (NaN). The training itself goes on; scale the targets to about 1, or tell metrics=False",
        PrecisionWarning,
        stacklevel=2,
    )
    return math.nan
