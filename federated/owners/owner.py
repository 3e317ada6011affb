"""The owner of data as an actor: it trains on what it holds when it is asked to, and gives away weights and metrics, never a record."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors import Actor, NotAllowed, caller, message
from actors.address import Address
from actors.guard.limited_log import LimitedLog
from actors.observing.figures import Figure
from actors.observing.notes import noted
from federated.consent.admission import Admission, Policy
from federated.errors import SettingError
from federated.owners.giver import Drop, Giver, HandedIn, OwnGiver
from federated.owners.hiding import Hiding
from federated.owners.holding import Holding
from federated.owners.masker import Masker, OwnMasker, Prepared
from federated.owners.training import Trainer
from federated.tasks.base import Bases, TaskBase
from federated.tasks.failures import in_own_words
from federated.tasks.update import Evaluation, Task, Update
from federated.trainers.runner import Factory
from privacy import Ledger
from privacy.keras_models.installed import require_keras
from protocols.secure_aggregation import AggregationTerms
from protocols.secure_aggregation.session import Advertisement, Confirmation, MaskedVector, Opened, Shares
from protocols.workers.sum_server import SumServer

log = logging.getLogger(__name__)

R = TypeVar("R")


class Owner(Protocol):
    """What a federation knows of an owner, wherever it is."""

    @property
    def name(self) -> str:
        """Unlike that of any other owner."""

    async def train(self, task: Task) -> Update:
        """Train; return the update of a round."""

    async def evaluate(self, task: Task) -> Evaluation:
        """Return the metrics of the weights of the task on the owner's evaluation data."""


@runtime_checkable
class MaskingOwner(Owner, Protocol):
    """An owner that can take part in secure aggregation."""

    async def masker(self) -> Masker:
        """Its side of it."""


@runtime_checkable
class GivingOwner(Owner, Protocol):
    """An owner that can take part in the two-server aggregation."""

    async def giver(self) -> Giver:
        """Its side of it."""


@runtime_checkable
class ChangingOwners(Protocol):
    """Owners that come and go while a federation is open."""

    async def present(self) -> Sequence[Owner]:
        """Those of the next round; waits until there is one."""

    def away(self) -> Collection[str]:
        """Return the names of those of the last `present` that are not here now."""

    def settle(self, why: str) -> None:
        """Take in nobody else from now on, for this reason."""


async def giver(owner: Owner) -> Giver:
    """Return the owner's side of the two-server aggregation.

    Raises:
        SettingError: it has none.
    """
    if not isinstance(owner, GivingOwner):
        raise SettingError(f"{type(owner).__name__} has no giver(): SharedAggregation needs owners that give halves; give it an OwnGiver")
    return await owner.giver()


async def masker(owner: Owner) -> Masker:
    """Return the owner's side of a secure aggregation.

    Raises:
        SettingError: it has none.
    """
    if not isinstance(owner, MaskingOwner):
        raise SettingError(f"{type(owner).__name__} has no masker(): SecureAggregation needs owners that mask; give it an OwnMasker")
    return await owner.masker()


