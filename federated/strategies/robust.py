"""Strategies that stand some owners who send anything at all. They need the single updates, and count each owner once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from federated.errors import SettingError
from federated.strategies.averaging import moved
from federated.strategies.strategy import State, Strategy, check
from federated.strategies.updates import Updates, stacked
from federated.tasks.update import Array, Weights


@dataclass(frozen=True, kw_only=True)
class CoordinateMedian(Strategy):
    """Each coordinate moves by the median of the owners'.

    Stands fewer than half of the owners. The numbers of examples are not used: they are claims, too.

    References:
        Yin et al., 2018, arXiv:1803.01498, Algorithm 1, option I.
    """

    single_updates: ClassVar[bool] = True

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Take the median over the owners' axis."""
        return moved(weights, [np.median(stack, axis=0) for stack in stacked(updates)]), state


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Strategy):
    """Each coordinate moves by the mean of the owners' without the largest and the smallest.

    Args:
        beta: share of the owners that is cut off at each end, in [0, 0.5): floor(beta n) of n updates. As many are withstood.

    References:
        Yin et al., 2018, arXiv:1803.01498, Algorithm 1, option II.
    """

    single_updates: ClassVar[bool] = True
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("beta", self.beta, 0.0 <= self.beta < 0.5, "in [0, 0.5)")

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Take the mean of what is left of each sorted coordinate."""
        cut = int(self.beta * len(updates.single))
        kept = slice(cut, len(updates.single) - cut)
        return moved(weights, [np.sort(stack, axis=0)[kept].mean(axis=0) for stack in stacked(updates)]), state


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Strategy):
    """The mean of the m updates that are nearest to their neighbours.

    score(i) = sum of ||Delta_i - Delta_j||^2 over the n - f - 2 updates j nearest to i;  the m lowest scores are averaged.

    Args:
        f: owners that may send anything, at least 0; 2 f + 3 updates are needed.
        m: how many updates are averaged, at least 1; at most n - f - 2 of them are (section 5 of the paper needs that).

    References:
        Blanchard et al., 2017, arXiv:1703.02757, sections 4 and 5.
    """

    single_updates: ClassVar[bool] = True
    f: int = 1
    m: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check("f", self.f, self.f >= 0, "at least 0")
        check("m", self.m, self.m >= 1, "at least 1")

    @property
    def least_updates(self) -> int:
        """2 f + 3."""
        return 2 * self.f + 3

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Take the mean over the chosen updates; of equal scores the first owners by name are chosen.

        Raises:
            SettingError: fewer than 2 f + 3 updates.
        """
        n = len(updates.single)
        if n < self.least_updates:
            raise SettingError(f"{n} updates and f={self.f}: Krum needs 2 f + 3 = {self.least_updates}; wait for more owners or lower f")
        stacks = stacked(updates)
        scores = _scores(squared_distances(stacks), n - self.f - 2)
        chosen = np.argsort(scores, kind="stable")[: min(self.m, n - self.f - 2)]
        return moved(weights, [stack[chosen].mean(axis=0) for stack in stacks]), state


@dataclass(frozen=True, kw_only=True)
class Bulyan(Strategy):
    """Krum, again and again, chooses theta = n - 2 f updates; each coordinate moves by the mean of the theta - 2 f nearest its median.

    Args:
        f: owners that may send anything, at least 0; 4 f + 3 updates are needed.

    References:
        El Mhamdi et al., 2018, arXiv:1802.07927, section 4.
    """

    single_updates: ClassVar[bool] = True
    f: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("f", self.f, self.f >= 0, "at least 0")

    @property
    def least_updates(self) -> int:
        """4 f + 3."""
        return 4 * self.f + 3

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Take the mean around the median of the chosen; of equal scores the first owners by name are chosen.

        Raises:
            SettingError: fewer than 4 f + 3 updates.
        """
        n, stacks = len(updates.single), stacked(updates)
        if n < self.least_updates:
            raise SettingError(f"{n} updates and f={self.f}: Bulyan needs 4 f + 3 = {self.least_updates}; wait for more owners or lower f")
        chosen = _chosen(squared_distances(stacks), n - 2 * self.f, self.f)
        return moved(weights, [_around_median(stack[chosen], len(chosen) - 2 * self.f) for stack in stacks]), state


def _chosen(distances: Array, count: int, f: int) -> list[int]:
    """Return the updates that Krum takes one after the other, each time of those that are left."""
    left, found = list(range(len(distances))), []
    for _ in range(count):
        among = distances[np.ix_(left, left)]
        found.append(left.pop(int(np.argmin(_scores(among, max(1, len(left) - f - 2))))) if len(left) > 1 else left.pop())
    return sorted(found)


def _around_median(stack: Array, count: int) -> Array:
    """Return the mean of so many values of each coordinate that are nearest to their median."""
    order = np.argsort(np.abs(stack - np.median(stack, axis=0)), axis=0, kind="stable")[:count]
    return np.asarray(np.take_along_axis(stack, order, axis=0).mean(axis=0))


@dataclass(frozen=True, kw_only=True)
class Krum(MultiKrum):
    """The one update that is nearest to its neighbours: `MultiKrum` with m = 1.

    Args:
        f: owners that may send anything, at least 0; 2 f + 3 updates are needed.

    References:
        Blanchard et al., 2017, arXiv:1703.02757, section 4.
    """

    m: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("m", self.m, self.m == 1, "1; use MultiKrum to average more")


def squared_distances(stacks: Weights) -> Array:
    """||Delta_i - Delta_j||^2 for all pairs of updates, over all arrays together: (n, n) float64."""
    n = len(stacks[0])
    distances = np.zeros((n, n))
    for i in range(n):  # n arrays of differences at a time, not n^2
        for j in range(i):
            distances[i, j] = distances[j, i] = sum(float(np.sum((stack[i] - stack[j]) ** 2)) for stack in stacks)
    return distances


def _scores(distances: Array, nearest: int) -> Array:
    others = np.where(np.eye(len(distances), dtype=bool), np.inf, distances)
    return np.asarray(np.sort(others, axis=1)[:, :nearest].sum(axis=1))
