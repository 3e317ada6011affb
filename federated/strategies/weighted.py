"""Strategies that weigh what owners give by more than their numbers of examples: FedNova and q-FedAvg."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from federated.strategies.averaging import moved
from federated.strategies.strategy import State, Strategy, check
from federated.strategies.updates import Named, Updates
from federated.tasks.update import LocalTraining, Setting, Weights


@dataclass(frozen=True, kw_only=True)
class FedNova(Strategy):
    """FedAvg where owners that make more steps do not pull the model towards a minimum of another objective.

    x + tau_eff sum_i n_i d_i / sum_i n_i, with d_i = (x_i - x) / ||a_i||_1 and tau_eff = sum_i n_i ||a_i||_1 / sum_i n_i

    where ||a_i||_1 is the number of steps of owner i, or what they add up to with momentum. Owners train with plain SGD, with or without
    momentum, at a constant rate, or refuse.

    References:
        Wang et al., 2020, arXiv:2007.07481, equations 6 and 8.
    """

    bounds: ClassVar[bool] = False

    def local_training(self) -> LocalTraining:
        """With updates that are divided by their steps."""
        return dataclasses.replace(super().local_training(), method="fednova")

    def extra(self, weights: Weights) -> Named:
        """||a_i||_1."""
        return {"steps": [np.zeros((), np.float64)]}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Move by the mean direction, as far as the mean number of steps."""
        far = float(updates.extra["steps"][0])
        return moved(weights, [far * d for d in updates.mean]), state


@dataclass(frozen=True, kw_only=True)
class QFedAvg(Strategy):
    """Owners with a higher loss count more, so that accuracy is more alike between owners.

    x - sum_i F_i^q D_i / sum_i h_i, with D_i = (x - x_i) / eta and h_i = q F_i^(q-1) ||D_i||^2 + F_i^q / eta

    where F_i is the loss of x at owner i and eta the learning rate of the owners. They count alike; with q = 0 this is their plain mean.
    Owners train with plain SGD, with or without momentum, at a constant rate, or refuse.

    **Leaks**: with an aggregation that hides updates, only the mean of F_i^q D_i and that of h_i are seen.

    Args:
        q: at least 0.

    References:
        Li et al., 2019, arXiv:1905.10497, Algorithm 2, with L = 1 / eta.
    """

    alike: ClassVar[bool] = True
    bounds: ClassVar[bool] = False
    q: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check("q", self.q, 0.0 <= self.q < np.inf, "at least 0 and finite")

    def local_training(self) -> LocalTraining:
        """With updates that are weighted by the loss."""
        return dataclasses.replace(super().local_training(), method="qfedavg")

    def config(self, round: int) -> Mapping[str, Setting]:
        """Return q."""
        return {"q": self.q}

    def extra(self, weights: Weights) -> Named:
        """h_i."""
        return {"curvature": [np.zeros((), np.float64)]}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Move by the quotient of both means."""
        curvature = float(updates.extra["curvature"][0])
        return moved(weights, [d / curvature for d in updates.mean]), state
