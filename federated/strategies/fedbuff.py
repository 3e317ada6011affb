"""FedBuff: the strategy of asynchronous rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federated.strategies.averaging import moved
from federated.strategies.strategy import State, Strategy, check
from federated.strategies.updates import Updates
from federated.tasks.update import Weights


@dataclass(frozen=True, kw_only=True)
class FedBuff(Strategy):
    """Nobody waits for the slowest: the aggregator acts on every K updates, and discounts those that began at an older model.

    x_{t+1} = x_t + eta sum_i n_i s(tau_i) Delta_i / sum_i n_i,  s(tau) = (1 + tau)^-a

    where tau_i is the number of rounds since owner i was given its weights. The paper has n_i = 1. The rounds are those of the
    aggregator: `rounds(50)` are 50 steps of it. An owner counts once in a round. `fraction` and the quorum are not used.

    Updates of real owners are taken as they come, so that a run depends on who is fast. Those of simulated owners are taken in the order
    in which they were asked, however fast the machine is: a run is repeated exactly.

    Args:
        buffer: K, updates in a round, at least 1.
        concurrency: owners at work at once, at least `buffer`.
        eta: server learning rate, above 0.
        staleness: a, at least 0; 0 does not discount.

    References:
        Nguyen et al., 2022, arXiv:2106.06639, Algorithm 1, and section 5 for s.
    """

    buffer: int = 10
    concurrency: int = 20
    eta: float = 1.0
    staleness: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check("buffer", self.buffer, self.buffer >= 1, "at least 1")
        check("concurrency", self.concurrency, self.concurrency >= self.buffer, f"at least buffer={self.buffer}")
        check("eta", self.eta, 0.0 < self.eta < np.inf, "above 0 and finite")
        check("staleness", self.staleness, 0.0 <= self.staleness < np.inf, "at least 0 and finite")

    @property
    def least_updates(self) -> int:
        """K."""
        return self.buffer

    def discount(self, rounds: int) -> float:
        """s(tau) of an update that began so many rounds ago."""
        return float((1 + rounds) ** -self.staleness)

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """x_t + eta times the discounted mean."""
        return moved(weights, [self.eta * d for d in updates.mean]), state
