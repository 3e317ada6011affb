"""The privacy of a run, from its settings."""

from __future__ import annotations

from federated.private.private_examples import PrivateExamples
from federated.private.private_rounds import PrivateRounds
from federated.runs.compatibility import sampled
from federated.strategies.strategy import Strategy
from privacy import DPSGD, ClippedGaussian, Ledger

Protection = PrivateRounds | PrivateExamples


def protection(settings: ClippedGaussian | DPSGD, *, owners: int, strategy: Strategy, seed: int, ledger: Ledger | None) -> Protection:
    """For owners as a whole, or for the single examples that they have.

    Args:
        settings: of the mechanism.
        owners: how many there are.
        strategy: how many are asked, and how they train.
        seed: of what need not be secret.
        ledger: see `PrivateRounds`.
    """
    if isinstance(settings, DPSGD):
        return PrivateExamples(settings, asked=sampled(owners, strategy), epochs=strategy.local_epochs, seed=seed)
    return PrivateRounds(settings, owners=owners, fraction=strategy.fraction, seed=seed, ledger=ledger)
