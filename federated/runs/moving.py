"""How the global weights move: those that a strategy steps, those that become the mean of the owners', and those that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from federated.errors import StepFailed
from federated.models.weights import is_kept
from federated.strategies.averaging import moved
from federated.strategies.strategy import State, Strategy, step_of
from federated.tasks.update import Array, Weights


class Moving:
    """One strategy, on weights of which it steps some.

    Args:
        strategy: its steps.
        weights: of the shapes and dtypes of all of them.
        names: of each, for messages.
        trained: of each, whether it is trained. The others, but for integers, become the mean of the owners'; a strategy that needs single
            updates gets them all.
        constrain: changes new weights to what they may be, in place.
    """

    def __init__(
        self,
        strategy: Strategy,
        weights: Weights,
        names: Sequence[str],
        trained: Sequence[bool],
        constrain: Callable[[Weights], None] = lambda _: None,
    ) -> None:
        self._strategy, self._names, self._constrain = strategy, names, constrain
        kept = {i for i, array in enumerate(weights) if is_kept(array.dtype)}
        self._stepped = [i for i, moves in enumerate(trained) if (strategy.single_updates or moves) and i not in kept]
        self._averaged = sorted(set(range(len(weights))) - set(self._stepped) - kept)

    def initial(self, weights: Weights) -> State:
        """Return the state of the strategy before the first round."""
        return self._strategy.initial(self._of(weights))

    def step(self, old: Weights, delta: Weights, state: State) -> tuple[Weights, State]:
        """Return the new weights and the new state, from what the owners were given and what their updates are together.

        Raises:
            StepFailed: the strategy failed, or gave other weights than it has to.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked
            stepped, state = step_of(self._strategy, self._of(old), self._of(delta), state, names=[self._names[i] for i in self._stepped])
            averaged = moved([old[i] for i in self._averaged], [delta[i] for i in self._averaged])
        new = list(old)
        for i, array in zip([*self._stepped, *self._averaged], [*stepped, *averaged], strict=True):
            new[i] = array
        self._constrain(new)
        for i, array in enumerate(new):
            self._check(i, array)
        return new, state

    def _of(self, arrays: Weights) -> Weights:
        return [arrays[i] for i in self._stepped]

    def _check(self, i: int, array: Array) -> None:
        if not np.isfinite(array).all():
            raise StepFailed(
                f"{type(self._strategy).__name__}.step gave weight {self._names[i]!r} values that are not finite in {array.dtype}: NaN, "
                "infinite, or beyond its range; lower its learning rate, or that of the owners"
            )