class DataOwner(Actor):
    """Holds data, and trains the models that it is sent.

    What happens in a round: (1) a task arrives: weights, settings, and the digest of what is the same in all rounds, a blueprint (JSON, no
    code) and the weights that no round changes; an owner that does not have these asks for them, and hashes what comes; (2) the model is
    built, once for each blueprint; (3) it trains in a thread, so that the process goes on answering; (4) what training added to the
    weights that change, the number of examples and the metrics go back. If the aggregator gives up, training stops after the batch under
    way.

    Whom it serves is said in its `policy`: by default its own process, processes of the same user of this machine, and an aggregator
    that it has joined. One that listens for an aggregator on another machine has to be told the name in the certificate of that one.

    Args:
        data: (x, y) or (x, y, sample_weight) of arrays or dicts, tuples or lists of arrays; a `tf.data.Dataset` of batches of these; or a
            `keras.utils.PyDataset`. See `federated.records.data.Data`.
        evaluation: the same, to evaluate global models on; None: this owner evaluates nothing.
        identity: its long-term key for secure aggregation; None: a new one for as long as the actor lives.
        roster: public keys (32 bytes) of the owners that it aggregates with; its updates leave it in no other way then. None: whomever the
            aggregator names, see `OwnMasker`.
        least_cohort: the smallest number of owners among which it hides its updates, at least 3; None: two thirds of the roster, or 3
            without one. With fewer than the whole roster, an aggregator that asks for the same in two rounds, with and without one owner,
            learns the update of that one from the difference.
        ledger: of what was let out about the data; asked and told before each round, see `Release.event`. With one, nothing leaves that it
            was not charged for: no metrics, and no evaluation. That it takes part at all, or fails, costs nothing; so it trains no more
            when training has failed three times. None: no limit.
        policy: whom it serves, and what it agrees to, see `Policy`; None: the default one.
        trainer: a trainer of its own, in place of Keras: a class or function that is called with the data (and with the evaluation data,
            if there is any) and gives a `OwnTrainer`. The data may then be anything that it takes. The code is the owner's: none travels.
        memory: a folder for what it remembers between rounds, if it has a trainer of its own or a strategy asks for a method that does
            (SCAFFOLD, FedDyn, Ditto, layers of its own), so that it survives this process; None: it does not.

    Raises:
        DataError: the data is none of these, or is empty. Data sets are read, and counted, when they are first asked for.
        SettingError: settings that make no sense, or not together.

    Example:
        >>> async with ActorSystem(listen="ws://127.0.0.1:9001") as system:
        ...     await system.spawn(DataOwner, (x, y), name="owner")
        ...     await system.serve_forever()
    """

    def __init__(
        self,
        data: Any,
        evaluation: Any = None,
        *,
        identity: Ed25519PrivateKey | None = None,
        roster: Collection[bytes] | None = None,
        least_cohort: int | None = None,
        ledger: Ledger | None = None,
        policy: Policy | None = None,
        trainer: Factory | None = None,
        memory: str | os.PathLike[str] | None = None,
    ) -> None:
        policy = policy or Policy()
        self._aggregators: set[str] = set()
        self._lines = LimitedLog()
        if trainer is not None:
            policy.check_own_trainer()
        else:
            require_keras("an owner without a trainer of its own")
        self._holding = Holding(data, evaluation, trainer, memory)
        self._admission = Admission(policy, ledger, hidden_only=roster is not None)
        self._trainer = Trainer(largest=policy.largest, min_batch=policy.min_batch)
        self._training = self._holding.at(self._trainer, least=policy.min_examples)
        self._bases = Bases()
        self._giver = OwnGiver(self._trained)
        self._masker = OwnMasker(
            self._trained_to_hide,
            identity=identity,
            roster=roster,
            least=least_cohort,
            policy=policy,
            served=self._admission.served,
        )

    @message
    async def joins(self, aggregator: str) -> None:
        """Take the system at an address, which this owner's own process is about to join, for an aggregator: for `stay_joined`.

        Raises:
            NotAllowed: another process says so.
        """
        if not caller().local:
            raise NotAllowed("whom an owner joins is for its own process to say")
        self._aggregators.add(str(Address.parse(aggregator)))

    @message(by="aggregator")
    async def train(self, task: Task) -> Update:
        """Train as told, from the weights of the task.

        Raises:
            NotAllowed: it does not serve whoever asks.
            ModelRefused: the blueprint cannot be built here.
            DataError: the data set is empty or without end.
            UpdateHeldBack: its policy does not allow it, or the ledger cannot pay for it.
            BaseMissing: it does not have what the task leaves out; nothing was done, and nothing counts.
            OwnerFailed: something else went wrong; what, is in the log of this process.
        """
        return await self._serve("training", lambda: self._whole(task, self._trained))

    @message(by="aggregator")
    async def hold(self, base: TaskBase) -> None:
        """Keep what tasks leave out, after one has named it by its digest.

        Raises:
            NotAllowed: this owner does not serve whoever asks.
            UpdateHeldBack: no task has named it, or the policy forbids such a model.
        """
        return await self._serve("keeping a model", lambda: self._held(base))

    async def _held(self, base: TaskBase) -> None:
        await asyncio.to_thread(self._bases.check_wanted, base)  # hashes it
        await asyncio.to_thread(self._admission.admit_base, base)
        self._bases.keep(base)

    async def _serve(self, what: str, work: Callable[[], Awaitable[R]]) -> R:
        """Work for the one whom this owner serves, and tell nobody what its failures quote."""
        try:
            self._admission.policy.check_caller(caller(), self._aggregators)
        except NotAllowed:
            self._lines.write(log, logging.WARNING, "refused", "refused: %s, wanted by %s", what, caller().placed)
            raise
        return await in_own_words(what, work())

    async def _whole(self, task: Task, work: Callable[[Task], Awaitable[R]]) -> R:
        """Work by a task that has arrived, with what it leaves out. Whoever takes a task from elsewhere takes it through here."""
        noted(run=task.run, round=task.round)
        return await work(self._bases.whole(task))

    async def _trained(self, task: Task, *, hidden: bool = False) -> Update:
        await asyncio.to_thread(self._admission.admit, task, self._holding.data, hidden=hidden)
        try:
            update = await self._training.train(task, tells=self._admission.tells_metrics)
        except Exception:
            self._admission.failed()
            raise
        return self._admission.outgoing(update)

    async def _trained_to_hide(self, task: Task) -> Update:
        return await self._trained(task, hidden=True)

    @message(by="aggregator")
    async def evaluate(self, task: Task) -> Evaluation:
        """Evaluate the weights of the task; 0 examples if this owner has no evaluation data.

        Raises:
            UpdateHeldBack: it keeps a ledger, or its policy does not allow it.
            ModelRefused, DataError, OwnerFailed: as in training.
        """
        return await self._serve("evaluation", lambda: self._whole(task, self._evaluated))

    async def _evaluated(self, task: Task) -> Evaluation:
        if self._holding.evaluates_nothing:
            return Evaluation(task.round, 0, {})
        await asyncio.to_thread(self._admission.admit_evaluation, task)
        return await self._training.evaluate(task)

    # Secure aggregation, see `Masker`.

    @message(by="aggregator")
    async def prepare(self, task: Task, hiding: Hiding) -> Prepared:
        """Train, and keep the update.

        Raises:
            UpdateHeldBack: it cannot be hidden.
        """
        return await self._serve("training", lambda: self._whole(task, lambda one: self._masker.prepare(one, hiding)))

    @message(by="aggregator")
    async def advertise(self, ticket: bytes, terms: AggregationTerms) -> Advertisement:
        """Begin a session.

        Raises:
            AggregationError: terms that this owner does not agree to.
        """
        return await self._serve("secure aggregation", lambda: self._masker.advertise(ticket, terms))

    @message(by="aggregator")
    async def share(self, session: bytes, advertisements: list[Advertisement], nonces: tuple[bytes, ...] = ()) -> Shares:
        """Share the secrets of the session."""
        return await self._serve("secure aggregation", lambda: self._masker.share(session, advertisements, nonces))

    @message(by="aggregator")
    async def mask(self, session: bytes, sealed: dict[int, bytes]) -> MaskedVector:
        """Return the masked update."""
        return await self._serve("secure aggregation", lambda: self._masker.mask(session, sealed))

    @message(by="aggregator")
    async def confirm(self, session: bytes, survivors: list[int]) -> Confirmation:
        """Sign whose sum it is."""
        return await self._serve("secure aggregation", lambda: self._masker.confirm(session, survivors))

    @message(by="aggregator")
    async def unmask(self, session: bytes, confirmations: list[Confirmation]) -> Opened:
        """Help to open the sum."""
        return await self._serve("secure aggregation", lambda: self._masker.unmask(session, confirmations))

    # Two-server aggregation, see `Giver`.

    @message(by="aggregator")
    async def give(self, task: Task, hiding: Hiding, drop: Drop, vectors: SumServer, seeds: SumServer) -> HandedIn:
        """Train, and hand each server its half of the update.

        Raises:
            UpdateHeldBack: it cannot be hidden, or its policy does not allow these servers.
            AggregationError: a server refuses its half.
        """
        return await self._serve("training", lambda: self._whole(task, lambda one: self._given(one, hiding, drop, vectors, seeds)))

    async def _given(self, task: Task, hiding: Hiding, drop: Drop, vectors: SumServer, seeds: SumServer) -> HandedIn:
        self._admission.policy.check_servers(str(vectors), str(seeds))
        return await self._giver.give(task, hiding, drop, vectors, seeds)

    async def observed(self) -> list[Figure]:
        """Return what it shows in metrics; see `actors.observing.figures`."""
        return await asyncio.to_thread(self._admission.figures)

    async def stopped(self) -> None:
        """End the thread."""
        await self._trainer.close()
