"""`fit` of a private model: Poisson sampling, accounting, a private step. Everything else is Keras'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from privacy import validation
from privacy.clipping import AdaptiveClipping, Clipping
from privacy.errors import BudgetSpent, ModelChanged, ModelRefused, SamplingRefused, SettingError
from privacy.examples import Examples, split
from privacy.recording import Unit, strays, units, whole
from privacy.sampling import PoissonSampler, steps_per_epoch
from privacy.step import PrivateStep

if TYPE_CHECKING:
    from privacy.accounting import Accountant
    from privacy.noise import GaussianNoise


@dataclass(frozen=True)
class Plan:
    """What `make_private_with_epsilon` calibrated the noise for."""

    examples: int
    batch_size: int
    steps: int


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
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        accountant: Accountant,
        noise: GaussianNoise,
        noise_multiplier: float | Callable[[int], float],
        max_grad_norm: float,
        clipping: Clipping,
        max_physical_batch_size: int | None,
        plan: Plan | None,
    ) -> None:
        self.model, self.accountant, self.noise = model, accountant, noise
        self.clip, self.clipping, self.plan = max_grad_norm, clipping, plan
        self.steps = 0
        self.units: list[Unit] = []
        self._multiplier, self._most = noise_multiplier, max_physical_batch_size
        self._layers, self._variables = _layers(model), _variables(model)
        self._step: PrivateStep | None = None
        self._traced: tuple[Any, ...] = ()
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

        An epoch is ceil(N / batch_size) steps. Leaks: the weights after each step are what epsilon speaks of. The metrics of the training
        examples, in the progress bar and in History, are exact: they are for whoever holds the examples, and epsilon says nothing of them.

        Args:
            x, y: arrays (N, ...), or nests of them.
            batch_size: the expected size of a batch, from 1 to N; 32, or the planned one.
            sample_weight: (N,): the weight of each example's loss, before it is clipped.
            shuffle: has no meaning here: every step samples.
            epochs, verbose, callbacks, validation_data, initial_epoch, steps_per_epoch: as in Keras, as are the others.
            class_weight, validation_split: refused.

        Raises:
            SamplingRefused: data that cannot be sampled, or not as planned.
            ModelChanged: another model than was made private.
            ModelRefused: a loss, optimizer or callback that cannot be private.
            BudgetSpent: more steps than were planned.
        """
        self._check_compiled()
        if class_weight is not None or validation_split:
            raise SamplingRefused("class_weight and validation_split are not supported: give sample_weight and validation_data")
        data = Examples(x, y, sample_weight)
        sampler = PoissonSampler(len(data), batch_size or (self.plan.batch_size if self.plan else 32))
        count = steps_per_epoch or _steps(sampler)
        self._afford(sampler, count * max(0, epochs - initial_epoch))
        step = self._ready(data)
        given = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None
        validation.check_callbacks(given.callbacks if given else tf.nest.flatten(callbacks or []))
        shown = given or keras.callbacks.CallbackList(
            callbacks, add_history=True, add_progbar=verbose != 0, verbose=verbose, epochs=epochs, steps=count, model=self.model
        )

        def validate(epoch: int) -> dict[str, float]:
            if validation_data is None or (epoch + 1) % validation_freq:
                return {}
            size, callbacks = validation_batch_size or sampler.batch_size, shown
            pair = (
                dict(zip(("x", "y", "sample_weight"), validation_data, strict=False))
                if isinstance(validation_data, (tuple, list))
                else {"x": validation_data}
            )
            found = self.model.evaluate(**pair, batch_size=size, steps=validation_steps, callbacks=callbacks, return_dict=True)
            return {f"val_{name}": value for name, value in found.items()}

        self._epochs(range(initial_epoch, epochs), count, _Batches(data, sampler, self._most), step, shown, validate)
        return self.model.history

    def _epochs(self, epochs: range, count: int, batches: _Batches, step: PrivateStep, shown: Any, validate: Callable[[int], Any]) -> None:
        model, logs = self.model, {}
        model.stop_training = False
        shown.on_train_begin()
        for epoch in epochs:
            model.reset_metrics()
            shown.on_epoch_begin(epoch)
            for index in range(count):
                shown.on_train_batch_begin(index)
                metrics = self._one(step, batches)
                shown.on_train_batch_end(index, metrics)
                if model.stop_training:
                    break
            logs = {name: float(value) for name, value in model.get_metrics_result().items()} | validate(epoch)
            shown.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        if epochs:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        shown.on_train_end(logs)

    def _one(self, step: PrivateStep, batches: _Batches) -> dict[str, Any]:
        """Samples, records, then computes one step."""
        multiplier = self._noise_multiplier(self.steps)
        size = batches.sampler.batch_size
        z = self.clipping.gradient_multiplier(multiplier, size) if isinstance(self.clipping, AdaptiveClipping) else multiplier
        parts = batches.next()
        self.accountant.record(event(batches.sampler.probability, multiplier))
        self.steps += 1
        noise = self.noise.normal(step.parameters, z * self.clip)
        metrics: dict[str, Any] = {}
        if len(parts) == 1:
            metrics, unclipped = step.whole(parts[0], self.clip, noise, size)
            above = int(unclipped) - len(tf.nest.flatten(parts[0])[0]) / 2
        else:
            above = 0.0
            for part in parts:
                metrics, unclipped = step.add(part, self.clip)
                above += int(unclipped) - len(tf.nest.flatten(part)[0]) / 2
            step.finish(noise, size)
        if isinstance(self.clipping, AdaptiveClipping):
            noisy = above + float(self.noise.normal(1, self.clipping.stddev(size))[0])
            self.clip = self.clipping.next_clip(self.clip, noisy, size)
        return metrics

    def _noise_multiplier(self, step: int) -> float:
        value = float(self._multiplier(step) if callable(self._multiplier) else self._multiplier)
        if not 0.0 < value < float("inf"):
            raise SettingError(f"the noise multiplier of step {step} is {value}: above 0 and finite is needed")
        return value

    def _afford(self, sampler: PoissonSampler, steps: int) -> None:
        """Checks a fit against the plan."""
        plan = self.plan
        if plan is None:
            return
        if (sampler.examples, sampler.batch_size) != (plan.examples, plan.batch_size):
            raise SamplingRefused(
                f"{sampler.examples} examples in batches of {sampler.batch_size} were given: the noise was calibrated for {plan.examples} "
                f"in batches of {plan.batch_size}"
            )
        if self.steps + steps > plan.steps:
            raise BudgetSpent(f"{steps} steps after {self.steps} were asked for: the noise was calibrated for {plan.steps} in all")

    def _check_compiled(self) -> None:
        model = self.model
        if not model.compiled or model.loss is None:
            raise ModelRefused("the model is not compiled with a loss: compile it after make_private")
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise ModelRefused("LossScaleOptimizer skips steps by values without noise: use the optimizer inside it")

    def _ready(self, data: Examples) -> PrivateStep:
        """Builds what has to be, checks the model, and gives the step for how it is compiled now."""
        model = self.model
        if _layers(model) != self._layers or (self._variables and _variables(model) != self._variables):
            raise ModelChanged("layers or trainable weights changed after make_private: call make_private again")
        first = not self.units
        if first:
            self.units = self._inspect(data.inputs)
            self._variables = _variables(model)
        compiled = (model.optimizer, model.loss, *model.metrics)
        if self._step is None or len(compiled) != len(self._traced) or any(a is not b for a, b in zip(compiled, self._traced, strict=True)):
            model.optimizer.build(model.trainable_variables)
            self._step, self._traced = PrivateStep(model, self.units, clipping=self.clipping, eager=model.run_eagerly), compiled
        return self._step

    def _inspect(self, inputs: Any) -> list[Unit]:
        model = self.model
        model(validation.made_up(inputs, 0.25))
        validation.require(validation.findings(model) + validation.probe(model, inputs))
        found = units(model)
        reasons: list[str | None] = []
        trial = tf.function(lambda examples: reasons.append(strays(model, found, examples)), autograph=False)
        trial.get_concrete_function(inputs)
        return found if reasons[0] is None else [whole(model, reasons[0])]


class _Batches:
    """Samples of the data, in parts that fit into memory."""

    def __init__(self, data: Examples, sampler: PoissonSampler, most: int | None) -> None:
        self.data, self.sampler, self.most = data, sampler, most

    def next(self) -> Any:
        return split(self.data.take(self.sampler.sample()), self.most)


def event(probability: float, noise_multiplier: float) -> Any:
    """What one step releases: a Gaussian sum over a Poisson sample."""
    import dp_accounting  # noqa: PLC0415  takes a second

    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    return gaussian if probability == 1.0 else dp_accounting.PoissonSampledDpEvent(probability, gaussian)


def _steps(sampler: PoissonSampler) -> int:
    return steps_per_epoch(sampler.examples, sampler.batch_size)


def _layers(model: keras.Model) -> list[tuple[int, type]]:
    return [(id(layer), type(layer)) for layer in model._flatten_layers()]


def _variables(model: keras.Model) -> list[tuple[int, bool]]:
    """Empty as long as the model is not built."""
    return [(id(variable), variable.trainable) for variable in model.variables] if model.built else []
