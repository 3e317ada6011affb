"""A strategy for owners of several kinds: IFCA, with a model for each kind."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from federated.errors import SettingError
from federated.strategies.averaging import moved
from federated.strategies.strategy import State, Strategy, check
from federated.strategies.updates import Named, Updates
from federated.tasks.update import Array, LocalTraining, Weights


@dataclass(frozen=True, kw_only=True)
class IFCA(Strategy):
    """Several models at once: each owner trains, and evaluates, that one whose loss on its data is the lowest.

    j_i = argmin_j F_i(w_j);  w_j + sum_{i: j_i = j} n_i (w_i - w_j) / sum_{i: j_i = j} n_i

    A model that nobody has chosen stays. All models travel to each owner, and as much comes back. The first one is the global model of the
    federation; the others are in `federation.state`, as `cluster1` and so on: the trained weights, in their order.

    **Leaks**: with an aggregation that hides updates, the sums over the owners of each model are seen, and how many examples each model
    was chosen for: of a model that one owner alone has chosen, that owner's update. With updates in sight also which owner chose which.

    Args:
        clusters: how many models, at least 2.
        starts: the trained weights of the others before the first round; none: the first model's, each array with its elements in a random
            order. So they are other draws of a random initialization, and nothing for a model that was trained before.
        seed: of these orders.

    References:
        Ghosh et al., 2020, arXiv:2006.04088, Algorithm 1, with model averaging.

    Example:
        >>> IFCA(clusters=3)
    """

    bounds: ClassVar[bool] = False
    clusters: int = 2
    starts: tuple[Weights, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check("clusters", self.clusters, isinstance(self.clusters, int) and self.clusters >= 2, "a whole number, at least 2")
        if self.starts and len(self.starts) != self.clusters - 1:
            raise SettingError(f"starts has the weights of {len(self.starts)} models: {self.clusters - 1} are needed beside the first")

    def local_training(self) -> LocalTraining:
        """With a choice among models."""
        return dataclasses.replace(super().local_training(), method="ifca")

    def initial(self, weights: Weights) -> State:
        """Return the other models."""
        for place, start in enumerate(self.starts):
            shapes = [np.shape(array) for array in start]
            if shapes != [array.shape for array in weights]:
                raise SettingError(f"starts[{place}] has arrays of shapes {shapes}: the trained weights have {[w.shape for w in weights]}")
        random = np.random.default_rng(self.seed)
        starts = self.starts or [[_shuffled(array, random) for array in weights] for _ in range(self.clusters - 1)]
        return {f"cluster{j}": [np.asarray(array, np.float64) for array in start] for j, start in enumerate(starts, 1)}

    def arrays(self, round: int, state: State) -> Named:
        """Return the other models."""
        return state

    def extra(self, weights: Weights) -> Named:
        """Return updates of the other models, and which was chosen."""
        return {f"cluster{j}": weights for j in range(1, self.clusters)} | {"chosen": [np.zeros(self.clusters)]}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Move each model by the mean over those who chose it."""
        shares = updates.extra["chosen"][0]
        least = 0.5 / max(1.0, updates.examples)  # half of one example

        def step(model: Weights, mean: Weights, share: float) -> Weights:
            return moved(model, [d / share for d in mean]) if share > least else model

        models = {name: step(model, updates.extra[name], shares[j]) for j, (name, model) in enumerate(state.items(), 1)}
        return step(weights, updates.mean, shares[0]), models


def _shuffled(array: Array, random: np.random.Generator) -> Array:
    """Return an array with its elements in a random order."""
    return random.permuted(array.reshape(-1)).reshape(array.shape)
