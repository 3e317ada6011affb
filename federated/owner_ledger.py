"""What an owner lets out of its data: a ledger of its own, that no aggregator can talk it out of."""

from __future__ import annotations

import math

from federated.errors import UpdateHeldBack
from federated.update import LocalTraining
from privacy import BudgetSpent, Ledger


def spend(ledger: Ledger | None, training: LocalTraining, examples: int) -> None:
    """Writes down what an update will cost, before there is one.

    Only noise that the owner adds itself counts: DP-SGD for a ledger about its examples, noise on the update for one about the owner.
    With a part of the noise of a sum (`DistributedGaussian`) an update costs what it would cost whoever sees it alone.

    Args:
        ledger: None: nothing is written, and nothing refused.
        training: what the aggregator asks for.
        examples: that the owner has.

    Raises:
        UpdateHeldBack: the budget is spent, or there would be no noise of this owner's in the update.
    """
    if ledger is None:
        return
    import dp_accounting  # noqa: PLC0415  takes a second

    from privacy.plan import event  # noqa: PLC0415  takes a second

    bound = training.bound
    if training.noise_multiplier and ledger.unit == "example":
        steps = training.epochs * math.ceil(1 / training.rate)
        what, count = event(int(training.rate * examples) / examples, training.noise_multiplier), steps
    elif bound is not None and bound.stddev and ledger.unit == "owner":
        what, count = dp_accounting.GaussianDpEvent(bound.stddev / bound.clip_norm), 1
    else:
        raise UpdateHeldBack(
            f"this owner keeps a ledger with the unit {ledger.unit!r}, and lets nothing out without noise of its own: "
            f"DPSGD is that for 'example', LocalGaussian for 'owner'"
        )
    try:
        ledger.spend(what, count, purpose="a federated round")
    except BudgetSpent:
        raise UpdateHeldBack("the privacy budget of this owner is spent") from None
