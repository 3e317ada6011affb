"""What each mechanism does to a round: what owners are told, and what is added to their sum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from federated.errors import SettingError
from federated.tasks.bounding import WITHIN, step_for
from federated.tasks.update import Array, Bound, Weights
from privacy import CentralGaussian, ClippedGaussian, DistributedGaussian, GaussianNoise, LocalGaussian, TreeGaussian
from privacy.randomness.noise import Grid, noisy_sum

ROUNDING = 1e-6
"""What an aggregation may change in each value of an update, see `Quantisation`: it adds to what one owner can do to the sum."""


LEAST_SIGMA = 9.0
"""In steps: of the noise of one of n < 2^100 owners whose discrete Gaussians add up to one, but for tau < 10 n exp(-(pi sigma)^2)."""


class Noising(Protocol):
    """A mechanism at work in one run."""

    def bound(self, size: int, least: int, resolution: float) -> Bound:
        """Return what owners do to their updates.

        Args:
            size: values in an update.
            least: n', the fewest owners whose sum is opened.
            resolution: multiples of this are summed without rounding.

        Raises:
            SettingError: the noise is too little for what is claimed of it.
        """

    def noisy(self, sums: Weights, metrics: Mapping[str, float]) -> Weights:
        """Return the sums as they may be known.

        Args:
            sums: of the updates, float64.
            metrics: sums of theirs.
        """

    def state(self) -> dict[str, float]:
        """Return what the next round depends on."""

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from such a state."""


def noising(settings: ClippedGaussian, expected: float) -> Noising:
    """Build the mechanism of these settings.

    Args:
        settings: of it.
        expected: how many owners take part in a round, on average.

    Raises:
        TypeError: it is none for rounds.
        privacy.SettingError: its settings do not fit together.
    """
    match settings:
        case CentralGaussian():
            return CentralNoise(settings, expected)
        case LocalGaussian() | DistributedGaussian():
            return OwnersNoise(settings)
        case TreeGaussian():
            return TreeNoise(settings)
        case _:
            raise TypeError(f"{type(settings).__name__} is no mechanism for rounds: those that `privacy` has are")


class CentralNoise:
    """The aggregator adds noise to the sum; the clip norm may follow the owners' (Andrew et al., 2021, arXiv:1905.03871, Algorithm 1)."""

    def __init__(self, settings: CentralGaussian, expected: float) -> None:
        self._clip, self._z, self._clipping = settings.clip_norm, settings.noise_multiplier, settings.clipping
        self._expected, self._noise = expected, GaussianNoise()
        if self._clipping is not None:
            self._z = self._clipping.gradient_multiplier(self._z, expected)

    def bound(self, size: int, least: int, resolution: float) -> Bound:
        """Clipping, and whether it was needed."""
        return Bound(self._clip, counts=self._clipping is not None)

    def noisy(self, sums: Weights, metrics: Mapping[str, float]) -> Weights:
        """See `Noising.noisy`; the clip norm of the next round is another then."""
        noisy = noisy_sum(self._noise, sums, sensitivity=_sensitivity(self._clip, sums), noise_multiplier=self._z)
        if self._clipping is not None:
            spread = 2 * self._clipping.stddev(self._expected)
            ((count,),) = noisy_sum(self._noise, [np.array([metrics.get(WITHIN, 0.0)])], sensitivity=0.5, noise_multiplier=spread)
            self._clip = self._clipping.next_clip(self._clip, float(count), self._expected)
        return noisy

    def state(self) -> dict[str, float]:
        """Return the clip norm."""
        return {"clip": self._clip}

    def restore(self, state: Mapping[str, float]) -> None:
        """Restore the clip norm of the round after."""
        self._clip = state["clip"]


class OwnersNoise:
    """Owners have added the noise: each all of it, or each a part."""

    def __init__(self, settings: LocalGaussian | DistributedGaussian) -> None:
        self._settings = settings

    def bound(self, size: int, least: int, resolution: float) -> Bound:
        """Clipping, and noise on a grid so fine that rounding hardly costs, and so coarse that float32 and the aggregation hold it."""
        clip, z = self._settings.clip_norm, self._settings.noise_multiplier
        share = least if isinstance(self._settings, DistributedGaussian) else 1
        step = step_for(clip, z * clip / math.sqrt(share), resolution)
        while True:
            stddev = z * (clip + step * math.sqrt(size)) / math.sqrt(share)
            wanted = step_for(clip, stddev, resolution)
            if wanted <= step:
                break
            step = wanted
        if isinstance(self._settings, DistributedGaussian) and stddev < LEAST_SIGMA * step:
            raise SettingError(
                f"clip_norm={clip:g}, noise_multiplier={z:g}: the noise of each of {least} owners has a standard deviation of "
                f"{stddev / step:.3g} steps of {step:.3g}, the finest that the aggregation sums exactly; {LEAST_SIGMA:g} are needed for a "
                "sum that is Gaussian: raise noise_multiplier or clip_norm, or lower the clip of the aggregation"
            )
        return Bound(clip, stddev, step)

    def noisy(self, sums: Weights, metrics: Mapping[str, float]) -> Weights:
        """As they are."""
        return sums

    def state(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing to do."""


class TreeNoise:
    """The noise of round t is N_t - N_{t-1}, N_t the sum of the noise of the nodes that make up rounds 1 to t."""

    def __init__(self, settings: TreeGaussian) -> None:
        self._clip, self._z = settings.clip_norm, settings.noise_multiplier
        self._noise = GaussianNoise()
        self.restart()

    def restart(self) -> None:
        """Begin an epoch."""
        self._leaves = 0
        self._nodes: dict[int, list[Any]] = {}

    def bound(self, size: int, least: int, resolution: float) -> Bound:
        """Clipping."""
        return Bound(self._clip)

    def noisy(self, sums: Weights, metrics: Mapping[str, float]) -> Weights:
        """See `Noising.noisy`."""
        grid = Grid.of(_sensitivity(self._clip, sums), self._z, sum(array.size for array in sums))
        sigma = math.ceil(grid.sigma)
        self._leaves += 1
        top = (self._leaves & -self._leaves).bit_length() - 1  # the node that is complete now; those below are in it
        gone = [self._nodes.pop(level) for level in range(top)]
        self._nodes[top] = [self._noise.discrete(array.shape, sigma) for array in sums]
        noisy: Weights = []
        for i, array in enumerate(sums):
            more = self._nodes[top][i] - sum(node[i] for node in gone)
            noisy.append((np.rint(array / grid.step) + more) * grid.step)
        return noisy

    def state(self) -> dict[str, float]:
        """Nothing: the noise of a tree is not written down, and a run that is resumed begins another."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Begin another tree."""
        self.restart()


def _sensitivity(clip: float, sums: list[Array]) -> float:
    """How far one owner can move the sum."""
    return clip + ROUNDING * math.sqrt(sum(array.size for array in sums))
