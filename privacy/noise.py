"""Secret Gaussian noise from AES-CTR keyed by the operating system."""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray


class GaussianNoise:
    """Normal values from AES-128-CTR under a key of the operating system."""

    def __init__(self) -> None:
        self._encryptor = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(bytes(16))).encryptor()

    def normal(self, shape: int | tuple[int, ...], stddev: float) -> NDArray[np.float32]:
        """Independent N(0, stddev^2), float32, by Box and Muller."""
        size = int(np.prod(shape))
        half = (size + 1) // 2
        words = np.frombuffer(self._encryptor.update(bytes(8 * half)), np.uint32)
        u = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
        radius = np.sqrt(np.float32(-2.0) * np.log(u[:half])) * np.float32(stddev)
        angle = u[half:] * np.float32(2 * np.pi)
        out = np.empty(2 * half, np.float32)
        np.multiply(radius, np.cos(angle), out=out[:half])
        np.multiply(radius, np.sin(angle), out=out[half:])
        return out[:size].reshape(shape)
