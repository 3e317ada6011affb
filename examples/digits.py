"""The handwritten digits that the examples share: the first 10,000 images of MNIST (see README.md for the credit)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FILE = Path(__file__).parent / "mnist_10k.npz"


class Digits(NamedTuple):
    """Images (n, 28, 28, 1) float32 from 0 to 1, labels (n,) from 0 to 9."""

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


def load() -> Digits:
    """8,000 images to train on and 2,000 to test with."""
    with np.load(FILE) as file:
        x_train, x_test = (file[name][..., None].astype(np.float32) / 255 for name in ("x_train", "x_test"))
        return Digits(x_train, file["y_train"].astype(np.int64), x_test, file["y_test"].astype(np.int64))
