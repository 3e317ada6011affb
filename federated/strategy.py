"""What a strategy is: frozen settings, and a pure step from the old global weights to the new ones. Write your own by subclassing."""

from __future__ import annotations

import abc
import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from federated.errors import SettingError, StepFailed
from federated.update import LocalTraining, Weights

log = logging.getLogger(__name__)

State = dict[str, Weights]
"""What a strategy remembers between rounds: name -> float64 arrays shaped as the weights."""


@dataclass(frozen=True, kw_only=True)
class Strategy(abc.ABC):
    """Who trains, how, and what the owners' updates do to the global weights.

    Args:
        fraction: of the owners that are asked each round, in (0, 1], halves rounded up; at least one is.
        local_epochs: passes over its data that each makes, at least 1.
        batch_size: examples a local step, at least 1; None for all in one step.

    Attributes:
        single_updates: False: `step` gets the mean over the owners, each array of it shaped as the global one. True: it needs the single
            updates; each array has one more axis in front, the owners. Then an aggregation that hides them cannot be used.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class HalfWay(Strategy):
        ...     def step(self, weights, delta, state):
        ...         return [(x + d / 2).astype(x.dtype) for x, d in zip(weights, delta, strict=True)], state
    """

    single_updates: ClassVar[bool] = False

    fraction: float = 1.0
    local_epochs: int = 1
    batch_size: int | None = 32

    def __post_init__(self) -> None:
        check("fraction", self.fraction, 0.0 < self.fraction <= 1.0, "in (0, 1]")
        check("local_epochs", self.local_epochs, self.local_epochs >= 1, "at least 1")
        check("batch_size", self.batch_size, self.batch_size is None or self.batch_size >= 1, "at least 1, or None")

    @property
    def least_updates(self) -> int:
        """How many updates `step` needs at least."""
        return 1

    def local_training(self) -> LocalTraining:
        """What owners are told about how to train."""
        return LocalTraining(epochs=self.local_epochs, batch_size=self.batch_size)

    def initial(self, weights: Weights) -> State:
        """The state before the first round."""
        return {}

    @abc.abstractmethod
    def step(self, weights: Weights, delta: Weights, state: State) -> tuple[Weights, State]:
        """One step of the server. Pure: it changes none of its arguments.

        Args:
            weights: the global ones, float32 or float64.
            delta: what owners have added to these in training: the mean of it or all of it (`single_updates`), float64.
            state: as the last step gave it.

        Returns:
            The new global weights, same shapes and dtypes; the new state.
        """


def step_of(strategy: Strategy, weights: Weights, delta: Weights, state: State) -> tuple[Weights, State]:
    """One step of a strategy that may be anybody's, see `Strategy.step`.

    Raises:
        StepFailed: naming the strategy: it raised something, whose text is in the log, or gave something else than arrays and a state.
    """
    name = f"{type(strategy).__name__}.step"
    try:
        given = strategy.step(weights, delta, state)
    except SettingError as error:  # of a strategy of this library
        raise StepFailed(f"{name} failed: {error}") from error
    except Exception as error:
        log.exception("%s failed", name)
        raise StepFailed(f"{name} raised {type(error).__name__}: see the log of the aggregator, and mend the strategy") from error
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], (list, tuple)) or not isinstance(given[1], dict):
        raise StepFailed(f"{name} gave a {type(given).__name__}: a tuple is expected, the list of new weights and the new state, a dict")
    if len(given[0]) != len(weights):
        raise StepFailed(f"{name} gave {len(given[0])} arrays: {len(weights)} are expected, one for each that it was given")
    stepped = [np.asarray(array) for array in given[0]]
    odd = next((array.dtype for array in stepped if array.dtype.kind not in "fiub"), None)
    if odd is not None:
        raise StepFailed(f"{name} gave an array of {odd}: numbers are expected")
    return stepped, given[1]


def check(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuses a setting.

    Raises:
        SettingError: it does not hold.
    """
    if not holds:
        raise SettingError(f"{name}={value}: it has to be {expected}")
