"""`fit` of a private model: Poisson sampling, accounting, a private step. Everything else is Keras'."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from privacy.clipping import AdaptiveClipping, Clipping
from privacy.errors import ModelChanged, ModelRefused, SamplingRefused, SettingError
from privacy.examples import Examples, count, split
from privacy.keras_models import internals
from privacy.keras_models.added_losses import OF_WEIGHTS, added_losses
from privacy.keras_models.asks import reductions
from privacy.models import validation
from privacy.models.recording import Unit, safe_units
from privacy.plan import SamplingPlan, event
from privacy.randomness.ahead import NoiseAhead
from privacy.randomness.noise import Grid, noisy_sum
from privacy.sampling import PoissonSampler
from privacy.sampling import steps_per_epoch as epoch_of
from privacy.step import PrivateStep
from privacy.trials import mixing, objective

if TYPE_CHECKING:
    from privacy.accounting import Accountant, PaidReleases
    from privacy.ledger import Ledger
    from privacy.randomness.noise import GaussianNoise


class PrivateTraining:
    """Takes the place of the training methods of one model.

    Args:
        model: the model; its `fit`, `train_on_batch` and `train_step` become those of this object.
        accountant: is told of every step before its result exists.
        noise: the source of noise.
        noise_multiplier: z, a number or a function of the step.
        max_grad_norm: C.
        clipping: the rule.
        max_physical_batch_size: examples that are computed at once.
        plan: what the noise was calibrated for, or None.
        foreign: see `PrivacyEngine.make_private`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        accountant: Accountant | Ledger,
        noise: GaussianNoise,
        noise_multiplier: float | Callable[[int], float],
        max_grad_norm: float,
        clipping: Clipping,
        max_physical_batch_size: int | None,
        plan: SamplingPlan | None,
        foreign: bool = False,
    ) -> None:
        self.model, self.accountant, self.noise = model, accountant, noise
        self.clip, self.clipping, self.plan = max_grad_norm, clipping, plan
        self.steps = 0
        self.units: list[Unit] = []
        self._multiplier, self._most, self._foreign = noise_multiplier, max_physical_batch_size, foreign
        self._layers, self._variables = _layers(model), _variables(model)
        self._step: PrivateStep | None = None
        self._traced: list[Any] = []
        self._batch: Any = None
        model.__dict__.update(fit=self.fit, train_on_batch=self.train_on_batch, train_step=self.train_step)

    def train_on_batch(self, *_: Any, **__: Any) -> None:
        """Refused: nobody knows how the batch was sampled."""
        raise SamplingRefused("train_on_batch takes a batch that was not sampled here, so its privacy is unknown: use fit")

    def train_step(self, *_: Any) -> None:
        """Refused, as `train_on_batch`."""
        raise SamplingRefused("train_step takes a batch that was not sampled here, so its privacy is unknown: use fit")

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """`keras.Model.fit` with differential privacy for the examples.

        1. Each step takes each example with probability q = batch_size / N, independently; the batch may be empty.
        2. The step is recorded by the accountant.
        3. One private step (`PrivateStep`) with noise N(0, (z C)^2).

        Leaks: the weights after each step are what epsilon speaks of. The metrics of the training examples, in the progress bar and in
        History, are exact: they are for whoever holds the examples, and epsilon says nothing of them.

        Args:
            x: an array (N, ...), or a nest of them.
            y: the targets, likewise.
            batch_size: the expected size of a batch, from 1 to N; by default the planned one, or 32.
            epochs: of ceil(N / batch_size) steps each.
            verbose: as in Keras.
            callbacks: as in Keras, but for those that choose the model by, or write down, training metrics.
            validation_split: as in Keras, the last part of the examples, which is not protected; N is the number of the others.
            validation_data: as in Keras; it is not protected.
            shuffle: has no meaning here: every step samples.
            class_weight: the weight of the loss of the examples of each class, as in Keras; before gradients are clipped.
            sample_weight: (N,), the weight of each example's loss, before its gradient is clipped.
            initial_epoch: as in Keras.
            steps_per_epoch: instead of ceil(N / batch_size).
            validation_steps: as in Keras.
            validation_batch_size: as in Keras.
            validation_freq: as in Keras, a number of epochs.

        Returns:
            What Keras returns.

        Raises:
            SamplingRefused: data that cannot be sampled, or not as planned.
            ModelChanged: another model than was made private.
            ModelRefused: a layer, loss, optimizer or callback that cannot be private.
            BudgetSpent: more steps than were planned.
        """
        self._check_compiled()
        data = Examples(x, y, sample_weight)
        if validation_split and validation_data is None:
            data, validation_data = data.parted(validation_split)
        if class_weight is not None:
            data = data.weighted(class_weight)
        sampler = PoissonSampler(len(data), batch_size or (self.plan.batch_size if self.plan else 32))
        steps = steps_per_epoch or epoch_of(len(data), sampler.batch_size)
        if self.plan is not None:
            self.plan.check(sampler, self.steps, steps * max(0, epochs - initial_epoch))
        validation.check_callbacks(callbacks)
        step = self._ready(data)
        shown = keras.callbacks.CallbackList(
            callbacks, add_history=True, add_progbar=verbose != 0, verbose=verbose, epochs=epochs, steps=steps, model=self.model
        )

        def validate(epoch: int) -> dict[str, float]:
            if validation_data is None or (epoch + 1) % validation_freq:
                return {}
            size = validation_batch_size or sampler.batch_size
            return self._validate(validation_data, batch_size=size, steps=validation_steps, callbacks=shown)

        def holding(more: int) -> AbstractContextManager[PaidReleases]:
            coming = range(self.steps, self.steps + more)
            return self.accountant.holding([event(sampler.probability, self.noise_multiplier(one)) for one in coming])

        with NoiseAhead(self.noise) as ahead:

            def once(held: PaidReleases) -> dict[str, Any]:
                return self._once(step, data, sampler, held, ahead)

            self._epochs(range(initial_epoch, epochs), steps, holding, once, validate, shown)
        return self.model.history

    def _epochs(
        self,
        epochs: range,
        steps: int,
        holding: Callable[[int], AbstractContextManager[PaidReleases]],
        once: Callable[[PaidReleases], Any],
        validate: Callable[[int], Any],
        shown: Any,
    ) -> None:
        """Run the loop of `keras.Model.fit`."""
        model, logs = self.model, dict[str, float]()
        model.stop_training = False
        shown.on_train_begin()
        for epoch in epochs:
            model.reset_metrics()
            shown.on_epoch_begin(epoch)
            metrics: dict[str, Any] = {}
            with holding(steps) as held:
                for index in range(steps):
                    shown.on_train_batch_begin(index)
                    metrics = once(held) or metrics  # an empty batch has none
                    shown.on_train_batch_end(index, metrics)
                    if model.stop_training:
                        break
            logs = {name: float(value) for name, value in metrics.items()} | validate(epoch)
            shown.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        if epochs:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        shown.on_train_end(logs)

    def _validate(self, data: Any, **options: Any) -> dict[str, float]:
        given = dict(zip(("x", "y", "sample_weight"), data, strict=False)) if isinstance(data, (tuple, list)) else {"x": data}
        found = self.model.evaluate(**given, **options, return_dict=True)
        return {f"val_{name}": value for name, value in found.items()}

    def _once(self, step: PrivateStep, data: Examples, sampler: PoissonSampler, held: PaidReleases, ahead: NoiseAhead) -> dict[str, Any]:
        """Sample, record, then compute one step; return the metrics so far."""
        z, size = self.noise_multiplier(self.steps), sampler.batch_size
        adaptive = self.clipping if isinstance(self.clipping, AdaptiveClipping) else None
        multiplier = z if adaptive is None else adaptive.gradient_multiplier(z, size)
        grid = Grid.of(self.clip, multiplier, step.parameters, fineness=20, most=20)  # float32 holds the noise exactly
        parts = split(data.take(sampler.sample()), self._most)
        held.use(event(sampler.probability, z))
        self.steps += 1
        noise = (ahead.take(step.parameters, grid.sigma), grid.step, size)
        metrics, unclipped = step.whole(parts[0], self.clip, *noise) if len(parts) == 1 else self._in_parts(step, parts, noise)
        if adaptive is not None:
            centred = unclipped - sum(map(count, parts)) / 2
            noisy = noisy_sum(self.noise, [np.array([centred])], sensitivity=0.5, noise_multiplier=2 * adaptive.stddev(size))
            self.clip = adaptive.next_clip(self.clip, float(noisy[0][0]), size)
        return metrics

    def _in_parts(self, step: PrivateStep, parts: Any, noise: tuple[Any, float, int]) -> tuple[dict[str, Any], int]:
        """Make a step on any number of parts, also none."""
        metrics: dict[str, Any] = {}
        unclipped = 0
        step.begin()
        for part in parts:
            metrics, more = step.add(part, self.clip)
            unclipped += more
        step.finish(*noise)
        return metrics, unclipped

    def noise_multiplier(self, step: int) -> float:
        """z of a step, counted from 0.

        Raises:
            SettingError: the function that was given makes a number that is no noise.
        """
        value = float(self._multiplier(step) if callable(self._multiplier) else self._multiplier)
        if not 0.0 < value < float("inf"):
            raise SettingError(f"the noise multiplier of step {step} is {value}: above 0 and finite is needed")
        return value

    def _check_compiled(self) -> None:
        if not self.model.compiled or self.model.loss is None:
            raise ModelRefused("the model is not compiled with a loss: compile it after make_private")

    def _check_loss(self, data: Examples) -> None:
        """Refuse a loss of which a private step would train another."""
        x, y, *weight = data.batch
        with keras.StatelessScope():  # seeds stay as they are
            outputs = self.model(validation.made_up(x, 0.25))
        why = objective.objection(self.model, y, outputs, weighted=bool(weight))
        if why is not None:
            raise ModelRefused(f"{self.model.name}: {objective.named(self.model)} cannot be private: {why}")

    def _ready(self, data: Examples) -> PrivateStep:
        """Build what has to be, check the model, and return the step for how it is compiled now."""
        model = self.model
        if _layers(model) != self._layers or (self._variables and _variables(model) != self._variables):
            raise ModelChanged("layers or trainable weights changed after make_private: call make_private again")
        unchecked = bool(self.units)
        if not self.units:
            inputs = data.batch[0]
            model(validation.made_up(inputs, 0.25))  # builds it
            validation.require(validation.findings(model, inputs) + mixing.mixing(model, inputs))
            units = safe_units(model, inputs, foreign=self._foreign)
            validation.require(mixing.mixing_back(model, units, inputs))
            self.units = units
            self._layers, self._variables = _layers(model), _variables(model)  # some layers make others when they are built
        compiled = [model.optimizer, model.loss, *model.metrics]
        if self._step is None or list(map(id, compiled)) != list(map(id, self._traced)) or data.batch != self._batch:
            if unchecked:  # compiled anew, or other data
                validation.require(validation.findings(model, data.batch[0]))
            if len(data.batch) == 3 and "mean_with_sample_weight" in reductions(model):
                raise ModelRefused(
                    "the loss has reduction='mean_with_sample_weight': the sum of the weights of a batch is a value of the examples, "
                    "by which a private step cannot divide; use the default, or train without weights of examples"
                )
            self._check_loss(data)
            adds = any(name == OF_WEIGHTS for name, *_ in added_losses(model, data.batch[0]))
            model.optimizer.build(model.trainable_variables)
            self._step = PrivateStep(model, self.units, clipping=self.clipping, batch=data.batch, eager=model.run_eagerly, adds=adds)
            self._traced, self._batch = compiled, data.batch
        return self._step


def _layers(model: keras.Model) -> list[tuple[int, type]]:
    return [(id(layer), type(layer)) for layer in internals.layers_within(model)]


def _variables(model: keras.Model) -> list[tuple[int, bool]]:
    """Empty as long as the model is not built."""
    return [(id(variable), variable.trainable) for variable in model.weights] if model.built else []
