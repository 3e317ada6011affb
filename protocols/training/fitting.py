"""The owner's side of training: `SharedModel.fit` and `SharedModel.reveal`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from actors import ActorError
from protocols.concurrency import at_once
from protocols.errors import Altered, Diverged, InputError, UnknownModel, WorkerLost
from protocols.fixed_point import decode, encode
from protocols.keystream import KeyStream, fresh_key
from protocols.training.compiled import plan
from protocols.training.compiled_loss import expects
from protocols.training.compiled_optimizer import scheduled
from protocols.training.functions import FRACTION
from protocols.training.losses import METRIC_BITS, Loss
from protocols.training.step import Plan
from protocols.training.stored import trainers
from protocols.training.terms import Column, Report, Terms, check
from protocols.training.training_dealer import TrainingDealer
from protocols.training.training_server import TrainingServer

if TYPE_CHECKING:
    from protocols.cluster import Cluster

MEMORY = 128 << 20
"""Bytes of randomness that a server holds ahead, unless the owner says otherwise."""


METRICS: dict[Loss, str] = {"crossentropy": "accuracy", "binary_crossentropy": "accuracy", "mse": "mean squared error"}
"""The name of the metric of each loss."""


class Epoch(msgspec.Struct, frozen=True):
    """What is known of an epoch.

    Attributes:
        number: from 1.
        metric: "accuracy" or "mean squared error" of the steps, each before its update; None if metrics are not revealed.
        value: of the metric, or None.
        steps: how many.
        rounds: messages of each server to the other in a step, on average.
        seconds: of a step, on average.
        online: the same without waiting for randomness.
        bytes: in a step on average: between the servers, both ways.
        dealt: in a step on average: from the provider.
        loss: of the steps, each before its update, or None.
    """

    number: int
    metric: str | None
    value: float | None
    steps: int
    rounds: float
    seconds: float
    online: float
    bytes: float
    dealt: float
    loss: float | None = None

    def __str__(self) -> str:
        metric = "" if self.value is None else f"{self.metric} {self.value:.2f}, "
        if self.loss is not None:
            metric += f"loss {self.loss:.3f}, "
        total = (self.bytes + self.dealt) / 1e6
        return f"epoch {self.number}: {metric}{self.steps} steps, {self.seconds * 1000:.0f} ms/step, {total:.1f} MB/step"


class Training:
    """A compiled model as the servers train it: made at the first `fit` of a shared model.

    Args:
        model: the owner's compiled model.
        cluster: where it is shared.
    """

    def __init__(self, model: Any, cluster: Cluster) -> None:
        self._model, self._cluster = model, cluster
        self._handle: bytes | None = None
        self._plan: Plan | None = None
        self._made = 0

    @property
    def begun(self) -> bool:
        """Whether the weights have been shared for training."""
        return self._handle is not None

    async def _load(self) -> Plan:
        """Shares the weights: one uniform share, the other the difference."""
        if self._plan is None:
            self._plan = plan(self._model)
        if self._handle is None:
            weights = [encode(np.asarray(weight), 2.0**-FRACTION) for weight in self._model.get_weights()]
            stream = KeyStream(fresh_key())
            first = [stream.words(weight.shape) for weight in weights]
            second = [weight - share for weight, share in zip(weights, first, strict=True)]
            handle = os.urandom(16)
            *servers, _ = await trainers(self._cluster)
            presence = self._cluster.presence
            await at_once(*(s.load(handle, self._plan, share, presence) for s, share in zip(servers, (first, second), strict=True)))
            self._handle = handle
        return self._plan

    async def fit(
        self, x: Column, y: Column, *, epochs: int, batch_size: int, shuffle: bool, metrics: bool | Collection[str], memory: int
    ) -> AsyncGenerator[Epoch]:
        """See `SharedModel.fit`."""
        if epochs < 1:
            raise InputError(f"epochs={epochs}; at least 1 is needed")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; at least 1 is needed")
        found = self._plan or plan(self._model)
        names = _asked(metrics, found)
        steps = -(-x.shape[0] // batch_size)
        optimizer = scheduled(self._model, found.optimizer, self._made, epochs * steps)
        found = msgspec.structs.replace(found, optimizer=optimizer, value="loss" in names)
        order = fresh_key() if shuffle else None
        session, owner, link, authority = (os.urandom(16) for _ in range(4))
        terms = Terms(session, owner, link, authority, found, x, y, batch_size, order, memory, self._cluster.addresses, self._made)
        _check_targets(expects(self._model), y)
        check(terms)
        try:
            await self._load()
            assert self._handle is not None
            first, second, dealer = await trainers(self._cluster)
            servers = [first, second]
            try:
                presence = self._cluster.presence
                starts = (server.begin(terms, self._handle, party, presence) for party, server in enumerate(servers))
                await at_once(*starts, dealer.begin(terms, presence))
                for number in range(epochs):
                    training = _trained(servers, terms.owner, number, ["loss" if name == "loss" else "metric" for name in names])
                    reports, _ = await at_once(training, _dealt(dealer, terms.owner, number))
                    if not compare_digest(reports[0].seal, reports[1].seal):
                        raise Altered(
                            f"the servers do not agree on what they sent each other in epoch {number + 1}: something on the way was"
                            " altered; the model is as it was after the last complete epoch"
                        )
                    if (reports[0].outside + reports[1].outside).any():
                        raise Diverged(number + 1)
                    await at_once(*(server.keep(terms.owner) for server in servers))
                    self._made += steps
                    yield _epoch(number + 1, terms, reports)
            finally:
                await _ended(terms.owner, first, second, dealer)
        except ActorError as error:
            raise WorkerLost(f"the training stopped: {error}; the model is as it was after the last complete epoch") from None

    async def reveal(self) -> Any:
        """See `SharedModel.reveal`."""
        import keras  # noqa: PLC0415  only the owner needs Keras

        trained = keras.models.clone_model(self._model)
        if self._handle is None:
            trained.set_weights(self._model.get_weights())
        else:
            *servers, _ = await trainers(self._cluster)
            try:
                first, second = await at_once(*(server.weights(self._handle) for server in servers))
            except ActorError as error:
                raise WorkerLost(f"the weights could not be fetched: {error}") from None
            trained.set_weights([decode(a + b, 2.0**-FRACTION) for a, b in zip(first, second, strict=True)])
        trained.compile_from_config(self._model.get_compile_config())
        return trained

    async def forget(self) -> None:
        """Removes the shares of the weights from the servers."""
        if self._handle is not None:
            *servers, _ = await trainers(self._cluster)
            await at_once(*(server.forget(self._handle) for server in servers))
            self._handle = None


async def _trained(servers: list[TrainingServer], owner: bytes, number: int, told: list[str]) -> list[Report]:
    return await at_once(*(server.with_options(timeout=None).epoch(owner, number, told) for server in servers))


async def _dealt(dealer: TrainingDealer, owner: bytes, number: int) -> list[Report]:
    await dealer.with_options(timeout=None).epoch(owner, number)
    return []


async def _ended(owner: bytes, *workers: TrainingServer | TrainingDealer) -> None:
    """Ends a run wherever it has begun."""
    for outcome in await asyncio.gather(*(worker.end(owner) for worker in workers), return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, ActorError | UnknownModel):
            raise outcome


def _check_targets(expected: str, y: Column) -> None:
    """Refuses labels where the loss compares with numbers, and the other way round."""
    if expected == "labels" and y.content != "labels":
        raise InputError(f"the loss needs labels, and {y.name!r} was stored as numbers: store one integer an example")
    if expected == "numbers" and y.content == "labels":
        raise InputError(f"the loss needs numbers, and {y.name!r} was stored as labels because it is made of integers: store floats")


def _asked(metrics: bool | Collection[str], plan: Plan) -> tuple[str, ...]:
    """The names of the metrics that are told."""
    possible = (METRICS[plan.loss], "loss")
    if isinstance(metrics, bool):
        return possible[:1] if metrics else ()
    wanted = {metrics} if isinstance(metrics, str) else set(metrics)
    if wanted - set(possible):
        raise InputError(f"metrics={metrics!r} was asked for; with this loss {' and '.join(map(repr, possible))} can be told")
    return tuple(name for name in possible if name in wanted)


def _values(terms: Terms, reports: list[Report]) -> dict[str, float]:
    """What was told, as means over examples, and over outputs where Keras has it so."""
    plan = terms.plan
    count = terms.examples * (1 if plan.loss == "crossentropy" else plan.outputs)
    bits = {"metric": METRIC_BITS[plan.loss], "loss": 2 * FRACTION}
    sums = {name: decode(share + reports[1].told[name], 2.0 ** -bits[name]) for name, share in reports[0].told.items()}
    return {name: float(total[0]) / count for name, total in sums.items()}


def _epoch(number: int, terms: Terms, reports: list[Report]) -> Epoch:
    steps, values = len(terms.rows(0)), _values(terms, reports)
    seconds = max(report.seconds for report in reports)
    online = max(report.seconds - report.waited for report in reports)
    sent, dealt = sum(report.sent for report in reports), sum(report.dealt for report in reports)
    return Epoch(
        number,
        METRICS[terms.plan.loss] if "metric" in values else None,
        values.get("metric"),
        steps,
        reports[0].rounds / steps,
        seconds / steps,
        online / steps,
        sent / steps,
        dealt / steps,
        values.get("loss"),
    )
