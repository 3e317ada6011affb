"""What is done to updates before they are released, as settings: how they are clipped, how much noise they get, what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.errors import SettingError

if TYPE_CHECKING:
    import dp_accounting


@dataclass(frozen=True, kw_only=True)
class ClippedGaussian:
    """Each owner's update is clipped to an L2 norm, and Gaussian noise in proportion is added.

    Neighbours are two federations of which one has one owner more. What is bounded is what an owner's whole data can change.

    Args:
        clip_norm: S, the largest L2 norm of an update over all its arrays, above 0.
        noise_multiplier: z, standard deviation of the noise over S, above 0.
        max_epsilon: no round is played that would spend more than this; None: no limit.
        delta: at which epsilon is told, in (0, 1).
    """

    clip_norm: float
    noise_multiplier: float
    max_epsilon: float | None = None
    delta: float = 1e-5

    def __post_init__(self) -> None:
        _check("clip_norm", self.clip_norm, 0.0 < self.clip_norm < math.inf, "above 0 and finite")
        _check("noise_multiplier", self.noise_multiplier, 0.0 < self.noise_multiplier < math.inf, "above 0 and finite")
        _check("max_epsilon", self.max_epsilon, self.max_epsilon is None or self.max_epsilon > 0.0, "above 0, or None")
        _check("delta", self.delta, 0.0 < self.delta < 1.0, "in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class CentralGaussian(ClippedGaussian):
    """DP-FedAvg: the aggregator adds the noise to the sum of the clipped updates.

    x_{t+1} = x_t + (sum_i min(1, S / ||Delta_i||) Delta_i + N(0, z^2 S^2 I)) / (q N)

    where each of N owners takes part with probability q, independently. The aggregator is trusted with the sum, and to add the noise.

    References:
        McMahan et al., 2018, arXiv:1710.06963, Algorithm 1, with the estimator of fixed denominator.

    Example:
        >>> CentralGaussian(clip_norm=1.0, noise_multiplier=1.1, max_epsilon=4.0, delta=1e-5)
        CentralGaussian(clip_norm=1.0, noise_multiplier=1.1, max_epsilon=4.0, delta=1e-05)
    """

    def event(self, fraction: float) -> dp_accounting.DpEvent:
        """Of one round in which owners take part with probability `fraction`."""
        import dp_accounting  # noqa: PLC0415  takes a second

        return dp_accounting.PoissonSampledDpEvent(fraction, dp_accounting.GaussianDpEvent(self.noise_multiplier))


@dataclass(frozen=True, kw_only=True)
class LocalGaussian(ClippedGaussian):
    """Each owner adds the noise itself, so that nobody has to be trusted with its update; the mean of n updates has noise z S / sqrt(n).

    Epsilon is that of one owner that takes part in every round, against somebody who sees its updates: sampling does not help there.

    References:
        Kasiviswanathan et al., 2011, arXiv:0803.0924 (local model); Dwork and Roth, 2014, Theorem A.1 (the Gaussian mechanism).
    """

    def event(self, fraction: float) -> dp_accounting.DpEvent:
        """Of one update; `fraction` makes no difference."""
        import dp_accounting  # noqa: PLC0415  takes a second

        return dp_accounting.GaussianDpEvent(self.noise_multiplier)


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise SettingError(f"{name}={value}: it has to be {expected}")
