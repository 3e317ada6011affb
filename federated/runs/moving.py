"""How the global weights move: those that a strategy steps, those that become the mean of the owners', and those that stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from federated.aggregation.aggregation import Aggregate
from federated.errors import SettingError, StepFailed
from federated.strategies.averaging import moved
from federated.strategies.strategy import State, Strategy, checked_config, step_of
from federated.strategies.updates import Asked, Named, OwnerUpdate, Updates
from federated.tasks.update import TAKEN, Array, Extra, Task, Weights


class Moving:
    """One strategy, on weights of which it steps some.

    Args:
        strategy: its steps.
        weights: of the shapes and dtypes of all of them.
        names: of each, for messages.
        trained: of each, whether it is trained.
        sent: of each, whether it is in updates. Those that are and are not trained become the mean of the owners'; a strategy that needs
            single updates gets them all. The others stay as they are.
        constrain: changes new weights to what they may be, in place.

    Attributes:
        extra: what owners are asked for beside their updates.

    Raises:
        SettingError: what the strategy asks for beside is no arrays of floats, by other names than those that are taken.
    """

    def __init__(
        self,
        strategy: Strategy,
        weights: Weights,
        names: Sequence[str],
        trained: Sequence[bool],
        sent: Sequence[bool],
        constrain: Callable[[Weights], None] = lambda _: None,
    ) -> None:
        self._strategy, self._names, self._constrain = strategy, names, constrain
        self._sent = [i for i, travels in enumerate(sent) if travels]
        self._stepped = [i for i in self._sent if strategy.single_updates or trained[i]]
        self._averaged = sorted(set(self._sent) - set(self._stepped))
        asked = checked_arrays(f"{type(strategy).__name__}.extra", strategy.extra(self._of(weights)))
        self.extra = tuple(Extra(name, tuple((one.dtype.str, one.shape) for one in arrays)) for name, arrays in asked.items())

    def initial(self, weights: Weights) -> State:
        """Return the state of the strategy before the first round."""
        return self._strategy.initial(self._of(weights))

    def arrays(self, round: int, state: State) -> dict[str, Weights]:
        """Return what owners are given beside the weights.

        Raises:
            SettingError: the strategy gives no arrays of floats, or takes names that are taken.
        """
        return checked_arrays(f"{type(self._strategy).__name__}.arrays", self._strategy.arrays(round, state))

    def planned(self, task: Task, present: Sequence[str], state: State) -> dict[str, Task] | None:
        """Return what each owner is asked that the strategy chooses: `task` itself where that is all; None where it chooses none.

        Raises:
            SettingError: it chooses nobody, or owners that there are not, or asks for what `Strategy.plan` cannot.
        """
        plan = self._strategy.plan(task.round, present, state)
        if plan is None:
            return None
        said = f"{type(self._strategy).__name__}.plan"
        known = isinstance(plan, Mapping) and set(plan) <= set(present) and all(isinstance(one, Asked) for one in plan.values())
        if not known or not plan:
            raise SettingError(f"{said} has to give an Asked for one owner at least, by its name, of those that are present, or None")
        return {name: _asked(said, task, one) for name, one in plan.items()}

    def step(self, task: Task, aggregate: Aggregate, owners: int, state: State) -> tuple[Weights, State]:
        """Return the new weights and the new state.

        Args:
            task: what the owners were given.
            aggregate: what their updates are together.
            owners: that the federation has.
            state: as the last step gave it.

        Raises:
            StepFailed: the strategy failed, or gave other weights than it has to.
        """
        old, count = task.weights, len(self._sent)
        delta = dict(zip(self._sent, aggregate.delta[:count], strict=True))
        updates = Updates(
            self._of(delta),
            self._extra(aggregate.delta[count:]),
            aggregate.examples,
            owners,
            dict(aggregate.metrics),
            tuple(
                OwnerUpdate(
                    name,
                    [array.astype(np.float64) for array in self._of(dict(zip(self._sent, one.delta[:count], strict=True)))],
                    one.examples,
                    one.metrics,
                    self._extra([array.astype(np.float64) for array in one.delta[count:]]),
                )
                for name, one in aggregate.single
            ),
        )
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked
            names = [self._names[i] for i in self._stepped]
            stepped, state = step_of(self._strategy, task.round, self._of(old), updates, state, names=names)
            averaged = moved([old[i] for i in self._averaged], [delta[i] for i in self._averaged])
        new = list(old)
        for i, array in zip([*self._stepped, *self._averaged], [*stepped, *averaged], strict=True):
            new[i] = array
        self._constrain(new)
        for i, array in enumerate(new):
            self._check(i, array)
        return new, state

    def _of(self, arrays: Weights | Mapping[int, Array]) -> Weights:
        return [arrays[i] for i in self._stepped]

    def _extra(self, arrays: Weights) -> dict[str, Weights]:
        """Arrays that were given beside, by name."""
        left = iter(arrays)
        return {one.name: [next(left) for _ in one.forms] for one in self.extra}

    def _check(self, i: int, array: Array) -> None:
        if not np.isfinite(array).all():
            raise StepFailed(
                f"{type(self._strategy).__name__}.step gave weight {self._names[i]!r} values that are not finite in {array.dtype}: NaN, "
                "infinite, or beyond its range; lower its learning rate, or that of the owners"
            )


def _asked(said: str, task: Task, asked: Asked) -> Task:
    """Return the task of one owner."""
    if not asked.config and not asked.arrays:
        return task
    config, arrays = checked_config(said, asked.config), checked_arrays(said, asked.arrays)
    return dataclasses.replace(task, config={**task.config, **config}, arrays={**task.arrays, **arrays})


def checked_arrays(said: str, given: Named) -> dict[str, Weights]:
    """Return lists of float arrays by name.

    Args:
        said: who gives them, for the error.
        given: what.

    Raises:
        SettingError: it is none, or has names that are taken.
    """
    found: dict[str, Weights] = {}
    for name, arrays in given.items():
        if not isinstance(name, str) or name in TAKEN or not isinstance(arrays, (list, tuple)):
            raise SettingError(f"{said} gives {name!r}: lists of arrays are expected, by other names than {', '.join(TAKEN)}")
        found[name] = [np.asarray(one) for one in arrays]
        if not all(one.dtype in (np.float32, np.float64) and np.isfinite(one).all() for one in found[name]):
            raise SettingError(f"{said} gives {name!r} with arrays that are no float32 or float64, or not finite")
    return found
