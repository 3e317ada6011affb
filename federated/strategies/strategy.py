"""What a strategy is: frozen settings, and a pure step from the old global weights to the new ones. Write your own by subclassing."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from federated.errors import SettingError, StepFailed
from federated.strategies.updates import Asked, Named, Updates
from federated.tasks.update import TAKEN, Array, LocalTraining, Setting, Weights

log = logging.getLogger(__name__)

State = dict[str, Weights]
"""What a strategy remembers between rounds: name -> float64 arrays, of any shapes."""


@dataclass(frozen=True, kw_only=True)
class Strategy(abc.ABC):
    """Who trains, how, and what the owners' updates do to the global weights.

    Args:
        fraction: of the owners that are asked each round, in (0, 1], halves rounded up; at least one is.
        local_epochs: passes over its data that each makes, at least 1. Each round begins with a fresh optimizer, and has to have a step of
            it: with `gradient_accumulation_steps=k` an owner has to have k batches in a round, and gradients that are left over when a
            round ends make no step (the owner's log says so).
        batch_size: examples a local step, at least 1; None for all in one step.

    Attributes:
        single_updates: False: `step` gets means over the owners only. True: it needs the single updates, too; then an aggregation that
            hides them cannot be used.
        bounds: whether updates may be clipped, and have noise, as privacy for owners does.
        alike: whether owners count alike, whatever their numbers of examples are. The metrics that they tell are averaged alike, too.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class HalfWay(Strategy):
        ...     def step(self, round, weights, updates, state):
        ...         return [(x + d / 2).astype(x.dtype) for x, d in zip(weights, updates.mean, strict=True)], state
    """

    single_updates: ClassVar[bool] = False
    alike: ClassVar[bool] = False
    bounds: ClassVar[bool] = True

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
        """Return what owners are told about how to train."""
        return LocalTraining(epochs=self.local_epochs, batch_size=self.batch_size, alike=self.alike)

    def config(self, round: int) -> Mapping[str, Setting]:
        """Return what the owners' own trainers are told in a round, beside what `OwnTrainer.train` lists; by default nothing.

        Owners that train with Keras refuse it: nothing would follow it.

        Args:
            round: from 1 on.
        """
        return {}

    def said(self, number: int) -> dict[str, Setting]:
        """Return `config`, checked.

        Raises:
            SettingError: it has a name that is taken, or something else than numbers, texts, truth values and None.
        """
        return checked_config(f"{type(self).__name__}.config", self.config(number))

    def plan(self, round: int, present: Sequence[str], state: State) -> Mapping[str, Asked] | None:
        """Return whom to ask in a round, and what each; None, as by default: a sample of `fraction` of the owners, all alike.

        What owners are asked beside `config(round)` and `arrays(round, state)` is in the `Asked` of each. Where updates are summed hidden
        from everybody, all have to be asked the same.

        Args:
            round: from 1 on.
            present: names of the owners that can be asked.
            state: as the last step gave it.
        """
        return None

    def arrays(self, round: int, state: State) -> Named:
        """Return what owners are given beside the weights, by name: float arrays; by default nothing.

        A trainer of the owner's own finds each list in its `config`, by its name.

        Args:
            round: from 1 on.
            state: as the last step gave it.
        """
        return {}

    def extra(self, weights: Weights) -> Named:
        """Return, by name, float arrays of the shapes and dtypes of what owners give beside their updates; by default nothing.

        It is averaged, summed hidden from everybody, clipped and given noise together with the update, as if it were more of it.

        Args:
            weights: that the strategy steps.
        """
        return {}

    def initial(self, weights: Weights) -> State:
        """Return the state before the first round."""
        return {}

    @abc.abstractmethod
    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Make one step of the server. Pure: it changes none of its arguments.

        Args:
            round: from 1 on.
            weights: the global ones, float32 or float64.
            updates: what owners have added to these in training, and gave beside.
            state: as the last step gave it.

        Returns:
            The new global weights, same shapes and dtypes, finite; the new state. Float64 for float32 is rounded.
        """


def checked_config(said: str, config: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return what owners' trainers are told.

    Args:
        said: who says it, for the error.
        config: what.

    Raises:
        SettingError: it has a name that is taken, or something else than numbers, texts, truth values and None.
    """
    found = dict(config)
    for name, value in found.items():
        if name in TAKEN or not isinstance(name, str) or not isinstance(value, (bool, int, float, str, type(None))):
            raise SettingError(
                f"{said} says {name!r} as a {type(value).__name__}: numbers, texts, truth values and None are "
                f"possible, by other names than {', '.join(TAKEN)}"
            )
    return found


def step_of(
    strategy: Strategy, round: int, weights: Weights, updates: Updates, state: State, *, names: Sequence[str] = ()
) -> tuple[Weights, State]:
    """Make one step of a strategy that may be anybody's, see `Strategy.step`.

    Args:
        strategy: whose step it is.
        round: see there.
        weights: see there.
        updates: see there.
        state: see there.
        names: of the weights, for messages; none: they are told by number.

    Raises:
        StepFailed: naming the strategy, and the weight: it raised something, whose text is in the log, or gave something else than a state
            and as many arrays of the same shapes and dtypes.
    """
    name = f"{type(strategy).__name__}.step"
    try:
        given = strategy.step(round, weights, updates, state)
    except SettingError as error:  # of a strategy of this library
        raise StepFailed(f"{name} failed: {error}") from error
    except Exception as error:
        log.exception("%s failed", name)
        raise StepFailed(f"{name} raised {type(error).__name__}: see the log of the aggregator, and mend the strategy") from error
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], (list, tuple)) or not isinstance(given[1], dict):
        raise StepFailed(f"{name} gave a {type(given).__name__}: a tuple is expected, the list of new weights and the new state, a dict")
    if len(given[0]) != len(weights):
        raise StepFailed(f"{name} gave {len(given[0])} arrays: {len(weights)} are expected, one for each that it was given")
    labels = [repr(one) for one in names] or [str(i) for i in range(len(weights))]
    return [_fitting(f"{name} gave weight {one}", *pair) for one, *pair in zip(labels, given[0], weights, strict=True)], given[1]


def _fitting(said: str, given: Any, before: Array) -> Array:
    """Return a new weight in the dtype of the old one; whether its values are finite then is not looked at.

    Raises:
        StepFailed: it is no array of numbers, has another shape, or a dtype that cannot hold what the old one does.
    """
    try:
        array = np.asarray(given)
    except Exception as error:  # whatever the class of somebody else raises
        raise StepFailed(f"{said} as a {type(given).__name__} that makes no array of numbers") from error
    if array.shape != before.shape or array.dtype.kind != "f" or array.dtype.itemsize < before.dtype.itemsize:
        raise StepFailed(f"{said} as {array.dtype} {array.shape}: {before.dtype} {before.shape} is expected, as it was given")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(before.dtype, copy=False)


def check(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a setting.

    Raises:
        SettingError: it does not hold.
    """
    if not holds:
        raise SettingError(f"{name}={value}: it has to be {expected}")
