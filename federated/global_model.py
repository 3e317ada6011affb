"""The global model at the aggregator: a Keras model whose weights are the state, and the strategy that moves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from federated import blueprint
from federated.errors import StepFailed
from federated.strategy import Strategy
from federated.update import Task, Weights

if TYPE_CHECKING:
    import keras


class GlobalModel:
    """A Keras model that is trained elsewhere.

    The strategy moves the trainable weights. The others (the statistics of BatchNormalization) become the mean of the owners', since a
    step of an optimizer makes no sense for them; a strategy that needs single updates gets them all.

    Args:
        build: makes the compiled model.
        strategy: its steps.

    Attributes:
        model: the model itself; who changes its weights between rounds changes the global ones.

    Raises:
        ModelRefused: the model cannot be sent to owners.
    """

    def __init__(self, build: Callable[[], keras.Model], strategy: Strategy) -> None:
        self.model = build()
        self._blueprint = blueprint.draw(self.model)
        self._strategy = strategy
        trainable = {id(variable) for variable in self.model.trainable_variables}
        moved = [strategy.single_updates or id(variable) in trainable for variable in self.model.weights]
        self._moved = [i for i, one in enumerate(moved) if one]
        self._state = strategy.initial([self.weights[i] for i in self._moved])

    @property
    def weights(self) -> Weights:
        """A copy of the global weights."""
        return list(self.model.get_weights())

    def task(self, number: int, seed: int) -> Task:
        """What owners are asked in round `number`: local training from the present weights, with the present learning rate."""
        training = dataclasses.replace(self._strategy.local_training(), seed=seed, learning_rate=self._learning_rate())
        return Task(number, self._blueprint, self.weights, training)

    def step(self, aggregate: Weights) -> None:
        """Moves the weights.

        Raises:
            StepFailed: the strategy gave weights of other shapes, or that are not finite. The model and the state stay as they were.
        """
        old = self.weights
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked
            new = [value.astype(array.dtype) if len(self._moved) < len(old) else array for array, value in zip(old, aggregate, strict=True)]
            moved, state = self._strategy.step([old[i] for i in self._moved], [aggregate[i] for i in self._moved], self._state)
        for i, array in zip(self._moved, moved, strict=True):
            new[i] = array
        self._check(old, new)
        self.model.set_weights(new)
        self._state = state

    def _check(self, old: Weights, new: Weights) -> None:
        for i, (before, after) in enumerate(zip(old, new, strict=True)):
            if after.shape != before.shape or not np.isfinite(after).all():
                raise StepFailed(
                    f"{type(self._strategy).__name__} gave weight {i} the shape {after.shape}, or values that are not finite; "
                    f"finite values of shape {before.shape} are expected: lower its learning rate, or that of the owners"
                )

    def _learning_rate(self) -> float | None:
        """None if it follows a schedule, which the blueprint has."""
        rate = self.model.optimizer.get_config().get("learning_rate")
        return float(rate) if isinstance(rate, (int, float)) else None
