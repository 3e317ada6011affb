"""Clipping: how much one example may move the sum of gradients.

Each rule gives weights w with w_i ||g_i|| bounded, from the norms of the per-example gradients of all layers. C bounds what one example
adds to the sum, over all layers together: the L2 sensitivity for adding or removing one example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from privacy.errors import SettingError

Tensor = Any  # tf.Tensor; TensorFlow has no types


class Clipping(Protocol):
    """Weights of the examples, one vector a layer, from squared norms."""

    def weights(self, squared_norms: list[Tensor], clip: Tensor) -> list[Tensor]:
        """For squared norms (B,) of each layer and C: w (B,) for each layer, 0 <= w, with sum_l w_l^2 ||g_l||^2 <= C^2."""


@dataclass(frozen=True)
class FlatClipping:
    """One norm over all layers: w_i = min(1, C / ||g_i||).

    References:
        Abadi et al., 2016, arXiv:1607.00133, Algorithm 1.
    """

    def weights(self, squared_norms: list[Tensor], clip: Tensor) -> list[Tensor]:
        """Return the same w for every layer."""
        import tensorflow as tf  # noqa: PLC0415  takes seconds, and only training needs it

        return [_weight(tf.add_n(squared_norms), clip)] * len(squared_norms)


@dataclass(frozen=True)
class PerLayerClipping:
    """One norm for each of L layers: w_il = min(1, C / (sqrt(L) ||g_il||)).

    References:
        McMahan et al., 2018, arXiv:1710.06963, section 3.
    """

    def weights(self, squared_norms: list[Tensor], clip: Tensor) -> list[Tensor]:
        """Each layer by its own norm, at C / sqrt(L)."""
        share = clip / math.sqrt(len(squared_norms))
        return [_weight(squared, share) for squared in squared_norms]


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping(FlatClipping):
    """Flat clipping at a quantile of the norms, which is tracked privately.

    C <- C exp(-eta (b - gamma)),  b = 1/2 + (sum_i (1[||g_i|| <= C] - 1/2) + N(0, sigma_b^2)) / B

    with the sum over the sampled examples and B the expected size of the batch. The sum has sensitivity 1/2; to pay for it the gradients
    get more noise, z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2), so that both together cost what the noise multiplier z alone would.

    Args:
        quantile: gamma, in (0, 1): the part of the examples that is not clipped.
        learning_rate: eta, above 0.
        count_noise: sigma_b, above 0; None is B / 20. It must exceed z / 2.

    References:
        Andrew et al., 2021, arXiv:1905.03871, Algorithm 1 and Theorem 1.
    """

    quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.quantile < 1.0:
            raise SettingError(f"quantile is {self.quantile}: between 0 and 1 is needed")
        if not 0.0 < self.learning_rate < math.inf:
            raise SettingError(f"learning_rate is {self.learning_rate}: above 0 is needed")
        if self.count_noise is not None and not 0.0 < self.count_noise < math.inf:
            raise SettingError(f"count_noise is {self.count_noise}: above 0 is needed")

    def stddev(self, batch_size: float) -> float:
        """sigma_b for an expected batch of `batch_size`."""
        return batch_size / 20 if self.count_noise is None else self.count_noise

    def gradient_multiplier(self, noise_multiplier: float, batch_size: float) -> float:
        """z_Delta, by Theorem 1.

        Raises:
            SettingError: sigma_b is so small that the count alone costs more than z allows.
        """
        sigma_b = self.stddev(batch_size)
        if 2 * sigma_b <= noise_multiplier:
            raise SettingError(
                f"the count of clipped gradients has noise {sigma_b}: above noise_multiplier / 2 = {noise_multiplier / 2} is needed"
            )
        return float((noise_multiplier**-2 - (2 * sigma_b) ** -2) ** -0.5)

    def next_clip(self, clip: float, noisy_sum: float, batch_size: float) -> float:
        """C for the next step, from sum_i (1[not clipped] - 1/2) with its noise."""
        b = 0.5 + noisy_sum / batch_size
        return float(clip * math.exp(-self.learning_rate * (b - self.quantile)))


def _weight(squared: Tensor, clip: Tensor) -> Tensor:
    """min(1, C / norm), never above C / norm by rounding, and 0 where the norm is not finite."""
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only training needs it

    inside = clip * tf.math.rsqrt(tf.maximum(squared, 1e-30)) * (1.0 - 1e-6)
    return tf.where(tf.math.is_finite(squared), tf.minimum(1.0, inside), 0.0)
