"""Secret Gaussian noise in whole steps of a grid, from AES-CTR keyed by the operating system."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import InsecureNoise
from privacy.randomness.discrete_gaussian import discrete_gaussian

ZEROS = 1 << 16
_ZEROS = bytes(ZEROS)
EXACT_IN_FLOAT32 = 1 << 20
"""Of this sigma values beyond 2^24 have a probability below 2^-180."""


class GaussianNoise:
    """Gaussian noise from AES-128-CTR under a key of the operating system.

    It comes in whole numbers. What it is added to is rounded to a grid first (`Grid`), so that the sum has no low bits that would tell
    the two apart, which is what breaks noise that is added in floating point.

    Args:
        seed: for simulations only: whoever knows it can take the noise off again. With it a warning `InsecureNoise` is given.

    References:
        Mironov, 2012, "On significance of the least significant bits for differential privacy".
    """

    def __init__(self, *, seed: int | None = None) -> None:
        if seed is not None:
            warnings.warn(f"noise from seed={seed} is no secret: for simulations only, nothing made with it is private", InsecureNoise, 2)
        self._begin(os.urandom(16) if seed is None else hashlib.sha256(f"{seed}".encode()).digest()[:16])

    def _begin(self, key: bytes) -> None:
        self._process, self._alone = os.getpid(), threading.Lock()
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def discrete(self, shape: int | tuple[int, ...], sigma: int) -> NDArray[np.int64]:
        """Independent values of the discrete Gaussian N_Z(0, sigma^2); 80 ns each.

        Args:
            shape: of the result.
            sigma: from 1 to 2^40.
        """
        return discrete_gaussian(self._words, int(np.prod(shape)), sigma).reshape(shape)

    def rounded(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.floating[Any]]:
        """N(0, sigma^2) rounded to whole numbers, exactly (`rounded_normal`); 8 ns each.

        Added to whole numbers it is the normal distribution, rounded afterwards: whatever holds for that holds for it, for any sigma.

        Args:
            shape: of the result.
            sigma: above 0.

        Returns:
            float32 up to sigma = 2^20, which holds all values that occur exactly, else float64.
        """
        from privacy.randomness.rounded_normal import rounded_normal  # noqa: PLC0415  the compiler behind it takes half a second and 130 MB

        out: NDArray[np.floating[Any]] = np.empty(int(np.prod(shape)), np.float32 if sigma <= EXACT_IN_FLOAT32 else np.float64)
        rounded_normal(self._words, out, sigma)
        return out.reshape(shape)

    def _words(self, count: int) -> NDArray[np.uint64]:
        if self._process != os.getpid():  # a fork has the parent's key stream: two sums with the same noise would tell their difference
            self._begin(os.urandom(16))
        words = np.empty(count, np.uint64)
        with self._alone:  # two threads in one cipher could get the same key stream
            for start in range(0, count, ZEROS // 8):
                part = words.data[start : start + ZEROS // 8].cast("B")
                self._encryptor.update_into(_ZEROS[: len(part)], part)
        return words


@dataclass(frozen=True)
class Grid:
    """What values are rounded to before they get noise, and how much noise they get.

    Attributes:
        step: between the values, a power of two.
        sigma: standard deviation of the noise, in steps.
    """

    step: float
    sigma: float

    @staticmethod
    def of(sensitivity: float, noise_multiplier: float, size: int, *, fineness: int = 12, most: int = 40) -> Grid:
        """sigma = z (S + step sqrt(d)) / step: rounding can move a sum of d values by sqrt(d) steps more than S, and noise pays for it.

        Args:
            sensitivity: S, the L2 norm by which one party can move the sum, above 0.
            noise_multiplier: z, above 0.
            size: d, how many values there are.
            fineness: rounding costs at most S / 2^fineness, unless `most` is in the way.
            most: sigma is at most about 2^most + z sqrt(d).
        """
        root = math.sqrt(max(1, size))
        finest = math.floor(math.log2(sensitivity / root) - fineness)
        step = 2.0 ** max(finest, math.ceil(math.log2(noise_multiplier * sensitivity) - most))
        return Grid(step, noise_multiplier * (sensitivity / step + root))


def noisy_sum(
    noise: GaussianNoise, sums: list[NDArray[np.floating[Any]]], *, sensitivity: float, noise_multiplier: float
) -> list[NDArray[np.float64]]:
    """Apply the Gaussian mechanism: round each value to a grid, and add discrete Gaussian noise.

    Args:
        noise: where it comes from.
        sums: arrays, float32 or float64, that one party can change by at most `sensitivity` in all.
        sensitivity: S, an L2 norm.
        noise_multiplier: z; the standard deviation is z S, and a little more for the rounding.
    """
    grid = Grid.of(sensitivity, noise_multiplier, sum(array.size for array in sums))
    sigma = math.ceil(grid.sigma)
    return [(np.rint(array / grid.step) + noise.discrete(array.shape, sigma)) * grid.step for array in sums]
