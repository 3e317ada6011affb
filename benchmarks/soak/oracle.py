"""The model that is served, its answers in the clear, and what each client asks in each of its queries.

NumPy only: clients' processes need no Keras. Knows nothing of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FEATURES = 12
UNITS = 16
CLASSES = 4
BOUND = 0.001
"""How far an answer in fixed point may be from the one in float64. Answers of different inputs are farther apart, see `question`."""


@dataclass(frozen=True)
class Oracle:
    """Dense(16), ReLU, Dense(4), as weights in the order of Keras."""

    weights: tuple[npt.NDArray[np.float64], ...]

    @staticmethod
    def drawn(seed: int) -> Oracle:
        """Draw weights as large as those of Keras' own initializer."""
        draw = np.random.default_rng(seed)
        first, second = draw.uniform(-0.46, 0.46, (FEATURES, UNITS)), draw.uniform(-0.55, 0.55, (UNITS, CLASSES))
        return Oracle((first, draw.uniform(-0.1, 0.1, UNITS), second, draw.uniform(-0.1, 0.1, CLASSES)))

    @staticmethod
    def load(path: Path) -> Oracle:
        """Read what `save` wrote."""
        with np.load(path) as found:
            return Oracle(tuple(found[name] for name in sorted(found.files)))

    def save(self, path: Path) -> None:
        """Write the weights for the clients."""
        np.savez(path, *self.weights)

    def answer(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return (n, 4) outputs of (n, 12) inputs."""
        first, bias, second, last = self.weights
        answered: npt.NDArray[np.float64] = np.maximum(x @ first + bias, 0) @ second + last
        return answered


def question(seed: int, client: int, number: int) -> npt.NDArray[np.float64]:
    """Return the input of a client's query of this number, (1 to 4, 12) in [0, 1]; no two are the same."""
    draw = np.random.default_rng([seed, client, number])
    return draw.uniform(size=(1 + number % 4, FEATURES))
