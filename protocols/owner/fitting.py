"""The owner's side of training: `SharedModel.fit` and `SharedModel.reveal`."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Collection
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import msgspec

from actors import ActorError
from protocols.accounting.agreed import check_asked, fitting, promised
from protocols.accounting.spending import Spending
from protocols.authority.presence import Presence
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.authority.seats import Seats
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.datasets.dataset import SharedDataset
from protocols.errors import Altered, Diverged, InputError, ModelError, UnknownModel, WorkerLost
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.owner.checkpoints import Checkpoints, settings
from protocols.owner.compiled import places, plan, weights
from protocols.owner.compiled_loss import expects
from protocols.owner.compiled_optimizer import goes_on, scheduled, unrated
from protocols.owner.epochs import Epoch, Segment, epoch_of
from protocols.owner.progress import live
from protocols.owner.stored import trainers, training_servers
from protocols.owner.targets import asked, check_features, check_targets, check_told, sums_told
from protocols.storage.versions import Progress
from protocols.training.networks.functions import FRACTION
from protocols.training.step import Plan
from protocols.training.terms import AnyPlan, TrainingTerms, check
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer

if TYPE_CHECKING:
    from privacy.ledger import Ledger
    from privacy.mechanisms import DPSGD

MEMORY = 512 << 20
"""Bytes of randomness that a server holds ahead, unless the owner says otherwise."""


class Training:
    """A compiled model as the servers train it: made at the first `fit` of a shared model.

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
        self._spending = Spending()

    @property
    def begun(self) -> bool:
        """Whether the weights have been shared for training."""
        return self._handle is not None

    async def _load(self, plan: AnyPlan) -> None:
        """Shares the weights: one uniform share, the other the difference."""
        numbers = [encode(number, 2.0**-FRACTION) for number in weights(self._model)]
        stream = KeyStream(fresh_key())
        first = [stream.words(number.shape) for number in numbers]
        second = [number - share for number, share in zip(numbers, first, strict=True)]
        handle, secret, presence = os.urandom(16), new_secret(), self._cluster.presence
        placing = zip(await training_servers(self._cluster, self._name), self._seats.servers, (first, second), strict=True)
        await at_once(*(server.load(handle, digest_at(secret, place), plan, share, presence) for server, place, share in placing))
        self._handle, self._secret = handle, secret

    @property
    def _rights(self) -> list[bytes]:
        """To the model, at server 0 and at server 1."""
        return [right_at(self._secret, place) for place in self._seats.servers]

    async def fit(
        self,
        x: SharedDataset,
        y: SharedDataset,
        *,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        metrics: bool | Collection[str],
        memory: int,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        save_every: int | None = None,
        progress: bool = False,
        privacy: DPSGD | None = None,
        ledger: Ledger | None = None,
    ) -> AsyncGenerator[Epoch]:
        """See `SharedModel.fit`."""
        if epochs < 1 or batch_size < 1:
            raise InputError(f"epochs={epochs}, batch_size={batch_size}; at least 1 is needed")
        if folder is None and (resume or save_every is not None):
            raise InputError("resume= and save_every= need the folder of the training: give folder=")
        if save_every is not None and save_every < 1:
            raise InputError(f"save_every={save_every}; at least 1 step is needed")
        planned = self._planned()
        if ledger is not None and privacy is None:
            raise InputError("ledger= counts what privacy= reveals: give both, or neither")
        if privacy is not None:
            check_asked(privacy, ledger, metrics)
            planned, metrics = promised(planned, privacy, min(batch_size, x.shape[0])), False
        told = ["loss" if name == "loss" else "metric" for name in asked(metrics, planned.loss)]
        if "metric" in told:
            check_told(planned.loss, y)
        sums = sums_told(planned.loss, planned.outputs, y)
        terms = self._terms(x, y, msgspec.structs.replace(planned, value="loss" in told, sums=sums), batch_size, memory)
        rated = self._scheduled(terms, epochs)  # a rate that cannot be is refused before anything is done
        if privacy is not None:
            rated.plan.circuit(min(batch_size, terms.examples))  # and so is a weight by which no example's gradient is known
        checkpoints = None
        if folder is not None:
            same = settings(terms.plan, x, y, batch_size, self._seats.helper, shuffle=shuffle)
            checkpoints = Checkpoints(self._cluster, self._name, folder, resume=resume, settings=same, shuffle=shuffle)
        order = checkpoints.order if checkpoints is not None else fresh_key() if shuffle else None
        resumed = checkpoints is not None and checkpoints.begun
        try:
            if privacy is not None and not resumed:
                await self._spending.begin(privacy, folder, ledger, (0, epochs))
            start = await self._loaded(terms, checkpoints)
            if privacy is not None and resumed:
                await self._spending.resume(privacy, folder, ledger, (start.epoch, epochs))
            if self._made != rated.made:  # a checkpoint: rates go on from there
                rated = self._scheduled(terms, epochs - start.epoch)
            terms = msgspec.structs.replace(rated, order=order)
            run = await begun(self._cluster, terms, (x, y), (self._handle or b"", self._secret), checkpoints)
            try:
                if checkpoints is not None and not checkpoints.begun:
                    await run.save(start)
                for number in range(start.epoch, epochs):
                    first = start.step if number == start.epoch else 0
                    spent = None if privacy is None else await self._spending.paid(number)
                    segments = await run.epoch(number, first, save_every, told=told, progress=progress)
                    yield msgspec.structs.replace(epoch_of(number + 1, terms, segments), privacy=spent)
            except Diverged:
                if privacy is not None:
                    self._spending.told(number)
                raise
            finally:
                self._made = run.made
                await run.end()
        except (ActorError, WorkerLost) as error:  # whoever notices first
            reason = str(error).partition("\n")[0]
            raise WorkerLost(f"the training stopped: {reason}; {_stands(checkpoints)}") from None
        finally:
            if checkpoints is not None:
                checkpoints.close()

    def _planned(self) -> Plan:
        """What the model is compiled for; once training has begun only its learning rate may be another.

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
        self._compiled, self._plan = compiled, msgspec.structs.replace(self._plan, threshold=found.threshold)
        return self._plan

    def _terms(self, x: SharedDataset, y: SharedDataset, plan: Plan, batch_size: int, memory: int) -> TrainingTerms:
        """Checked, without the order of the examples."""
        check_targets(expects(self._model), y)
        check_features(tuple(self._model.inputs[0].shape[1:]), x)
        terms = TrainingTerms(os.urandom(16), plan, x.dataset, y.dataset, batch_size, None, memory, self._cluster.equals, self._name)
        check(terms)
        return terms

    def _scheduled(self, terms: TrainingTerms, epochs: int) -> TrainingTerms:
        """The terms with the learning rates of all steps of so many epochs, after those that have been made."""
        steps = max(0, epochs) * -(-terms.examples // terms.batch)
        assert isinstance(terms.plan, Plan)  # `_terms` has made it
        optimizer = scheduled(self._model, terms.plan.optimizer, self._made, steps, terms.plan.weight)
        return msgspec.structs.replace(terms, plan=fitting(msgspec.structs.replace(terms.plan, optimizer=optimizer)), made=self._made)

    async def _loaded(self, terms: TrainingTerms, checkpoints: Checkpoints | None) -> Progress:
        """Has the servers hold the weights: those of the last checkpoint, of the training before, or of the owner's model."""
        if checkpoints is not None:
            handle, secret = os.urandom(16), new_secret()
            restored = await checkpoints.restore(terms.plan, handle, secret)
            if restored is not None:
                await self.forget()
                self._handle, self._secret, self._made = handle, secret, restored.made(-(-terms.examples // terms.batch))
                return restored
        if self._handle is None:
            await self._load(terms.plan)
        return Progress(0, 0, self._made)

    async def reveal(self) -> Any:
        """See `SharedModel.reveal`."""
        import keras  # noqa: PLC0415  only the owner needs Keras

        trained = keras.models.clone_model(self._model)
        trained.set_weights(self._model.get_weights())
        if self._handle is not None:
            servers = await training_servers(self._cluster, self._name)
            try:
                held = zip(servers, self._rights, strict=True)
                first, second = await at_once(*(server.weights(self._handle, right) for server, right in held))
            except ActorError as error:
                raise WorkerLost(f"the weights could not be fetched: {error}") from None
            for place, a, b in zip(self._places, first, second, strict=False):  # what stays comes last
                trained.weights[place].assign(decode(a + b, 2.0**-FRACTION))
        trained.compile_from_config(self._model.get_compile_config())
        return trained

    async def forget(self) -> None:
        """Removes the shares of the weights from the servers."""
        if self._handle is not None:
            servers = await training_servers(self._cluster, self._name)
            held = zip(servers, self._rights, strict=True)
            await at_once(*(server.forget(self._handle, right) for server, right in held))
            self._handle = None


class Running:
    """One run of training: its owner's side while it lasts."""

    def __init__(
        self, terms: TrainingTerms, seats: Seats, servers: list[TrainingServer], dealer: TrainingDealer, checkpoints: Checkpoints | None
    ) -> None:
        self._terms, self._checkpoints, self._seats = terms, checkpoints, seats
        self._secret = new_secret()
        *self._rights, self._right = [right_at(self._secret, place) for place in seats.all]
        self._servers = [server.with_options(timeout=None) for server in servers]
        self._dealer = dealer.with_options(timeout=None)
        self.steps = terms.steps(0)
        self.made = terms.made
        self._begun = 0

    async def begin(self, data: tuple[SharedDataset, ...], model: tuple[bytes, bytes], presence: Presence) -> None:
        """`model` is the handle, and the secret of the rights to it."""
        handle, secret = model

        def rights(place: int) -> tuple[bytes, ...]:
            return tuple(right_at(array.secret, place) for array in data)

        starts = (
            server.begin(
                self._terms,
                digest_at(self._secret, place),
                handle,
                (*rights(place), right_at(secret, place)),
                presence,
            )
            for server, place in zip(self._servers, self._seats.servers, strict=True)
        )
        publics = await at_once(*starts)
        met = zip(self._servers, self._rights, reversed(publics), strict=True)
        await at_once(*(server.meet(self._terms.session, right, public) for server, right, public in met))
        third = self._seats.third  # among equals it agrees on keys with the servers
        await self._dealer.begin(self._terms, digest_at(self._secret, third), rights(third), presence)

    async def epoch(self, number: int, first: int, save_every: int | None, *, told: list[str], progress: bool) -> list[Segment]:
        """The steps of an epoch from `first` on, in segments that end in a checkpoint."""
        steps = self._terms.steps(number)
        stops = [*(range(first + save_every, steps, save_every) if save_every else []), steps]

        async def dealt() -> list[Segment]:
            await self._dealer.epoch(self._terms.session, self._right, number, first, stops)
            return []

        async def trained() -> list[Segment]:
            return [await self._segment(number, start, stop, told) for start, stop in itertools.pairwise([first, *stops])]

        with live(number + 1, steps, show=progress) as tell:
            showing = None if tell is None else asyncio.create_task(self._show(tell, first))
            try:
                return (await at_once(trained(), dealt()))[0]
            finally:
                self._begun += steps - first
                if showing is not None:
                    showing.cancel()
                    await asyncio.gather(showing, return_exceptions=True)

    async def _show(self, tell: Callable[[int], None], first: int) -> None:
        """Tells how many steps of an epoch a server has begun."""
        begun = before = self._begun
        while True:
            begun = await self._servers[0].begun(self._terms.session, self._rights[0], begun)
            tell(first + begun - before)

    async def _segment(self, number: int, start: int, stop: int, told: list[str]) -> Segment:
        run = self._terms.session
        both = list(zip(self._servers, self._rights, strict=True))
        first, second = await at_once(*(server.epoch(run, right, number, start, stop, told) for server, right in both))
        if not compare_digest(first.seal, second.seal):
            raise Altered(
                f"the servers do not agree on what they sent each other in epoch {number + 1}: something on the way was"
                f" altered; {_stands(self._checkpoints)}"
            )
        if (first.outside + second.outside).any():
            raise Diverged(number + 1)
        await at_once(*(server.adopt(run, right) for server, right in both))
        self.made += stop - start
        epoch, step = (number, stop) if stop < self.steps else (number + 1, 0)
        await self.save(Progress(epoch, step, self.made - epoch * self.steps - step))
        return first, second

    async def save(self, progress: Progress) -> None:
        """A checkpoint, if there are any."""
        if self._checkpoints is not None:
            await self._checkpoints.save(self._terms.session, self._rights, progress)

    async def end(self) -> None:
        """Ends the run wherever it has begun."""
        workers: list[TrainingServer | TrainingDealer] = [*self._servers, self._dealer]
        rights = (*self._rights, self._right)
        work = (worker.with_options(timeout=5.0).end(self._terms.session, right) for worker, right in zip(workers, rights, strict=True))
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ActorError | UnknownModel):
                raise outcome


async def begun(
    cluster: ThreeWorkers,
    terms: TrainingTerms,
    data: tuple[SharedDataset, ...],
    model: tuple[bytes, bytes],
    checkpoints: Checkpoints | None,
) -> Running:
    """Have all three workers begin a run on `data`: x, y, and the weights of the examples if there are any."""
    first, second, dealer = await trainers(cluster, terms.name)
    run = Running(terms, cluster.seats_for(terms.name), [first, second], dealer, checkpoints)
    try:
        await run.begin(data, model, cluster.presence)
    except BaseException:
        await run.end()
        raise
    return run


def _stands(checkpoints: Checkpoints | None) -> str:
    if checkpoints is None:
        return "the model is as it was after the last complete epoch"
    return "the last checkpoint stands: run it again with resume=True when all workers are there"
