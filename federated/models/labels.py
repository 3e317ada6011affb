"""Made-up labels for outputs of a model, in the forms that losses and metrics of Keras take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from federated.tasks.update import Array

Labels = Callable[[np.random.Generator, Array], Array]
"""Makes labels for outputs (n, ...)."""


def like(rng: np.random.Generator, outputs: Array) -> Array:
    """Return labels of the shape of the outputs, float32: one of several numbers at 1, or 0 and 1 where there is one number."""
    width = outputs.shape[-1] if outputs.ndim > 1 else 1
    if width == 1:
        return rng.integers(0, 2, outputs.shape).astype(np.float32)
    one_hot: Array = np.eye(width, dtype=np.float32)[rng.integers(0, width, outputs.shape[:-1])]
    return one_hot


def classes(rng: np.random.Generator, outputs: Array, count: int | None = None) -> Array:
    """Return numbers of classes below `count` (None: the width of the outputs, 2 at least), without their last axis."""
    return rng.integers(0, count or max(2, outputs.shape[-1]), outputs.shape[:-1])


def classes_in_columns(rng: np.random.Generator, outputs: Array, count: int | None = None) -> Array:
    """Return the same with a last axis of length 1."""
    return classes(rng, outputs, count)[..., None]
