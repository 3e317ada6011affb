"""From `DPSGD(...)` to what the workers are told: the public settings of a private step."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from protocols.errors import InputError
from protocols.training.networks.losses import gradient_scale
from protocols.training.private.settings import Private, fitted
from protocols.training.step import Plan

if TYPE_CHECKING:
    from privacy.mechanisms import DPSGD


def check_asked(privacy: object, ledger: object, metrics: bool | Collection[str]) -> None:
    """Refuse what a private training on shares does not do.

    Raises:
        InputError: `privacy` is no `DPSGD`, or has a sampling rate; the ledger counts something else; or a metric is asked for by name.
    """
    from privacy.ledger import Ledger  # noqa: PLC0415  only owners count
    from privacy.mechanisms import DPSGD  # noqa: PLC0415

    if ledger is not None and not (isinstance(ledger, Ledger) and ledger.unit == "example"):
        raise InputError(f"ledger={ledger!r}: a privacy.Ledger whose unit is 'example' is needed")

    if not isinstance(privacy, DPSGD):
        raise InputError(f"privacy={type(privacy).__name__}: give privacy.DPSGD(noise_multiplier=..., max_grad_norm=...)")
    usual = {field.name: field.default for field in dataclasses.fields(DPSGD)}["sampling_rate"]
    if privacy.sampling_rate != usual:
        raise InputError(
            f"sampling_rate={privacy.sampling_rate:g}: on shares the servers know which examples are in a step, so nothing is sampled and"
            " nothing is gained by it; leave it out, and give batch_size="
        )
    if not isinstance(metrics, bool):
        raise InputError(
            f"metrics={metrics!r}: sums over examples are told without noise and are outside of the guarantee of privacy=; leave it out,"
            " and evaluate what is revealed"
        )


def promised(plan: Plan, privacy: DPSGD, batch_size: int) -> Plan:
    """Return the plan with a bound for each example and noise; how many digits that has is for `fitting` to say.

    Keras' gradient is `gradient_scale` and the weight of the loss times the sums of a step, and so is the norm that is bounded.
    """
    clip = privacy.max_grad_norm / (gradient_scale(plan.loss, plan.outputs) * plan.weight)
    return msgspec.structs.replace(plan, private=Private(clip, privacy.noise_multiplier, batch_size))


def fitting(plan: Plan) -> Plan:
    """Return a plan whose clip factors have as many digits as its optimizer leaves; one that is not private as it is.

    Raises:
        ModelError: these are too few.
    """
    private = plan.private
    if private is None:
        return plan
    scale = plan.scale * gradient_scale(plan.loss, plan.outputs) / private.batch
    return msgspec.structs.replace(plan, private=fitted(private, plan.optimizer, scale))
