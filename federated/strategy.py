"""What a strategy is: frozen settings, and a pure step from the old global weights to the new ones. Write your own by subclassing."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from federated.errors import SettingError
from federated.update import LocalTraining, Weights

State = dict[str, Weights]
"""What a strategy remembers between rounds: name -> float64 arrays shaped as the weights."""


@dataclass(frozen=True, kw_only=True)
class Strategy(abc.ABC):
    """Who trains, how, and what the owners' updates do to the global weights.

    Args:
        fraction: of the owners that are asked each round, in (0, 1]; at least one is.
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


def check(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuses a setting.

    Raises:
        SettingError: it does not hold.
    """
    if not holds:
        raise SettingError(f"{name}={value}: it has to be {expected}")
