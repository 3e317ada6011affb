"""What is done to updates before they are released, as settings: how they are clipped, how much noise they get, what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.clipping import AdaptiveClipping
from privacy.errors import SettingError

if TYPE_CHECKING:
    import dp_accounting


@dataclass(frozen=True, kw_only=True)
class ClippedGaussian:
    """Each owner's update is clipped to an L2 norm, and Gaussian noise in proportion is added.

    What is bounded is what an owner's whole data can change. Which federations are neighbours each mechanism says itself. For all but
    `LocalGaussian` it is **zero-out**: the same N owners, but that one of them gives an update of zeros wherever it takes part (Kairouz et
    al., 2021, arXiv:2103.00039, Definition 1.1). N, the names of the owners, and settings are public.

    Only weights that are trained are clipped and get noise. The others come out as they were: frozen ones did not change, and a model
    whose training changes others, as BatchNormalization does, is refused.

    Args:
        clip_norm: S, the largest L2 norm of an update over all its arrays that are trained, above 0.
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

    def events(self, fraction: float, rounds: int) -> list[tuple[dp_accounting.DpEvent, int]]:
        """List what so many rounds release, each event with its count.

        Args:
            fraction: q, with which each owner takes part in a round.
            rounds: at least 1, since the last restart, where the mechanism has one.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class CentralGaussian(ClippedGaussian):
    """DP-FedAvg: the aggregator adds the noise to the sum of the clipped updates.

    x_{t+1} = x_t + (sum_i min(1, S / ||Delta_i||) Delta_i + N(0, z^2 S^2 I)) / (q N)

    where each of N owners takes part with probability q, independently. The aggregator is trusted with the sum, and to add the noise.

    Neighbours: zero-out, which moves the sum of a round by at most S, and not at all unless the owner takes part. For somebody who sees the
    models and does not know who took part.

    Args:
        clipping: None: S stays as it is. `AdaptiveClipping()`: S follows a quantile of the norms, of which `clip_norm` is the first guess;
            owners then add whether they were clipped, and the noise pays for that, too. Its batch size is the expected number of owners.

    References:
        McMahan et al., 2018, arXiv:1710.06963, Algorithm 1, with the estimator of fixed denominator. Andrew et al., 2021,
        arXiv:1905.03871, Algorithm 1, for the clipping.

    Example:
        >>> CentralGaussian(clip_norm=1.0, noise_multiplier=1.1, max_epsilon=4.0, delta=1e-5)
        CentralGaussian(clip_norm=1.0, noise_multiplier=1.1, max_epsilon=4.0, delta=1e-05, clipping=None)
    """

    clipping: AdaptiveClipping | None = None

    def events(self, fraction: float, rounds: int) -> list[tuple[dp_accounting.DpEvent, int]]:
        """Return the Gaussian mechanism on a Poisson sample, each round."""
        import dp_accounting  # noqa: PLC0415  takes a second

        return [(dp_accounting.PoissonSampledDpEvent(fraction, dp_accounting.GaussianDpEvent(self.noise_multiplier)), rounds)]


@dataclass(frozen=True, kw_only=True)
class LocalGaussian(ClippedGaussian):
    """Each owner adds the noise itself, so that nobody has to be trusted with its update; the mean of n updates has noise z S / sqrt(n).

    Neighbours: any two data sets of one owner, which moves its update by up to 2 S (the local model). So epsilon is that of the Gaussian
    mechanism with noise multiplier z / 2, of one owner that takes part in every round, against somebody who sees its updates and knows that
    they are its own: neither sampling nor the number of owners helps there. That an owner takes part is not hidden.

    References:
        Kasiviswanathan et al., 2011, arXiv:0803.0924 (local model); Dwork and Roth, 2014, Theorem A.1 (the Gaussian mechanism).
    """

    def events(self, fraction: float, rounds: int) -> list[tuple[dp_accounting.DpEvent, int]]:
        """Return the Gaussian mechanism of sensitivity 2 S, each round; `fraction` makes no difference."""
        import dp_accounting  # noqa: PLC0415  takes a second

        return [(dp_accounting.GaussianDpEvent(self.noise_multiplier / 2), rounds)]


@dataclass(frozen=True, kw_only=True)
class DistributedGaussian(ClippedGaussian):
    """Each owner adds a part of the noise, which is enough only in the sum: nobody ever sees a sum without noise, the aggregator included.

    With n' the least number of owners whose sum is opened, each rounds its clipped update to a grid and adds discrete Gaussian noise
    N_Z(0, z^2 S^2 / n'). The sum has at least N(0, z^2 S^2), more if more than n' take part, and with fewer the round ends before
    anything is opened. Needs an aggregation that hides single updates.

    Neighbours: zero-out, as for `CentralGaussian`, with whose accounting it shares all but one thing: the sum of discrete Gaussians is one
    but for tau = 10 sum_(k < n) exp(-2 pi^2 s^2 k / (k + 1)) (Theorem 1 below), where s is the standard deviation of each in steps of the
    grid. Rounds for which tau could be 2^-1000 or more are refused. Owners are believed to add their part; of n' owners of whom k do not,
    the rest adds up to sqrt(1 - k / n') of the standard deviation.

    References:
        Kairouz, Liu and Steinke, 2021, arXiv:2102.06387, Algorithm 1 and Theorem 1, without the rotation, which a grid this fine does
        not need.
    """

    def events(self, fraction: float, rounds: int) -> list[tuple[dp_accounting.DpEvent, int]]:
        """Return the Gaussian mechanism on a Poisson sample, each round."""
        import dp_accounting  # noqa: PLC0415  takes a second

        return [(dp_accounting.PoissonSampledDpEvent(fraction, dp_accounting.GaussianDpEvent(self.noise_multiplier)), rounds)]


@dataclass(frozen=True, kw_only=True)
class TreeGaussian(ClippedGaussian):
    """DP-FTRL: noise from a binary tree over the rounds, which adds up slowly, and nothing depends on who is sampled by chance.

    Each of the sums of rounds 1 to t gets the noise of the nodes of the binary number t, N(0, z^2 S^2) each, so log2(t) at most instead
    of t; what moves the model in round t is the difference of two such noisy sums. Owners take turns: each takes part once in an epoch,
    of 1 / fraction rounds, in an order that the seed gives; then the tree begins anew.

    Neighbours: zero-out, which moves one leaf of each epoch by at most S, and with it the nodes above. With an owner more instead, others
    would take other turns, and every sum could move: their number N is public. The aggregator is trusted with the sums, and to add the
    noise. It may be public who takes part when.

    References:
        Kairouz et al., 2021, arXiv:2103.00039, Algorithm 1 and Theorem 1, with restarts (section D.2); Dwork et al., 2010 (the tree).
    """

    def events(self, fraction: float, rounds: int) -> list[tuple[dp_accounting.DpEvent, int]]:
        """Of one epoch so far: an owner is in one leaf, and so in at most floor(log2(rounds)) + 1 nodes of the tree."""
        import dp_accounting  # noqa: PLC0415  takes a second

        return [(dp_accounting.GaussianDpEvent(self.noise_multiplier / math.sqrt(rounds.bit_length())), 1)]


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Each owner trains by DP-SGD on its own examples, so that its update tells little about any one of them, whoever sees it.

    Neighbours: zero-out of one example of one owner, whose gradients are zero then in every step that takes it; it moves the sum of such a
    step by at most C. Numbers of examples are public: they are the weights of the mean, and make the expected size of a batch. A step takes
    each example with probability `sampling_rate`, so that all owners spend the same in a round.

    Args:
        max_grad_norm: C, the largest L2 norm of an example's gradient, above 0.
        noise_multiplier: z, standard deviation of the noise over C, above 0.
        sampling_rate: q, in (0, 1]; an epoch has ceil(1 / q) steps. An owner needs at least 1 / q examples.
        max_epsilon: an owner that would spend more than this is asked no more; None: no limit.
        delta: at which epsilon is told, in (0, 1).

    References:
        Abadi et al., 2016, arXiv:1607.00133, Algorithm 1, in each owner.
    """

    max_grad_norm: float
    noise_multiplier: float
    sampling_rate: float = 0.1
    max_epsilon: float | None = None
    delta: float = 1e-5

    def __post_init__(self) -> None:
        _check("max_grad_norm", self.max_grad_norm, 0.0 < self.max_grad_norm < math.inf, "above 0 and finite")
        _check("noise_multiplier", self.noise_multiplier, 0.0 < self.noise_multiplier < math.inf, "above 0 and finite")
        _check("sampling_rate", self.sampling_rate, 0.0 < self.sampling_rate <= 1.0, "in (0, 1]")
        _check("max_epsilon", self.max_epsilon, self.max_epsilon is None or self.max_epsilon > 0.0, "above 0, or None")
        _check("delta", self.delta, 0.0 < self.delta < 1.0, "in (0, 1)")

    def events(self, epochs: int, rounds: int) -> list[tuple[dp_accounting.DpEvent, int]]:
        """Return what an owner releases in so many rounds of so many epochs each."""
        from privacy.plan import event  # noqa: PLC0415  dp-accounting takes a second

        return [(event(self.sampling_rate, self.noise_multiplier), rounds * epochs * math.ceil(1 / self.sampling_rate))]


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise SettingError(f"{name}={value}: it has to be {expected}")
