"""The global model at the aggregator: a Keras model whose weights are the state, and the strategy that moves them."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.aggregation.aggregation import Aggregate
from federated.errors import ModelRefused, SettingError
from federated.metrics import compiled
from federated.metrics.layout import StateLayout
from federated.metrics.meter import Meter
from federated.models import blueprint
from federated.models.expectations import Expectations
from federated.models.making import made
from federated.models.weights import Statistics, check_trained, moving
from federated.owners.gradient import ANSWERED as BY_GRADIENT
from federated.owners.training import ANSWERED as BY_FIT
from federated.records.data import Data
from federated.rounds.outcome import Outcome
from federated.runs.moving import Moving
from federated.runs.protection import Protection
from federated.runs.run_folder import Checkpoint, Circumstances, digest
from federated.schedules.continued import go_on_from, schedule_of, steps_made
from federated.strategies.strategy import Strategy
from federated.tasks.base import BaseDigest
from federated.tasks.update import Array, Task, Weights
from privacy.keras_models.asks import refusal

if TYPE_CHECKING:
    import keras


_NUMBERS = "owners follow the schedule that the model was compiled with, or a number: give the schedule to the optimizer's constructor"


class GlobalModel:
    """A Keras model that is trained elsewhere.

    The strategy moves the trainable weights. Others that training changes (the statistics of BatchNormalization) become the mean of the
    owners', since a step of an optimizer makes no sense for them; a strategy that needs single updates gets them all. Frozen weights and
    integers stay as they are.

    Args:
        build: makes the compiled model.
        strategy: its steps.
        seed: of what owners do by chance.
        privacy: what is spent; None: none.
        mechanism: the settings of the privacy.

    Attributes:
        digest: of model, strategy and seed.
        trained: of each of the weights, whether it is trained.
        sent: of each of them, whether training may change it, so that it is in updates.
        scheduled: whether the learning rate follows a schedule.
        state: what the strategy remembers.

    Raises:
        ModelRefused: the model cannot be sent to owners, or asks for what the training of this strategy does not do.
    """

    def __init__(
        self, build: Callable[[], keras.Model], strategy: Strategy, seed: int, privacy: Protection | None, mechanism: object
    ) -> None:
        self._model = made(build)
        self._blueprint = blueprint.draw(self._model)
        check_trained(self._model)
        by_gradient = strategy.local_training().gradient
        answered = BY_GRADIENT if by_gradient else BY_FIT
        if strategy.local_training().proximal:  # its term is one of the loss, which a step or a loss of one's own may leave out
            answered = answered - {"train_step", "make_train_function", "compute_loss"}
        refused = refusal(self._model, answered, step=f"the training of {type(strategy).__name__}")
        if refused is not None:
            raise ModelRefused(refused)
        self._strategy, self._seed = strategy, seed
        self._run = secrets.token_hex(16)  # a run that is resumed is another: owners serve each round of a run once
        self._lineage = secrets.token_hex(16)  # of the run, and of all that go on with it
        self.digest = digest(self._blueprint, strategy, seed, mechanism)
        self._privacy = privacy
        self.trained, self.sent = blueprint.trained(self._model), moving(self._model)
        self._base = BaseDigest()
        self.scheduled = schedule_of(self._model.optimizer) is not None
        self._compiled_rate = self._learning_rate()
        self._meter = None if privacy is not None else Meter(self._model, self._blueprint)  # else no metrics leave an owner
        steps = {i: variable.constraint for i, variable in enumerate(self._model.weights) if self.trained[i]}
        self._constraints = {i: constraint for i, constraint in steps.items() if constraint is not None}
        self._weights: Weights | None = list(self._model.get_weights())
        self._statistics = Statistics(self._model)
        names = [variable.path for variable in self._model.weights]
        self._moving = Moving(strategy, self._weights, names, self.trained, self.sent, self._constrain)
        self.state = self._moving.initial(self.weights)

    @property
    def model(self) -> keras.Model:
        """The model itself; who changes its weights between rounds changes the global ones."""
        if self._weights is not None:
            self._model.set_weights(self._weights)
            self._weights = None  # from now on they are in the model, for nobody knows what is done to it
        return self._model

    @property
    def weights(self) -> Weights:
        """A copy of the global weights."""
        return list(self._model.get_weights()) if self._weights is None else [array.copy() for array in self._weights]

    def _set(self, weights: Weights) -> None:
        if self._weights is None:
            self._model.set_weights(weights)
        else:
            self._weights = [array.astype(before.dtype) for array, before in zip(weights, self._weights, strict=True)]

    @property
    def layout(self) -> StateLayout:
        """Of the states of metrics that owners are asked for."""
        return StateLayout() if self._meter is None or self._strategy.alike else self._meter.layout

    def results(self, states: Array, means: Mapping[str, float]) -> dict[str, float]:
        """Metrics by name, see `Meter.results`."""
        return dict(means) if self._meter is None or self._strategy.alike else self._meter.results(states, means)

    def task(self, number: int, *, moved: int) -> Task:
        """Return what owners are asked in round `number`: local training from the present weights, with the present learning rate.

        Args:
            number: of the round.
            moved: rounds before that have moved the model: a schedule of the learning rate goes on after them, and after the steps that
                the optimizer of `model` has made by itself, before the run or between rounds.

        Raises:
            SettingError: the learning rate was set to what no owner follows; or layers were frozen, or unfrozen, since the run began.
        """
        self._check_frozen()
        settings, rate = self._strategy.local_training(), self._learning_rate()
        if rate != self._compiled_rate and (settings.gradient or rate is None):
            raise SettingError(
                f"the learning rate of the model's optimizer was set to {'a schedule' if rate is None else f'{rate:g}'}, and "
                + (f"the steps of {type(self._strategy).__name__} are not those of the optimizer" if settings.gradient else _NUMBERS)
            )
        training = dataclasses.replace(
            settings,
            seed=self._seed,
            learning_rate=rate,
            states=self.layout.sizes,
            rounds=moved if self.scheduled else 0,
            begun=steps_made(self._model.optimizer),
        )
        said, given = self._strategy.said(number), self.arrays(number)
        names, which, weights = (self._run, self._lineage), self.sent, self.weights
        base = self._base.of(self._blueprint, [array for array, travels in zip(weights, which, strict=True) if not travels])
        return Task(number, self._blueprint, weights, training, *names, said, self.trained, given, self._moving.extra, which, base)

    def _check_frozen(self) -> None:
        """Refuse a model that somebody has frozen, or unfrozen, in part: owners would go on as before."""
        now = zip(self._model.weights, self.trained, blueprint.trained(self._model), strict=False)
        others = [variable.path for variable, before, after in now if before != after]
        if others or len(self._model.weights) != len(self.trained):
            raise SettingError(
                f"weights were frozen or unfrozen, or added, since the run began: {', '.join(others[:8]) or 'another number of them'}; "
                "owners train what was trainable then: begin another Federation with this model"
            )

    def arrays(self, number: int) -> dict[str, Weights]:
        """Return what owners are given beside the weights in round `number`, as the strategy remembers it now."""
        return self._moving.arrays(number, self.state)

    def planned(self, task: Task, present: Sequence[str]) -> dict[str, Task] | None:
        """Return what each owner is asked that the strategy chooses, see `Moving.planned`."""
        return self._moving.planned(task, present, self.state)

    def step(self, task: Task, aggregate: Aggregate, owners: int) -> None:
        """Move the weights, see `Moving.step`.

        Raises:
            StepFailed: the strategy failed, or gave other weights than it has to. The model and the state stay as they were.
        """
        new, self.state = self._moving.step(task, aggregate, owners, self.state)
        self._set(new)

    def _constrain(self, weights: Weights) -> None:
        """Project the weights that have a constraint: a mean of weights that fulfil it, or noise on them, may not."""
        if self._constraints:
            import keras  # noqa: PLC0415  is loaded already

            for i, constraint in self._constraints.items():
                weights[i] = np.asarray(constraint(keras.ops.convert_to_tensor(weights[i])))

    def check(self, data: Data) -> None:
        """Refuse data of the aggregator's own that the model cannot be evaluated on.

        Raises:
            DataError: it has no end, or is empty, or the model does not take it.
        """
        data.count()
        Expectations(self._model).check(data)

    def evaluate(self, data: Data) -> dict[str, float]:
        """`test_` and the name of the metric -> its value on the aggregator's data."""
        if self._weights is not None:
            self._model.set_weights(self._weights)
        values = compiled.numbers(self._model.evaluate(**data.given, verbose=0, return_dict=True))
        return {f"test_{name}": values[name] for name in sorted(values, key=lambda name: name != "loss")}

    def checkpoint(
        self,
        history: Sequence[Outcome],
        callbacks: tuple[Mapping[str, Any], ...],
        *,
        stopped: bool,
        circumstances: Circumstances | None = None,
    ) -> Checkpoint:
        """All that the next round depends on."""
        privacy, rate = self._privacy.state() if self._privacy else {}, self._learning_rate()
        begun = steps_made(self._model.optimizer)
        state = (self.state, tuple(history), rate, callbacks, stopped, privacy, circumstances, begun)
        return Checkpoint(self.digest, self.weights, *state, lineage=self._lineage)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this model and strategy."""
        self._set(checkpoint.weights)
        self._model.set_weights(checkpoint.weights)
        self._statistics.compute(checkpoint.weights)
        self.state = checkpoint.state
        self._lineage = checkpoint.lineage or self._lineage
        if self._privacy is not None:
            self._privacy.restore(checkpoint.privacy)
        if checkpoint.learning_rate is not None:
            self._model.optimizer.learning_rate = checkpoint.learning_rate
        go_on_from(self._model.optimizer, checkpoint.begun)

    def _learning_rate(self) -> float | None:
        """None if it follows a schedule, which the blueprint has."""
        rate = self._model.optimizer.get_config().get("learning_rate")
        return float(rate) if isinstance(rate, (int, float)) else None
