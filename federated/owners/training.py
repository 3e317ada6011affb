"""Trains and evaluates a Keras model in one thread, one task after the other. The only file that runs Keras on an owner's data."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from federated.consent.release import TaskRelease, Work, private_steps, released
from federated.errors import DataError, UpdateHeldBack
from federated.methods.course import Method
from federated.methods.known import method_of
from federated.metrics.kept import told
from federated.models import blueprint, steps
from federated.models.expectations import Expectations
from federated.models.weights import Statistics, added, check_kept, check_trained, moving
from federated.owners import gradient
from federated.owners.keras_course import KerasCourse, Pull
from federated.records.data import Data
from federated.schedules.continued import Continuation
from federated.schedules.made import check_counted, check_enough, check_made
from federated.tasks.bounding import bounded, only
from federated.tasks.failures import in_own_words
from federated.tasks.update import Array, Blueprint, Evaluation, LocalTraining, Task, Update
from privacy import GaussianNoise, PrivacyEngine
from privacy.keras_models import internals
from privacy.keras_models.added_losses import ADDED
from privacy.keras_models.asks import EVALUATION, FUNCTION, HOW_IT_RUNS, METRICS, OPTIMIZER, REDUCTIONS

if TYPE_CHECKING:
    import keras

R = TypeVar("R")

ANSWERED: Final = (
    HOW_IT_RUNS
    | METRICS
    | EVALUATION
    | FUNCTION
    | OPTIMIZER
    | REDUCTIONS
    | {*ADDED, "loss_weights", "several losses", "no loss", "compute_loss", "metrics of one's own", "ignore_class"}
    | {"train_step", "make_train_function", "LossScaleOptimizer", "overwrite_with_gradient"}
    | {"regularizer", "activity_regularizer", "constraint", "frozen weights", "integer weights", "dtype", "seed"}
)
"""What local training does of all that a compiled model may ask for: what Keras' own step does. A `fit` of one's own is not called."""


class Trainer:
    """One model, one thread, any number of data sets: owners in one process share a trainer, and so share the memory of a model.

    The model is built from the blueprint of the first task, and again when another blueprint comes, or work on it has failed: Keras may
    then have half of what it would have made. Before each task its weights and the whole state of its optimizer are set. So nothing
    passes from one task, or one owner, to the next. Whether the data is such as the model takes is looked at before the model has it.

    Args:
        largest: weights that a model may have.
        min_batch: the fewest examples of a step; a smaller remainder joins the batch before.

    Attributes:
        thread: the thread.
    """

    def __init__(self, *, largest: float = blueprint.LARGEST, min_batch: int = 1) -> None:
        self._largest, self._min_batch = largest, min_batch
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="federated-trainer")
        self._desk: _Desk | None = None
        self._ranks: object = None

    async def train(self, task: Task, data: Data, *, evaluates: bool, stream: int = 0, state: dict[str, Any] | None = None) -> Update:
        """Local training. When the caller is cancelled, it stops after the batch under way.

        Args:
            task: what to do.
            data: to train on.
            evaluates: whether the owner has evaluation data; only passed on.
            stream: tells apart the random orders of owners that share a seed.
            state: what the owner remembers of the run, changed in place; None: nothing.

        Raises:
            ModelRefused: the blueprint cannot be built.
            DataError: the data cannot be used: it has no end, or the model does not take it, or no step of the optimizer comes of it.
            UpdateHeldBack: the settings mean nothing, or the weights do not fit the model.
            OwnerFailed: training failed.
        """
        release = released(task.training)
        known: dict[str, Any] = {} if state is None else state
        return await self._run("training", task, data, lambda desk, stop: desk.train(task, release, data, evaluates, stream, stop, known))

    async def evaluate(self, task: Task, data: Data, *, state: dict[str, Any] | None = None) -> Evaluation:
        """Return the metrics of the weights of the task; or of the owner's own, where it trains by a method that has such.

        Args:
            task: with the weights.
            data: to evaluate on.
            state: what the owner remembers of the run.

        Raises:
            ModelRefused, DataError, UpdateHeldBack, OwnerFailed: as above.
        """
        return await self._run("evaluation", task, data, lambda desk, stop: desk.evaluate(task, data, stop, state or {}))

    async def close(self) -> None:
        """Stop what runs, and wait until the thread has ended."""
        self.thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.thread.shutdown)

    async def _run(self, what: str, task: Task, data: Data, work: Callable[[_Desk, threading.Event], R]) -> R:
        stop = threading.Event()
        try:
            if not data.counted:  # beside the trainer's thread: others do not wait for one whose data takes long
                await in_own_words(what, asyncio.to_thread(data.count, stop))
            return await in_own_words(what, asyncio.get_running_loop().run_in_executor(self.thread, self._at_desk, task, data, work, stop))
        except asyncio.CancelledError:
            stop.set()
            raise

    def _at_desk(self, task: Task, data: Data, work: Callable[[_Desk, threading.Event], R], stop: threading.Event) -> R:
        _check_followed(task)
        data.count()
        desk = self._set_desk(task, data.ranks())
        desk.expectations.check(data)
        try:
            return work(desk, stop)
        except BaseException:
            self._desk = None  # whatever half of it is there would be the next owner's
            raise

    def _set_desk(self, task: Task, ranks: object) -> _Desk:
        assert task.blueprint is not None
        settings, method = task.training, method_of(task.training.method)
        key = (task.blueprint, settings.proximal, settings.noise_multiplier, settings.max_grad_norm, method)
        if self._desk is None or self._desk.key != key or self._ranks != ranks or not self._desk.fits(task):
            self._desk = None  # the old model goes before the new one comes
            self._desk = _Desk(*key, largest=self._largest, min_batch=self._min_batch)
            self._ranks = ranks  # what was traced for arrays of other ranks would be relaxed for both, and fail
        return self._desk


def _check_followed(task: Task) -> None:
    """Refuse a task for trainers of owners' own.

    Raises:
        UpdateHeldBack: it is.
    """
    if task.blueprint is None:
        raise UpdateHeldBack("the task has arrays and no Keras model: this owner needs a trainer of its own, DataOwner(..., trainer=...)")
    said = [*task.config, *task.arrays, *(one.name for one in task.extra)]
    if said and not task.training.method:
        raise UpdateHeldBack(
            f"the task says {', '.join(sorted(said))[:200]} to a trainer of this owner's own, and it has none to follow that: "
            "give it one, DataOwner(..., trainer=...)"
        )


class _Desk:
    """A model that was built from a blueprint, with what is needed to begin anew."""

    def __init__(
        self,
        plan: Blueprint,
        proximal: float,
        noise_multiplier: float,
        max_grad_norm: float,
        method: Method | None = None,
        *,
        largest: float = blueprint.LARGEST,
        min_batch: int = 1,
    ) -> None:
        self.key, self._min_batch = (plan, proximal, noise_multiplier, max_grad_norm, method), min_batch
        self.model = blueprint.build(plan, largest=largest)
        internals.weigh_losses_of_outputs(self.model)
        self.expectations, self._statistics = Expectations(self.model), Statistics(self.model)
        self._forms = [(array.shape, array.dtype) for array in self.model.get_weights()]
        if noise_multiplier:  # who accounts for it: the owner's ledger, and the aggregator
            engine = PrivacyEngine("rdp")
            engine.make_private(self.model, noise_multiplier=noise_multiplier, max_grad_norm=max_grad_norm, foreign=True)
        self._schedule = Continuation(self.model)
        self._generators = seed_generators(self.model)
        self._noise = GaussianNoise()
        self._trained, self._moving = blueprint.trained(self.model), moving(self.model)
        self._fresh: list[Array] = [variable.numpy() for variable in self.model.optimizer.variables]
        self._anchors = _hold(self.model, proximal) if proximal else []
        self._method = method
        self._pull = None if method is None else Pull(self.model)

    def fits(self, task: Task) -> bool:
        """Whether what was traced holds for the weights of a task."""
        return self._statistics.fit(task.weights)

    def train(
        self,
        task: Task,
        release: TaskRelease,
        data: Data,
        evaluates: bool,
        stream: int,
        stop: threading.Event,
        state: dict[str, Any],
    ) -> Update:
        check_trained(self.model)
        if release.work is not Work.GRADIENT:
            check_enough(self.model, task.training, data, min_batch=self._min_batch)
        self._begin(task, stream)
        self._schedule.begin(task.training, data, min_batch=self._min_batch)
        if release.work is Work.GRADIENT:
            delta, examples, logs = gradient.descent(self.model, task, data, stream, stop)
        elif self._method is not None:
            delta, logs = self._by(self._method, task, data, stream, stop, state)
            examples = data.count()
        else:
            logs = self._fit(task, data, stream, stop) if release.work is Work.FIT else self._fit_privately(release.training, data, stop)
            delta, examples = added(self.model.get_weights(), task.weights), data.count()
            if not stop.is_set():
                check_made(self.model, only(delta, self._trained), data, private=release.work is Work.DPSGD)
        if not stop.is_set() and self._method is None:
            check_counted(self.model, only(delta, self._trained), data)
        count, travelling = len(self._trained), task.travelling
        beside = delta[count:]
        check_kept(self.model, delta[:count], travelling)
        states, metrics = told(self.model, logs, task.training.states)
        delta = [*only(delta[:count], travelling), *beside]
        update = Update(task.round, delta, 1 if task.training.alike else examples, metrics, evaluates, states)
        if release.bound is not None:
            update = bounded(update, release.bound, self._noise, (*only(self._trained, travelling), *(True for _ in beside)))
        for array in update.delta:
            array.flags.writeable = False  # it leaves without being copied
        return update

    def _by(
        self, method: Method, task: Task, data: Data, stream: int, stop: threading.Event, state: dict[str, Any]
    ) -> tuple[list[Array], dict[str, Any]]:
        """Train by a method; give what it gives, with what is asked for beside behind it."""
        course = self._course(task, data, stream, stop, state)
        found = method.run(course)
        if found.extra.keys() != {one.name for one in task.extra}:
            gives = ", ".join(found.extra) or "nothing"
            raise UpdateHeldBack(f"this owner trains by {method.name}, which gives {gives} beside, not what was asked")
        pairs = [pair for one in task.extra for pair in zip(found.extra[one.name], one.templates, strict=False)]
        if [len(one.forms) for one in task.extra] != [len(found.extra[one.name]) for one in task.extra] or any(
            np.shape(array) != like.shape for array, like in pairs
        ):
            raise UpdateHeldBack(f"this owner trains by {method.name}, which gives other shapes beside than were asked for")
        beside = [np.asarray(array, like.dtype) for array, like in pairs]
        if not all(np.isfinite(array).all() for array in [*found.delta, *beside]):
            raise UpdateHeldBack(f"what this owner has trained by {method.name} is not finite: train with a lower learning rate")
        return [*found.delta, *beside], course.logs or {}

    def _course(self, task: Task, data: Data, stream: int, stop: threading.Event, state: dict[str, Any]) -> KerasCourse:
        def passes(start: list[Array]) -> dict[str, Any]:
            self._begin(task, stream, start)
            return self._fit(task, data, stream, stop)

        assert self._pull is not None
        return KerasCourse(self.model, self._pull, task, data, tuple(self._trained), state, passes)

    def _fit(self, task: Task, data: Data, stream: int, stop: threading.Event) -> dict[str, Any]:
        settings, logs = task.training, {}
        for epoch in range(settings.epochs if data.arrays else 1):  # fit() makes all epochs of a data set
            logs = self._epoch(settings, data, [settings.seed, task.round, stream, epoch], stop)
            if stop.is_set():
                break
            if not logs:
                raise DataError(f"epoch {epoch + 1} made no step, and so has no loss: the data set gave nothing when it was read again")
        if data.arrays:  # as fit() ends: with `use_ema` the averages become the weights
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        return logs

    def _fit_privately(self, settings: LocalTraining, data: Data, stop: threading.Event) -> dict[str, Any]:
        """DP-SGD; the metrics of training have no noise, and stay here."""
        if data.arrays is None:
            raise DataError("DP-SGD samples single examples, and this owner has batches: give arrays (x, y)")
        batch, steps = private_steps(settings, data.count())
        stopper = [_stopper(stop)]
        self.model.fit(**data.given, batch_size=batch, steps_per_epoch=steps, epochs=settings.epochs, verbose=0, callbacks=stopper)
        return {}

    def _epoch(self, settings: LocalTraining, data: Data, seed: list[int], stop: threading.Event) -> dict[str, Any]:
        if data.arrays is None:
            history = self.model.fit(data.source, epochs=settings.epochs, verbose=0, shuffle=False, callbacks=[_stopper(stop)]).history
            return {name: values[-1] for name, values in history.items()}
        examples = data.arrays if settings.batch_size is None else data.shuffled(seed)
        batch = settings.batch_size or examples.size
        logs: Mapping[str, Any] = {}
        ends = [*range(batch, examples.size, batch), examples.size]
        if len(ends) > 1 and ends[-1] - ends[-2] < self._min_batch:
            del ends[-2]
        self.model.reset_metrics()
        for start, end in pairwise([0, *ends]):  # fit() would first spend 50 ms on a pipeline, for each owner
            if stop.is_set():
                break
            logs = steps.stepped(self.model, examples.take(slice(start, end)))
        return steps.told(logs)

    def evaluate(self, task: Task, data: Data, stop: threading.Event, state: dict[str, Any]) -> Evaluation:
        personal = self._method is not None and self._method.personal
        self._begin(task, 0, self._method.own(self._course(task, data, 0, stop, state)) if personal and self._method else None)
        logs = self.model.evaluate(**data.given, verbose=0, return_dict=True, callbacks=[_stopper(stop)])
        states, metrics = told(self.model, logs, task.training.states)
        return Evaluation(task.round, data.count(), metrics, states)

    def _begin(self, task: Task, stream: int, start: list[Array] | None = None) -> None:
        forms = [(array.shape, array.dtype) for array in task.weights]
        if forms != self._forms:
            raise UpdateHeldBack("the weights of the task do not fit its model: they are of another number, shape or dtype")
        if any(moves and not travels for moves, travels in zip(self._moving, task.travelling, strict=True)):
            raise UpdateHeldBack("the task leaves weights out of updates that training of its model changes")
        self.model.set_weights(task.weights if start is None else start)
        self._statistics.compute(task.weights)
        optimizer = self.model.optimizer
        for variable, value in zip(optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        if task.training.learning_rate is not None:
            optimizer.learning_rate = task.training.learning_rate
        for number, generator in enumerate(self._generators):  # Dropout and its like: a function of the seed, whatever came before
            state = np.random.default_rng([task.training.seed, task.round, stream, number]).integers(1 << 31, size=2)
            generator.state.assign(state)
        for anchor, variable in zip(self._anchors, self.model.trainable_variables, strict=False):
            anchor.assign(variable)


def _hold(model: keras.Model, mu: float) -> list[Any]:
    """Add mu/2 ||w - anchor||^2 to the loss, as a regularizer of each weight; return the anchors."""
    import keras  # noqa: PLC0415  takes seconds, and only those who train need it

    def term(anchor: Any, other: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        def value(w: Any) -> Any:
            near = 0.5 * mu * keras.ops.sum(keras.ops.square(w - anchor))
            return near if other is None else near + other(w)

        return value

    anchors = [keras.Variable(variable, trainable=False) for variable in model.trainable_variables]
    for variable, anchor in zip(model.trainable_variables, anchors, strict=True):
        variable.regularizer = term(anchor, variable.regularizer)
    return anchors


def _stopper(stop: threading.Event) -> Any:
    import keras  # noqa: PLC0415  takes seconds, and only those who train need it

    class Stopper(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if stop.is_set():
                self.model.stop_training = True

        def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if stop.is_set():
                self.model.stop_evaluating = True

    return Stopper()


def seed_generators(model: keras.Model) -> list[Any]:
    """Where the layers of a model take their randomness from, in the order of its layers."""
    layers = internals.layers_within(model)
    found = [getattr(layer, "seed_generator", None) for layer in layers]
    return list({id(one): one for one in found if one is not None}.values())
