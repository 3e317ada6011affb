"""Canaries: examples of which a coin each decides whether they are trained on. Knows nothing of models and guesses."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import SettingError


@dataclass(frozen=True, eq=False, repr=False)
class Canaries:
    """Examples, and which of them are included in the training: each with probability 1/2, independently.

    Attributes:
        x: inputs, an array (m, ...) or a nest of such.
        y: targets, likewise.
        included: (m,) bool. Whoever computes scores may not know it.

    Example:
        >>> canaries = Canaries.mislabelled(x_spare, y_spare)
        >>> model.fit(*canaries.mix(x, y), batch_size=256, epochs=15)
        >>> print(one_run(loss_scores(model, canaries.x, canaries.y), canaries.included, delta=1e-5))

    References:
        Steinke, Nasr, Jagielski, 2023, arXiv:2305.08846, Algorithm 1.
    """

    x: Any
    y: Any
    included: NDArray[np.bool_]

    @classmethod
    def of(cls, x: Any, y: Any, *, seed: int | None = None) -> Canaries:
        """Take these examples as canaries; the better a model can remember one alone, the tighter the audit.

        Args:
            x: inputs (m, ...), or a nest of such arrays; not in the other training data.
            y: targets, likewise.
            seed: for tests only; by default the coins are the operating system's.

        Raises:
            SamplingRefused: not arrays, or of different lengths.
        """
        from privacy.examples import Examples, count  # noqa: PLC0415  imports TensorFlow

        x, y = Examples(x, y).take(slice(None))
        return cls(x, y, _coins(count(x), seed))

    @classmethod
    def mislabelled(cls, x: Any, y: Any, *, classes: int | None = None, seed: int | None = None) -> Canaries:
        """Real examples with a wrong label each, drawn from the other classes: only a model that saw one will believe it.

        Args:
            x: inputs (m, ...), or a nest of such arrays; not in the other training data, where the right label would work against it.
            y: the right labels: integers (m,) or (m, 1), or one-hot (m, classes).
            classes: how many there are; by default 1 + the largest label, or the width of one-hot labels.
            seed: for tests only.

        Raises:
            SettingError: the labels are neither, or there are less than two classes.
            SamplingRefused: as for `of`.
        """
        return cls.of(x, _wrong(np.asarray(y), classes, _generator(seed)), seed=seed)

    @classmethod
    def noise(cls, x: Any, y: Any, *, count: int, seed: int | None = None) -> Canaries:
        """Draw inputs of Gaussian noise with the mean and standard deviation of `x`, with labels drawn from `y`.

        Needs no examples to spare; in many dimensions the canaries are nearly orthogonal, so that one hardly stands in for another.

        Args:
            x: one array of numbers (N, ...) to resemble.
            y: an array (N, ...) of targets to draw from.
            count: m.
            seed: for tests only.

        Raises:
            SettingError: count is below 1, or x holds no numbers.
        """
        x, y = np.asarray(x), np.asarray(y)
        if count < 1 or not np.issubdtype(x.dtype, np.floating) or not len(y):
            raise SettingError(
                f"{count} canaries like {x.dtype}{x.shape} and {len(y)} labels: at least one each, and floating point, is needed"
            )
        draw = _generator(seed)
        inputs = (x.mean() + x.std() * draw.standard_normal((count, *x.shape[1:]))).astype(x.dtype)
        return cls.of(inputs, y[draw.integers(0, len(y), count)], seed=seed)

    def __len__(self) -> int:
        return len(self.included)

    def __repr__(self) -> str:
        return f"<{len(self)} canaries>"  # the coins stay secret

    def mix(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Training data: these examples, then the included canaries.

        Args:
            x: an array (N, ...), or a nest of such, shaped as the canaries'.
            y: the targets, likewise.

        Raises:
            SettingError: the canaries have other shapes.
            SamplingRefused: not arrays, or of different lengths.
        """
        import tensorflow as tf  # noqa: PLC0415  takes seconds

        from privacy.examples import Examples  # noqa: PLC0415  imports TensorFlow

        ours, theirs = Examples(self.x, self.y).take(self.included), Examples(x, y).take(slice(None))
        try:
            mixed: tuple[Any, Any] = tf.nest.map_structure(lambda *parts: np.concatenate(parts), theirs, ours)
        except (ValueError, TypeError) as problem:
            raise SettingError(f"the canaries do not have the shapes of the examples: {problem}") from None
        return mixed


def _generator(seed: int | None) -> np.random.Generator:
    return np.random.default_rng(secrets.randbits(128) if seed is None else [seed, 1])


def _coins(count: int, seed: int | None) -> NDArray[np.bool_]:
    """(count,) bool, each true with probability 1/2."""
    if seed is not None:
        return np.random.default_rng([seed, 2]).random(count) < 0.5
    return np.unpackbits(np.frombuffer(secrets.token_bytes(-(-count // 8)), np.uint8), count=count).astype(bool)


def _wrong(y: NDArray[Any], classes: int | None, draw: np.random.Generator) -> NDArray[Any]:
    """Labels like `y`, each uniform among the other classes."""
    one_hot = y.ndim == 2 and y.shape[1] > 1
    if not one_hot and not (y.ndim in (1, 2) and np.issubdtype(y.dtype, np.integer) and y.size):
        raise SettingError(f"labels are {y.dtype}{y.shape}: integers (m,) or one-hot (m, classes) are needed to give wrong ones")
    labels = y.argmax(axis=1) if one_hot else y
    classes = y.shape[1] if one_hot else classes or int(y.max()) + 1
    if classes < 2 or labels.max() >= classes:
        raise SettingError(f"{classes} classes for labels up to {labels.max()}: at least two, and above every label, are needed")
    wrong = (labels + draw.integers(1, classes, labels.shape)) % classes
    given: NDArray[Any] = (np.eye(classes)[wrong] if one_hot else wrong).astype(y.dtype)
    return given
