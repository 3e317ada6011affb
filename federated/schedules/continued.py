"""A learning-rate schedule that goes on where the rounds before have left it, though each round begins with a fresh optimizer.

It begins where the model's own optimizer is: with a model that was trained before, and perhaps saved and loaded, after the steps of that;
in a run that is resumed, where it was when the run began. Rounds do not count in the optimizer of the global model, whose steps are its
owners'; but steps that it makes by itself between rounds do. Only the schedule goes on, and not the optimizer's count of its steps: Adam
and its like correct their moments, which are fresh, by that.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from federated.consent.release import private_steps
from federated.records.data import Data
from federated.tasks.update import LocalTraining
from privacy.keras_models import internals

if TYPE_CHECKING:
    import keras

_counted: weakref.WeakKeyDictionary[Data, int] = weakref.WeakKeyDictionary()


def schedule_of(optimizer: Any) -> Any:
    """Return the schedule that a learning rate follows; None if it is a number."""
    import keras  # noqa: PLC0415  is loaded already: there is an optimizer

    rate = internals.learning_rate(_inner(optimizer))
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def accumulated(optimizer: Any) -> int:
    """Of how many batches the gradients make one step of an optimizer, see `gradient_accumulation_steps`."""
    return int(getattr(_inner(optimizer), "gradient_accumulation_steps", None) or 1)


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def steps_made(optimizer: Any) -> int:
    """Count the steps that a schedule has behind it: as many as the optimizer has made; 0 for one that follows none."""
    return int(internals.count_of_steps(_inner(optimizer))) if schedule_of(optimizer) is not None else 0


def go_on_from(optimizer: Any, made: int) -> None:
    """Make a schedule have so many steps behind it; does nothing for an optimizer that follows none."""
    if schedule_of(optimizer) is not None:
        internals.count_of_steps(_inner(optimizer)).assign(made)


class Continuation:
    """The schedule of a model's optimizer, that begins where it is told; does nothing for an optimizer without one.

    Args:
        model: compiled. Its optimizer gets another schedule: the same, later.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        self._begun: Any = None
        schedule = schedule_of(model.optimizer)
        if schedule is None:
            return
        begun = self._begun = keras.Variable(0, dtype="int64", trainable=False, name="steps_before")

        class Later(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
            def __call__(self, step: Any) -> Any:
                return schedule(keras.ops.add(keras.ops.cast(step, "int64"), begun))

            def get_config(self) -> dict[str, Any]:
                return {}

        _inner(model.optimizer).learning_rate = Later()

    def begin(self, training: LocalTraining, data: Data, *, min_batch: int) -> None:
        """Set where the schedule begins: the steps from before the run, and rounds before, times the steps of this data in a round.

        With one owner this is where Keras' `fit` would be. With several, each goes by the rounds that have moved the model, whoever took
        part in them, and by its own steps in a round.

        Args:
            training: how.
            data: that the steps are made of.
            min_batch: as for `Trainer`.
        """
        if self._begun is not None:
            made = training.rounds * steps(training, data, min_batch=min_batch) if training.rounds else 0
            self._begun.assign(training.begun + made)


def steps(training: LocalTraining, data: Data, *, min_batch: int = 1) -> int:
    """Count the batches of a round: its steps, unless the optimizer accumulates gradients; schedules go by batches, in Keras, too."""
    if training.noise_multiplier:
        return training.epochs * private_steps(training, data.count())[1]
    if data.arrays is None:
        if data not in _counted:
            _counted[data] = sum(1 for _ in data.batches())
        return training.epochs * _counted[data]
    whole, rest = divmod(data.count(), training.batch_size or data.count())
    return training.epochs * max(1, whole + (rest >= min_batch if rest else 0))
