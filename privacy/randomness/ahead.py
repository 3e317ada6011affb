"""Noise that is made while the step before is computed: it depends on nothing but the size of the model and the scale."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from privacy.randomness import rounded_normal  # noqa: F401  loaded with the training, not in the first step

if TYPE_CHECKING:
    from privacy.randomness.noise import GaussianNoise


class NoiseAhead:
    """A thread that has the noise of the next step ready, if that has the scale of the last one. A context manager.

    Args:
        noise: where it comes from.
    """

    def __init__(self, noise: GaussianNoise) -> None:
        self._noise = noise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="privacy-noise")
        self._next: tuple[tuple[int, float], Future[NDArray[np.float32]]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, size: int, sigma: float) -> NDArray[np.float32]:
        """(size,) values of `GaussianNoise.rounded`, each given once; float32 holds them exactly for sigma up to 2^20."""
        wanted = (size, sigma)
        made = self._next[1].result() if self._next is not None and self._next[0] == wanted else self._make(*wanted)
        self._next = (wanted, self._thread.submit(self._make, *wanted))
        return made

    def _make(self, size: int, sigma: float) -> NDArray[np.float32]:
        return self._noise.rounded(size, sigma).astype(np.float32, copy=False)
