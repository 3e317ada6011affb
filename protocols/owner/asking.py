"""A network that is trained on shares, and what is asked of it without moving its weights: metrics, predictions, its weights.

The owner's side: what is revealed here is revealed to this process alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import warnings
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.curves.activations import CURVES
from protocols.datasets.dataset import Dataset, SharedDataset
from protocols.errors import InputError, ModelError, PrecisionWarning, WindowError, WorkerLost
from protocols.lowering.forms import check_predicts
from protocols.lowering.scales.noise import noisy
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.mpc.program import Program
from protocols.noisy_answers import NoisyAnswers
from protocols.owner.compiled import ending, places, plan, weights
from protocols.owner.compiled_loss import expects
from protocols.owner.compiled_optimizer import goes_on, unrated
from protocols.owner.epochs import values_of
from protocols.owner.fit.examples import GivenExamples
from protocols.owner.fit.heads import CompiledHead, Ends, ends, heads
from protocols.owner.fit.settings import LogNames, whole
from protocols.owner.metrics import told_of
from protocols.owner.running import Running, begun
from protocols.owner.stored import SharedExamples, forget, lent, training_servers
from protocols.owner.targets import check_features, check_targets, check_told, fitted
from protocols.trained import ServedNetwork, served
from protocols.training.asked import BaseOutputs, SharedEvaluation, SharedPrediction
from protocols.training.base import parts
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import losses
from protocols.training.step import Plan
from protocols.training.terms import AnyPlan, TrainingTerms, check

MEMORY = 512 << 20
"""Bytes of randomness that a server holds ahead, unless the owner says otherwise."""
OUTSIDE = "numbers have left fixed point for some of these examples"


class Asking(NamedTuple):
    """Metrics that are asked for.

    Attributes:
        terms: of the run.
        data: the examples.
        names: of what is told.
    """

    terms: TrainingTerms
    data: SharedExamples
    names: LogNames


class SharedNetwork:
    """A compiled model whose weights both servers share, as they are trained: made at the first `fit` of a shared model.

    Attributes:
        version: counts how often the weights at the servers have become others.


    Args:
        model: the owner's compiled model.
        cluster: where it is shared.
        name: under which it is shared; among equals it says who helps.
    """

    def __init__(self, model: Any, cluster: ThreeWorkers, name: str) -> None:
        self._model, self._cluster, self._name = model, cluster, name
        self._handle: bytes | None = None
        self._secret = b""
        self._seats = cluster.seats_for(name)
        self._plan: Plan | None = None
        self._places: list[int] = []
        self._compiled: dict[str, Any] = {}
        self._made = 0
        self.version = 0
        self._moving = asyncio.Lock()
        """Held while both servers take other shares for the weights, or those that there are: never one before and one after."""

    @property
    def begun(self) -> bool:
        """Say whether the weights have been shared for training."""
        return self._handle is not None

    async def _load(self, plan: AnyPlan) -> None:
        """Share the weights: one uniform share, the other the difference."""
        numbers = [encode(number, 2.0**-FRACTION) for number in weights(self._model)]
        stream = KeyStream(fresh_key())
        first = [stream.words(number.shape) for number in numbers]
        second = [number - share for number, share in zip(numbers, first, strict=True)]
        handle, secret, presence = os.urandom(16), new_secret(), self._cluster.presence
        placing = zip(await training_servers(self._cluster, self._name), self._seats.servers, (first, second), strict=True)
        await at_once(*(server.load(handle, digest_at(secret, place), plan, share, presence) for server, place, share in placing))
        self._handle, self._secret = handle, secret

    @property
    def ends(self) -> tuple[Ends, Ends]:
        """Return what the model takes, and what it gives."""
        return ends(self._model, "inputs"), ends(self._model, "outputs")

    @property
    def _heads(self) -> tuple[CompiledHead, ...]:
        """Return the outputs as they are compiled."""
        return heads(self._model)

    @property
    def _rights(self) -> list[bytes]:
        """Return those to the model, at server 0 and at server 1."""
        return [right_at(self._secret, place) for place in self._seats.servers]

    def _terms(
        self,
        data: SharedExamples,
        plan: AnyPlan,
        batch_size: int,
        memory: int,
        micro_batch: int | None = None,
    ) -> TrainingTerms:
        """Return the checked terms, without the order of the examples."""
        takes, _ = self.ends
        for shape, array in zip(takes.shapes if data.xs else (), data.xs, strict=True):
            check_features(shape, array)
        for head, loss, array in zip(self._heads, losses(self._planned().loss), data.ys, strict=False):
            check_targets(expects(head), array, loss)
        xs, ys, ws = (tuple(each.dataset for each in arrays) for arrays in data)
        x, y, w = (arrays[0] if arrays else None for arrays in (xs, ys, ws))
        session, equals, name = os.urandom(16), self._cluster.equals, self._name
        terms = TrainingTerms(session, plan, x, y, batch_size, None, memory, equals, name, 0, w, xs[1:], ys[1:], ws[1:], micro_batch)
        check(terms)
        return terms

    def _planned(self) -> Plan:
        """Return what the model is compiled for; once training has begun only its learning rate may be another.

        Raises:
            ModelError: it was compiled for something else since.
        """
        from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

        compiled, before = internals.compile_arguments(self._model), self._compiled
        if self._plan is not None and compiled and all(compiled[name] is before.get(name) for name in compiled):
            return self._plan
        found = plan(self._model)
        anew = compiled.get("optimizer") is not before.get("optimizer")
        if self._plan is None or not self.begun:
            self._plan, self._places = found, places(self._model)
        elif unrated(found) != unrated(self._plan) or (anew and goes_on(self._model, found.optimizer)):
            raise ModelError(
                f"model {self._model.name!r} was compiled again since its training began, and on shares that goes on with the loss and the"
                " optimizer it has: set model.optimizer.learning_rate for another rate; for anything else reveal the model, compile what is"
                " revealed, and share that"
            )
        self._compiled, self._plan = compiled, msgspec.structs.replace(self._plan, loss=found.loss, threshold=found.threshold)
        return self._plan

    async def _keep(self, wanted: list[tuple[bool, int]]) -> None:
        """Have both servers keep weights as they are (True), or go back to those that they have kept, each in its slot."""
        servers = await training_servers(self._cluster, self._name) if wanted else ()
        for keeps, slot in wanted:
            held = zip(servers, self._rights, strict=True)
            async with self._moving:
                await at_once(*((one.keep if keeps else one.revert)(self._handle or b"", right, slot) for one, right in held))
            self.version += not keeps

    # What is asked of the network.

    def _evaluation(
        self,
        data: SharedExamples,
        batch_size: int,
        memory: int,
        *,
        metrics: bool | Collection[str] = True,
        micro_batch: int | None = None,
    ) -> Asking:
        """Return what has to be done for metrics on some examples, checked."""
        check_predicts(self._model)
        planned, found = self._planned(), self._evaluation_names(metrics)
        self._check_told(found, data)
        network = msgspec.structs.replace(planned, value=found.loss, weighted=bool(data.ws))
        plan = SharedEvaluation(fitted(network, data.ys, batch_size, found.places))
        return Asking(self._terms(data, plan, batch_size, memory, micro_batch), data, found)

    def _check_told(self, found: LogNames, data: SharedExamples) -> None:
        """Refuse accuracies of targets that are neither right nor wrong."""
        for place, (loss, y) in enumerate(zip(losses(self._planned().loss), data.ys, strict=True)):
            if found.metrics and place in (found.places or (0,)):
                check_told(loss, y)

    def _evaluation_names(self, metrics: bool | Collection[str] = True) -> LogNames:
        """Return what is told of an evaluation: the loss and the compiled metrics, or those of them that were asked for.

        Raises:
            InputError: nothing was asked for.
        """
        return told_of(self._heads, self._planned().loss, metrics, evaluates=True)

    async def evaluate(self, data: GivenExamples, *, batch_size: int, memory: int) -> dict[str, float]:
        """See `SharedModel.evaluate`."""
        batch_size, memory = whole("batch_size", batch_size), whole("memory", memory)
        async with self._lent(data) as shared:
            return await self._evaluated(self._evaluation(shared, batch_size, memory))

    def _lent(self, data: GivenExamples) -> AbstractAsyncContextManager[SharedExamples]:
        """Share some examples for as long as a block lasts, once it is known what they are for."""
        self._planned()  # or it is refused
        each = self._heads
        return lent(self._cluster, self._name, data, [expects(head) for head in each], [math.prod(head.shape) for head in each])

    async def _evaluated(self, asking: Asking) -> dict[str, float]:
        told = ["loss"] * asking.names.loss + ["metric"] * bool(asking.names.metrics)
        async with self._asked(asking.terms, asking.data.all) as run:
            first, second = await run.asked(told)
        if (first.outside + second.outside).any():
            warnings.warn(f"{OUTSIDE}: metrics are not told (NaN)", PrecisionWarning, stacklevel=2)
            return dict.fromkeys(asking.names.all, math.nan)
        return asking.names.logs(values_of(asking.terms, (first, second)))

    async def predict(self, data: GivenExamples, *, batch_size: int, memory: int) -> Any:
        """See `SharedModel.predict`.

        Raises:
            InputError: an array is shared already.
        """
        batch_size, memory = whole("batch_size", batch_size), whole("memory", memory)
        for one in data.arrays.values():
            if isinstance(one, SharedDataset):
                raise InputError(f"{one.name!r} is shared already: predictions for single examples are made of one's own arrays")
        check_predicts(self._model)
        async with self._lent(data) as shared:
            terms = self._terms(shared, SharedPrediction(self._planned()), batch_size, memory)
            async with self._asked(terms, shared.all) as run:
                first, second = await run.asked(["outputs"])
        if (first.outside + second.outside).any():
            raise WindowError(f"{OUTSIDE}: no answers can be trusted; ask with inputs that are scaled like those of the training")
        outputs = decode(first.told["outputs"] + second.told["outputs"], 2.0**-FRACTION)
        gives, found = self.ends[1], []
        for shape, activation in zip(gives.shapes, ending(self._model), strict=True):
            part, outputs = np.split(outputs, [math.prod(shape)], axis=1)
            found.append(_ended(part, activation).reshape(-1, *shape))
        return gives.held(found)

    def served(self, like: Program, noise: NoisyAnswers | None, memory: int) -> ServedNetwork:
        """Return what serves the network as it is trained; see `protocols/trained`.

        Raises:
            ModelError: answers would have a sensitivity that nobody can bound.
            WindowError, UnsupportedLayer: the network cannot be served so.
        """
        if noise is not None and noise.sensitivity is not None:
            raise ModelError(
                f"sensitivity={noise.sensitivity:g} bounds outputs of weights that somebody knows: of a network that is served as it was"
                " trained windows are assumed; reveal() it, and share what is revealed"
            )
        check_predicts(self._model)
        end = None if noise is None else partial(noisy, answers=noise)
        planned, gives = self._planned(), self.ends[1]
        shape = (planned.outputs,) if gives.several else gives.shapes[0]
        return served(planned, ending(self._model), shape, like, end=end, watching=noise is None, memory=memory)

    async def ready(self, found: ServedNetwork) -> tuple[bytes, bytes]:
        """Have both servers make the weights ready to be served; return their handle, and the secret of the rights to them.

        Raises:
            WindowError: weights are larger than sums of them are proved for.
            NotGranted: the owners of the data open weights to others only.
        """
        terms = self._terms(SharedExamples(), found.derivation, 1, MEMORY)
        handle, secret = os.urandom(16), new_secret()
        try:
            async with self._asked(terms, ()) as run:
                first, second = await run.asked([])
                if (first.outside + second.outside).any():
                    raise WindowError(f"weights are beyond +-{found.largest:g}: train with a smaller learning rate, or with weight_decay")
                await run.ready(handle, secret, self._cluster.presence)
        except ActorError as error:
            raise WorkerLost(f"the trained weights could not be made ready: {error}") from None
        return handle, secret

    async def _cut(
        self, stack: contextlib.AsyncExitStack, terms: TrainingTerms, data: SharedExamples
    ) -> tuple[TrainingTerms, SharedExamples]:
        """Have what a frozen base gives computed once, and held until the stack ends; return what is to be done with the head alone.

        As it was where there is no base or its outputs are too large, see `training/base.py`; or where numbers have left fixed point in
        it, which is then told as ever. The steps are those of the first epoch, which the owners of the data allow.
        """
        asked = terms.plan
        network = asked.plan if isinstance(asked, SharedEvaluation) else asked
        found = parts(network, terms.examples) if isinstance(network, Plan) else None
        if found is None:
            return terms, data
        base = self._terms(SharedExamples(data.xs), BaseOutputs(found.base), terms.batch, terms.memory, terms.micro_batch)
        x = data.xs[0].dataset
        made = SharedDataset(Dataset(x.name, (x.shape[0], found.base.outputs), "numbers", os.urandom(16), x.records), new_secret())
        async with self._asked(msgspec.structs.replace(base, order=terms.order), data.xs) as run:
            first, second = await run.asked([])
            if (first.outside + second.outside).any():
                return terms, data
            stack.push_async_callback(forget, self._cluster, made)
            await run.hold(made, self._cluster.presence)
        head = msgspec.structs.replace(asked, plan=found.head) if isinstance(asked, SharedEvaluation) else found.head
        return msgspec.structs.replace(terms, x=made.dataset, xs=(), plan=head), data._replace(xs=(made,))

    @contextlib.asynccontextmanager
    async def _asked(self, terms: TrainingTerms, data: tuple[SharedDataset, ...]) -> AsyncIterator[Running]:
        """Begin a run that leaves the weights as they are."""
        if self._handle is None:
            await self._load(self._planned())
        terms = msgspec.structs.replace(terms, session=os.urandom(16))
        async with self._moving:
            run = await begun(self._cluster, terms, data, (self._handle or b"", self._secret), None, self._moving)
        try:
            yield run
        finally:
            await run.end()

    async def reveal(self) -> Any:
        """See `SharedModel.reveal`."""
        import keras  # noqa: PLC0415  only the owner needs Keras

        trained = keras.models.clone_model(self._model)
        trained.set_weights(self._model.get_weights())
        if self._handle is not None:
            servers = await training_servers(self._cluster, self._name)
            try:
                held = zip(servers, self._rights, strict=True)
                async with self._moving:
                    first, second = await at_once(*(server.weights(self._handle, right) for server, right in held))
            except ActorError as error:
                raise WorkerLost(f"the weights could not be fetched: {error}") from None
            for place, a, b in zip(self._places, first, second, strict=False):  # what stays comes last
                trained.weights[place].assign(decode(a + b, 2.0**-FRACTION).reshape(tuple(trained.weights[place].shape)))
        trained.compile_from_config(self._model.get_compile_config())
        return trained

    async def forget(self) -> None:
        """Remove the shares of the weights from the servers."""
        if self._handle is not None:
            servers = await training_servers(self._cluster, self._name)
            held = zip(servers, self._rights, strict=True)
            await at_once(*(server.forget(self._handle, right) for server, right in held))
            self._handle = None


def _ended(outputs: npt.NDArray[np.float64], last: str | None) -> npt.NDArray[np.float64]:
    """Return outputs after the activation at the end of a model, in the clear."""
    if last == "softmax":
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities
    return outputs if last is None else CURVES[last].function(outputs)
