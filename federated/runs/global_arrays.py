"""The global model at the aggregator where it is no Keras model: arrays, which trainers of the owners' own know what to do with."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from federated.aggregation.aggregation import Aggregate
from federated.errors import ModelRefused, SettingError
from federated.metrics.layout import StateLayout
from federated.models.weights import Frozen, is_kept
from federated.rounds.outcome import Outcome
from federated.runs.moving import Moving
from federated.runs.protection import Protection
from federated.runs.run_folder import Checkpoint, Circumstances, digest_of
from federated.strategies.strategy import Strategy
from federated.tasks.base import BaseDigest
from federated.tasks.update import Array, Task, Weights


class GlobalArrays:
    """Arrays that are trained elsewhere.

    Args:
        arrays: the initial ones; float32, float64, or integers, which stay as they are, as those do that are `Frozen`.
        strategy: its steps.
        seed: of what owners do by chance.
        privacy: what is spent; None: none.
        mechanism: the settings of the privacy.

    Attributes:
        digest: of the form of the arrays, which are frozen, strategy, seed and privacy.
        trained: of each of them, whether rounds change it.
        weights: the arrays.
        state: what the strategy remembers.

    Raises:
        ModelRefused: there is none, or one that cannot be averaged.
    """

    scheduled = False

    def __init__(self, arrays: Sequence[Any], strategy: Strategy, seed: int, privacy: Protection | None, mechanism: object) -> None:
        frozen = [isinstance(one, Frozen) for one in arrays]
        self.weights: Weights = [_array(i, one.array if isinstance(one, Frozen) else one) for i, one in enumerate(arrays)]
        self.trained = tuple(not (still or is_kept(array.dtype)) for still, array in zip(frozen, self.weights, strict=True))
        if not any(self.trained):
            raise ModelRefused(f"the model has {len(self.weights)} arrays, and none of floats that is not frozen: no round would move it")
        self._strategy, self._seed, self._privacy = strategy, seed, privacy
        self._run, self._lineage = secrets.token_hex(16), secrets.token_hex(16)
        forms = [(array.shape, array.dtype.str, *(["frozen"] * still)) for still, array in zip(frozen, self.weights, strict=True)]
        self.digest = digest_of(hashlib.sha256(repr(forms).encode()).hexdigest(), strategy, seed, mechanism)
        self._base = BaseDigest()
        self._moving = Moving(strategy, self.weights, [str(i) for i in range(len(forms))], self.trained, self.trained)
        self.state = self._moving.initial(self.weights)

    @property
    def model(self) -> Any:
        """There is none.

        Raises:
            SettingError: always.
        """
        raise SettingError("this federation has arrays and no Keras model: use federation.weights")

    @property
    def layout(self) -> StateLayout:
        """Of states of metrics: there are none, and owners tell values."""
        return StateLayout()

    def results(self, states: Array, means: Mapping[str, float]) -> dict[str, float]:
        """Metrics by name."""
        return dict(means)

    def task(self, number: int, *, moved: int) -> Task:
        """Return what owners are asked in round `number`."""
        training = dataclasses.replace(self._strategy.local_training(), seed=self._seed)
        weights = [array.copy() for array in self.weights]
        said, given = self._strategy.said(number), self.arrays(number)
        names, which = (self._run, self._lineage), self.trained
        base = self._base.of(None, [array for array, travels in zip(weights, which, strict=True) if not travels])
        return Task(number, None, weights, training, *names, said, which, given, self._moving.extra, which, base)

    def arrays(self, number: int) -> dict[str, Weights]:
        """Return what owners are given beside the weights in round `number`, as the strategy remembers it now."""
        return self._moving.arrays(number, self.state)

    def planned(self, task: Task, present: Sequence[str]) -> dict[str, Task] | None:
        """Return what each owner is asked that the strategy chooses, see `Moving.planned`."""
        return self._moving.planned(task, present, self.state)

    def step(self, task: Task, aggregate: Aggregate, owners: int) -> None:
        """Move the arrays, see `Moving.step`.

        Raises:
            StepFailed: the arrays and the state stay as they were.
        """
        self.weights, self.state = self._moving.step(task, aggregate, owners, self.state)

    def checkpoint(
        self,
        history: Sequence[Outcome],
        callbacks: tuple[Mapping[str, Any], ...],
        *,
        stopped: bool,
        circumstances: Circumstances | None = None,
    ) -> Checkpoint:
        """All that the next round depends on."""
        privacy = self._privacy.state() if self._privacy else {}
        return Checkpoint(
            self.digest,
            [array.copy() for array in self.weights],
            self.state,
            tuple(history),
            None,
            callbacks,
            stopped,
            privacy,
            circumstances,
            lineage=self._lineage,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of arrays of the same form, and the same strategy."""
        self.weights, self.state = list(checkpoint.weights), checkpoint.state
        self._lineage = checkpoint.lineage or self._lineage
        if self._privacy is not None:
            self._privacy.restore(checkpoint.privacy)


def _array(i: int, one: Any) -> Array:
    try:
        array = np.array(one)
    except Exception:
        raise ModelRefused(f"array {i} of the model is a {type(one).__name__} that makes no array of numbers") from None
    if array.dtype not in (np.float32, np.float64) and not is_kept(array.dtype):
        raise ModelRefused(f"array {i} of the model is {array.dtype}: float32 and float64 can be averaged, and integers kept")
    if not np.isfinite(array).all():
        raise ModelRefused(f"array {i} of the model is not finite: finite initial values are needed")
    return array
