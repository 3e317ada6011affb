"""Strategies whose owners correct their local steps: SCAFFOLD and FedDyn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from federated.strategies.averaging import filled, moved
from federated.strategies.strategy import State, Strategy, check
from federated.strategies.updates import Named, Updates
from federated.tasks.update import LocalTraining, Setting, Weights


@dataclass(frozen=True, kw_only=True)
class SCAFFOLD(Strategy):
    """Owners correct each local step by the difference of two control variates, so that it goes where all of them together would go.

    y <- y - eta_l (g_i(y) - c_i + c), K times; c_i+ = c_i - c + (x - y) / (K eta_l);
    x + eta mean(y - x); c + |S| / N mean(c_i+ - c_i)

    for |S| of N owners, that count alike. Owners train with plain SGD at a constant rate, or refuse. Each remembers its c_i: give real
    ones `DataOwner(..., memory=)`. The control variates are as long as the trained weights, and travel both ways beside them.

    **Leaks**: with an aggregation that hides updates, only their mean is seen. c is given to all owners.

    Args:
        eta: server learning rate, above 0.

    References:
        Karimireddy et al., 2020, arXiv:1910.06378, Algorithm 1, option II.
    """

    alike: ClassVar[bool] = True
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check("eta", self.eta, 0.0 < self.eta < np.inf, "above 0 and finite")

    def local_training(self) -> LocalTraining:
        """With control variates."""
        return dataclasses.replace(super().local_training(), method="scaffold")

    def initial(self, weights: Weights) -> State:
        """c = 0."""
        return {"control": filled(weights, 0.0)}

    def arrays(self, round: int, state: State) -> Named:
        """c."""
        return {"control": state["control"]}

    def extra(self, weights: Weights) -> Named:
        """c_i+ - c_i."""
        return {"control": weights}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Move x by the mean, and c by the share of it that all owners would have."""
        share = updates.examples / updates.owners
        control = [c + share * d for c, d in zip(state["control"], updates.extra["control"], strict=True)]
        return moved(weights, [self.eta * d for d in updates.mean]), {"control": control}


@dataclass(frozen=True, kw_only=True)
class FedDyn(Strategy):
    """Owners' objectives change from round to round so that the minimum of each agrees with that of all.

    Owners minimise L_i(w) - <g_i, w> + alpha/2 ||w - w_t||^2, g_i <- g_i - alpha (w_i - w_t);
    h <- h - alpha |S| / N mean(w_i - w_t); w_{t+1} = mean(w_i) - h / alpha

    for |S| of N owners, that count alike. Each remembers its g_i: give real ones `DataOwner(..., memory=)`.

    Args:
        alpha: above 0.

    References:
        Acar et al., 2021, arXiv:2111.04263, Algorithm 1.
    """

    alike: ClassVar[bool] = True
    alpha: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check("alpha", self.alpha, 0.0 < self.alpha < np.inf, "above 0 and finite")

    def local_training(self) -> LocalTraining:
        """With an objective that changes."""
        return dataclasses.replace(super().local_training(), method="feddyn")

    def config(self, round: int) -> Mapping[str, Setting]:
        """Return alpha."""
        return {"alpha": self.alpha}

    def initial(self, weights: Weights) -> State:
        """h = 0."""
        return {"h": filled(weights, 0.0)}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Move by the mean, and by what has gathered of the means."""
        share = updates.examples / updates.owners
        h = [h - self.alpha * share * d for h, d in zip(state["h"], updates.mean, strict=True)]
        return moved(weights, [d - one / self.alpha for d, one in zip(updates.mean, h, strict=True)]), {"h": h}
