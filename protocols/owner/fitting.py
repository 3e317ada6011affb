"""The owner's side of training: `SharedModel.fit`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from actors import ActorError
from protocols.accounting.agreed import fitting, promised
from protocols.accounting.spending import Spending
from protocols.authority.rights import new_secret
from protocols.clusters.three_workers import ThreeWorkers
from protocols.errors import Diverged, InputError, WorkerLost
from protocols.mpc.parties.keystream import fresh_key
from protocols.owner.asking import MEMORY, Asking, SharedNetwork
from protocols.owner.checkpoints import CallbackMemory, Checkpoints, settings
from protocols.owner.compiled import check_parted
from protocols.owner.compiled_optimizer import scheduled
from protocols.owner.epochs import Epoch, epoch_of
from protocols.owner.fit.callbacks import FitCallbacks
from protocols.owner.fit.examples import GivenExamples, class_weights
from protocols.owner.fit.settings import FitSettings, LogNames
from protocols.owner.metrics import rising, told_of
from protocols.owner.running import Running, begun, stands
from protocols.owner.stored import SharedExamples
from protocols.owner.targets import fitted
from protocols.storage.versions import Progress
from protocols.training.base import parts
from protocols.training.step import Plan, step
from protocols.training.terms import TrainingTerms

__all__ = ["MEMORY", "Training"]


class Training(SharedNetwork):
    """A shared network while it is trained. See `SharedNetwork` for what it is made of."""

    def __init__(self, model: Any, cluster: ThreeWorkers, name: str) -> None:
        super().__init__(model, cluster, name)
        self._spending = Spending()
        self._fits = 0
        self._stepping: int | None = None
        """The number of the fit that is in an epoch, or on its way to one."""

    async def fitted(self, data: GivenExamples, validated: GivenExamples | None, how: FitSettings) -> AsyncGenerator[Epoch]:
        """See `SharedModel.fit`. What is not shared yet is shared for as long as this lasts."""
        how = how.protecting(validated=validated is not None)
        if self.ends[1].several and how.class_weight is not None:
            raise InputError("class_weight is for models with a single output, as in Keras: give sample_weight by output")
        if self.ends[1].several and how.privacy is not None:
            raise InputError("privacy= is for models with a single output: that several losses together are clipped right is not proved")
        callbacks = self._callbacks(how, validated=validated is not None)
        async with contextlib.AsyncExitStack() as stack:
            shared = [None if one is None else await stack.enter_async_context(self._lent(one)) for one in (data, validated)]
            assert shared[0] is not None
            epochs = await stack.enter_async_context(contextlib.aclosing(self._fit(shared[0], shared[1], how, callbacks)))
            async for epoch in epochs:
                yield epoch

    async def _fit(
        self, data: SharedExamples, validated: SharedExamples | None, how: FitSettings, callbacks: FitCallbacks
    ) -> AsyncGenerator[Epoch]:
        if self._stepping is not None:
            raise InputError(f"a fit of model {self._name!r} is under way: each of two would undo what the other one trains; wait for it")
        terms, names = self._agreed(data, how), self._log_names(how)
        asking = None
        if validated is not None:
            micro_batch = how.micro_batch_size
            asking = self._evaluation(validated, how.batch_size, how.memory, metrics=how.metrics, micro_batch=micro_batch)
        rated = self._scheduled(terms, how.epochs - how.initial_epoch)  # a rate that cannot be is refused before anything is done
        if how.privacy is not None:
            assert isinstance(rated.plan, Plan)  # `_terms` has made it
            cut, batch = parts(rated.plan, terms.examples), min(how.batch_size, terms.examples)
            rows = min(how.micro_batch_size or batch, batch)
            for one in (rated.plan, *(() if cut is None else (cut.head,))):
                step(one, batch, rows=rows)  # and so are weights by which no example's gradient is known, or bounded
        checkpoints = None
        if how.folder is not None:
            same = settings(terms.plan, data.all, how.batch_size, self._seats.helper, shuffle=how.shuffle)
            checkpoints = Checkpoints(self._cluster, self._name, how.folder, resume=how.resume, settings=same, shuffle=how.shuffle)
        terms = msgspec.structs.replace(terms, order=checkpoints.order if checkpoints is not None else fresh_key() if how.shuffle else None)
        runs, held = _Runs(self._cluster, checkpoints, self._moving), contextlib.AsyncExitStack()
        mine = self._fits = self._fits + 1
        self._stepping = mine
        logs: dict[str, float] = {}
        resumed = checkpoints is not None and checkpoints.begun
        try:
            if how.privacy is not None and not resumed:
                await self._spending.begin(how.privacy, how.folder, how.ledger, (how.initial_epoch, how.epochs))
            start = await self._loaded(terms, checkpoints, how.initial_epoch)
            if how.privacy is not None and resumed:
                await self._spending.resume(how.privacy, how.folder, how.ledger, (start.epoch, how.epochs))
            if start.epoch < how.epochs:
                terms, data = await self._cut(held, terms, data)
                asking = None if asking is None else Asking(*await self._cut(held, asking.terms, asking.data), asking.names)
            callbacks.begin(self._recalled(checkpoints, start.epoch, how))
            for number in range(start.epoch, how.epochs):
                callbacks.epoch_begins(number)
                run = await runs.at(self._scheduled(terms, how.epochs - number), data, (self._handle or b"", self._secret))
                if checkpoints is not None and not checkpoints.begun:
                    await run.save(start)
                first = start.step if number == start.epoch else 0
                told = ["loss"] * names.loss + ["metric"] * bool(names.metrics)
                spent = None if how.privacy is None else await self._spending.paid(number)
                try:
                    segments = await run.epoch(number, first, how.save_every, told=told, progress=how.progress)
                except Diverged:
                    if how.privacy is not None:
                        self._spending.told(number)
                    raise
                finally:
                    self._made, self.version = run.made, self.version + 1
                epoch = epoch_of(number + 1, run.terms, segments)
                logs = names.logs(epoch.logs)
                if asking is not None:
                    callbacks.validates(None)
                    found = await self._evaluated(asking)
                    callbacks.validates(found)
                    logs |= {f"val_{name}": value for name, value in found.items()}
                seen = callbacks.epoch_ends(number, logs)  # what they add is not told at the end, as in Keras
                await self._keep(callbacks.asked())
                if checkpoints is not None:
                    checkpoints.remember(CallbackMemory(number + 1, callbacks.memories(), self._rate))
                await run.ended(number)
                self._stepping = None
                yield msgspec.structs.replace(epoch, logs=seen, privacy=spent)
                if self._fits != mine:
                    raise InputError(f"another fit of model {self._name!r} has begun since: this one goes no further, or would undo it")
                self._stepping = mine
                if callbacks.stop:
                    break
            if self._planned().optimizer.average is not None:
                run = runs.now or await runs.at(self._scheduled(terms, 1), data, (self._handle or b"", self._secret))
                await run.finish()
                self.version += 1
            callbacks.end(logs)
            await self._keep(callbacks.asked())
        except (ActorError, WorkerLost) as error:  # whoever notices first
            reason = str(error).partition("\n")[0]
            raise WorkerLost(f"the training stopped: {reason}; {stands(checkpoints)}") from None
        finally:
            if self._stepping == mine:
                self._stepping = None
            if how.privacy is not None and checkpoints is not None and runs.now is not None and runs.now.unsaved:
                self._spending.told(number)  # it may be revealed as it is, and is made again with other noise
            await runs.end()
            if checkpoints is not None:
                checkpoints.close()
            await held.aclose()

    def _callbacks(self, how: FitSettings, *, validated: bool) -> FitCallbacks:
        """Return the callbacks of a fit, who know what is told of it, and of which of that more is better."""
        told, loss = self._log_names(how), self._planned().loss
        held = [f"val_{name}" for name in self._evaluation_names(how.metrics).all] if validated else []
        return FitCallbacks(how.callbacks, self._model, how.epochs, [*told.all, *held], rising(told, loss))

    def _log_names(self, how: FitSettings) -> LogNames:
        """Return what is told of the epochs of a fit."""
        return told_of(self._heads, self._planned().loss, how.metrics, evaluates=False)

    def _agreed(self, data: SharedExamples, how: FitSettings) -> TrainingTerms:
        """Return the terms of a fit, without the order of the examples."""
        planned, x, y, found = self._planned(), data.xs[0], data.ys[0], self._log_names(how)
        if how.micro_batch_size is not None and how.micro_batch_size < min(how.batch_size, x.shape[0]):
            check_parted(self._model)
        self._check_told(found, data)
        classes: tuple[float, ...] = ()
        if how.class_weight is not None:
            of_labels = y.content == "labels" or (y.dataset.binary and (y.dataset.summing or y.shape[1] == 1))
            fits = planned.loss == "crossentropy" or (planned.loss == "binary_crossentropy" and planned.outputs == 1)
            classes = class_weights(how.class_weight, planned.outputs, of_labels=of_labels and fits)
        plan = msgspec.structs.replace(planned, value=found.loss, weighted=bool(data.ws), classes=classes)
        if how.privacy is not None:
            plan = promised(plan, how.privacy, min(how.batch_size, x.shape[0]))
        return self._terms(data, fitted(plan, data.ys, how.batch_size, found.places), how.batch_size, how.memory, how.micro_batch_size)

    def _recalled(self, checkpoints: Checkpoints | None, epoch: int, how: FitSettings) -> list[dict[str, Any]]:
        """Return what callbacks remembered after so many epochs of a training that is resumed; set the learning rate to what it was."""
        found = None if checkpoints is None or not how.callbacks else checkpoints.remembered(epoch)
        if found is None:
            return []
        if found.rate is not None:
            self._model.optimizer.learning_rate = found.rate
        return found.callbacks

    @property
    def _rate(self) -> float | None:
        """The learning rate of the model's optimizer, if it is a number."""
        from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

        optimizer = self._model.optimizer
        return None if callable(internals.learning_rate(optimizer)) else float(optimizer.learning_rate)

    def _scheduled(self, terms: TrainingTerms, epochs: int) -> TrainingTerms:
        """Give the terms the learning rates of all steps of so many epochs, after those that have been made."""
        steps = max(0, epochs) * -(-terms.examples // terms.batch)
        assert isinstance(terms.plan, Plan)  # `_terms` has made it
        each = [head.weight for head in self._heads]
        optimizer = scheduled(self._model, terms.plan.optimizer, self._made, steps, *each)
        return msgspec.structs.replace(terms, plan=fitting(msgspec.structs.replace(terms.plan, optimizer=optimizer)), made=self._made)

    async def _loaded(self, terms: TrainingTerms, checkpoints: Checkpoints | None, initial: int) -> Progress:
        """Have the servers hold the weights: those of the last checkpoint, of the training before, or of the owner's model."""
        if checkpoints is not None:
            handle, secret = os.urandom(16), new_secret()
            restored = await checkpoints.restore(terms.plan, handle, secret)
            if restored is not None:
                await self.forget()
                self.version += 1
                self._handle, self._secret, self._made = handle, secret, restored.made(-(-terms.examples // terms.batch))
                return restored
        if self._handle is None:
            await self._load(terms.plan)
        return Progress(initial, 0, self._made - initial * -(-terms.examples // terms.batch))


class _Runs:
    """The runs of one fit, one after the other: a callback that sets another learning rate begins a new one."""

    def __init__(self, cluster: ThreeWorkers, checkpoints: Checkpoints | None, moving: asyncio.Lock) -> None:
        self._cluster, self._checkpoints, self._moving = cluster, checkpoints, moving
        self._run: Running | None = None

    async def at(self, terms: TrainingTerms, data: SharedExamples, model: tuple[bytes, bytes]) -> Running:
        """Return the run for what is to come, with these learning rates."""
        if self._run is not None and self._run.terms.plan != terms.plan:
            await self.end()
        if self._run is None:
            terms = msgspec.structs.replace(terms, session=os.urandom(16))
            self._run = await begun(self._cluster, terms, data.all, model, self._checkpoints, self._moving)
        return self._run

    @property
    def now(self) -> Running | None:
        """The run that is under way."""
        return self._run

    async def end(self) -> None:
        """End it."""
        if self._run is not None:
            await self._run.end()
            self._run = None
