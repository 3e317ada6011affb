"""The aggregator: holds the global model, asks owners round by round, and lets the strategy make the next model of what they send."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from actors import ActorSystem, limits
from federated.aggregation.aggregation import Aggregate, Aggregation, PlainMean
from federated.errors import FederationClosed, SettingError
from federated.owners.owner import ChangingOwners, Owner
from federated.owners.remote_owner import BUSY, RemoteOwner
from federated.records.data import Data
from federated.rounds.buffer import Buffer, Pipeline
from federated.rounds.evaluation import Evaluated
from federated.rounds.gathering import Gathering
from federated.rounds.outcome import Outcome, concluded
from federated.rounds.rounds import RoundBook
from federated.runs import compatibility
from federated.runs.callbacks import Callbacks
from federated.runs.drawing import Waiting, drawn, drawn_privately
from federated.runs.global_arrays import GlobalArrays
from federated.runs.global_model import GlobalModel
from federated.runs.history import History
from federated.runs.progress import live
from federated.runs.protection import Protection, protection
from federated.runs.run_folder import Checkpoint, RunFolder, circumstances
from federated.runs.steps import gathered, hopeless, opened, results, stepped, told
from federated.simulation.simulated import SimulatedOwners
from federated.strategies.averaging import FedAvg
from federated.strategies.fedbuff import FedBuff
from federated.strategies.strategy import State, Strategy, check
from federated.tasks.update import Task, Weights
from privacy import DPSGD, BudgetSpent, ClippedGaussian, Ledger, mechanism

if TYPE_CHECKING:
    import keras


class Federation:
    """Trains one model over many owners. An async context manager; leaving it ends all that it began.

    A round: (1) a fraction of the owners is sampled; (2) each gets the global weights, trains, and answers; (3) the updates that are
    in order are aggregated as they come; (4) when all have answered, or the deadline passes, the strategy makes the new global weights;
    (5) owners that reported and have evaluation data evaluate them, and so does the aggregator if it has; (6) the run folder, if there is
    one, gets the new state. With fewer updates than the quorum the global model stays as it is. Frozen weights and integers travel once,
    and stay as they are; no update, clipping norm or noise has them. With `FedBuff` rounds are asynchronous: see there.

    **Leaks** with `PlainMean`: the aggregator sees the update of each owner. Nobody else sees anything but the global weights.

    Args:
        model: makes a compiled `keras.Model` with an optimizer, a loss and a known input shape. It is called once. Or a list of arrays, the
            initial weights of a model of any kind (some `Frozen`, perhaps), that trainers of the owners' own know: see `weights`.
        owners: addresses (`wss://host:port/name`) of `DataOwner`s, or `simulated_owners(...)`, or `joining_owners(...)`, or any objects
            that are an `Owner`.
        strategy: who trains, how, and how the weights change.
        aggregation: how updates become one.
        privacy: `CentralGaussian(...)`, `DistributedGaussian(...)`, `TreeGaussian(...)` or `LocalGaussian(...)`, or a query of
            tensorflow-privacy that means the same; None: none. Owners are then sampled each by itself with the probability
            `strategy.fraction` (or take turns, with `TreeGaussian`), count alike, and give no metrics: give `evaluation` to see some.
            Rounds end before one that would overspend. Who took part is in the outcomes: where owners are sampled it has to stay secret
            for the epsilon that is told to hold. `DPSGD(...)` protects single examples instead, inside each owner: owners are sampled as
            without privacy, and count by their numbers of examples.
        ledger: with privacy for owners: of all releases about them, in this run and others; it is asked and told before each.
        quorum: share of the sampled owners that has to report, in (0, 1].
        deadline: seconds that owners have in each round, and again to evaluate; None: as long as they take.
        enough: share of the wanted updates with which a round is over, in (0, 1]: who is later is late. 1: all are waited for.
        oversample: how many times as many owners are asked as `strategy.fraction` says, at least 1; the first ones count.
        evaluate_every: rounds from one evaluation by owners to the next.
        evaluators: share of the owners that report, and have evaluation data, that evaluate, in (0, 1].
        seed: of the sampling and of the order of examples, at least 0.
        evaluation: data of the aggregator's own, (x, y) or a data set, to evaluate each new global model on; None: none.
        folder: where the run is written after each round, so that it survives this process; None: nowhere.
        resume: go on with the run in the folder; rounds that it has are not played again. If it is empty the run begins. Owners,
            aggregation and quorum may be others than before: that is in the outcome of the next round, see `Outcome.changes`.
        progress: show how far a round is, if standard error is a terminal.
        system: a running actor system to reach owners through, for instance one with certificates; None: one of its own.
        message_limit: bytes of the largest message that a system of its own takes, 1 MiB to 1 TiB; owners have theirs.

    Attributes:
        history: the outcomes so far.

    Raises:
        SettingError: settings that make no sense, or not together.
        RunExists: on entering: the folder has a run that is not to be resumed, or one with other settings.

    Example:
        >>> federation = Federation(model=build_model, owners=simulated_owners(partition(x, y, owners=20)), strategy=FedAvg())
        >>> async with federation:
        ...     async for outcome in federation.rounds(50):
        ...         print(outcome)
    """

    def __init__(
        self,
        *,
        model: Callable[[], keras.Model] | Sequence[Any],
        owners: Sequence[str] | Sequence[Owner],
        strategy: Strategy | None = None,
        aggregation: Aggregation | None = None,
        privacy: ClippedGaussian | DPSGD | None = None,
        ledger: Ledger | None = None,
        quorum: float = 0.5,
        deadline: float | None = 600.0,
        enough: float = 1.0,
        oversample: float = 1.0,
        evaluate_every: int = 1,
        evaluators: float = 1.0,
        seed: int = 0,
        evaluation: Any = None,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: bool = True,
        system: ActorSystem | None = None,
        message_limit: int = limits.MESSAGE_LIMIT,
    ) -> None:
        self.strategy, self.aggregation = strategy or FedAvg(), aggregation or PlainMean()
        self._message_limit = limits.message_limit(message_limit)
        compatibility.check_run(quorum, deadline, seed, resumes=resume and folder is None)
        compatibility.check_model(model, privacy, evaluation)
        compatibility.check_owners(owners, self.strategy)
        compatibility.check_together(self.strategy, self.aggregation)
        privacy = None if privacy is None else mechanism(privacy)
        compatibility.check_private(self.strategy, self.aggregation, privacy)
        compatibility.settle(owners, self.strategy, privacy)
        if ledger is not None and not isinstance(privacy, ClippedGaussian):
            raise SettingError("a ledger is told what privacy for owners costs: give privacy=, too; with DPSGD each owner has its own")
        self._patience = Waiting(enough, oversample, evaluate_every, evaluators)
        self._patience.check_with(self.strategy, privacy, quorum)
        self.history = History()
        self.privacy = privacy
        self._private: Protection | None = None
        if privacy is not None:
            self._private = protection(privacy, owners=len(owners), strategy=self.strategy, seed=seed, ledger=ledger)
        self._build, self._given, self._system, self._progress = model, owners, system, progress
        self._quorum, self._deadline, self._seed = quorum, deadline, seed
        self._folder, self._resume = folder, resume
        self._evaluation = None if evaluation is None else Data(evaluation)
        self._owners: dict[str, Owner] = {}
        self._global: GlobalModel | GlobalArrays | None = None
        self._run: RunFolder | None = None
        self._resumed: Checkpoint | None = None
        names = [owner if isinstance(owner, str) else owner.name for owner in owners]
        self._now = self._before = circumstances(names, self.aggregation, quorum)
        self._changes: tuple[str, ...] = ()
        self._away: frozenset[str] = frozenset()
        self._had = 0
        self._pipeline: Pipeline | None = None
        self._scope: contextlib.AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as scope:
            if self._global is None:
                await self._begin()
            self._owners = {owner.name: owner for owner in await self._reach(scope)}
            if isinstance(self.strategy, FedBuff):
                concurrency = min(self.strategy.concurrency, len(self._owners))
                simulated = isinstance(self._given, SimulatedOwners)
                self._pipeline = Pipeline(
                    self._owners, concurrency=concurrency, deadline=self._deadline, seed=self._seed, in_turn=simulated
                )
                scope.push_async_callback(self._pipeline.close)
            self._scope = scope.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            await scope.aclose()

    async def _begin(self) -> None:
        """Make the global model, and give it the state of a run that is resumed."""
        model = opened(self._build, self.strategy, self._seed, self._private, self.privacy)
        if self._evaluation is not None:
            assert isinstance(model, GlobalModel)  # `compatibility.check_model` has refused an evaluation of arrays
            await asyncio.to_thread(model.check, self._evaluation)
        if self._folder is not None:
            self._run = RunFolder(self._folder, resume=self._resume)
            self._resumed = self._run.load(model.digest)
        if self._resumed is not None:
            if self._resumed.circumstances is not None:
                self._before = self._resumed.circumstances
                self._changes = self._before.changes(self._now)
            model.restore(self._resumed)
            self.history.extend(self._resumed.history)
            self._had = len(self.history)
        self._global = model

    async def _reach(self, scope: contextlib.AsyncExitStack) -> list[Owner]:
        if isinstance(self._given, contextlib.AbstractAsyncContextManager):  # owners that have to be opened and closed
            await scope.enter_async_context(self._given)
        system = self._system
        if system is None and any(isinstance(owner, str) for owner in self._given):
            system = await scope.enter_async_context(ActorSystem(message_limit=self._message_limit, busy=BUSY))
        return [RemoteOwner(system, owner) if isinstance(owner, str) and system else cast(Owner, owner) for owner in self._given]

    @property
    def model(self) -> keras.Model:
        """The global model, compiled, with the weights of the last round. Weights that are set in it are those of the next.

        Raises:
            FederationClosed: the federation was never entered, so there is none yet.
            SettingError: it has arrays and no Keras model.
        """
        return self._opened().model

    @property
    def weights(self) -> Weights:
        """A copy of the global weights of the last round, those of a Keras model in the order of its `get_weights()`.

        Raises:
            FederationClosed: the federation was never entered, so there are none yet.
        """
        return [array.copy() for array in self._opened().weights]

    @property
    def state(self) -> State:
        """A copy of what the strategy remembers, see `Strategy.initial`."""
        return {name: [array.copy() for array in arrays] for name, arrays in self._opened().state.items()}

    def _opened(self) -> GlobalModel | GlobalArrays:
        if self._global is None:
            raise FederationClosed("the federation has no model yet: enter 'async with federation:' first")
        return self._global

    # Rounds.

    async def rounds(self, n: int) -> AsyncIterator[Outcome]:
        """Play n rounds more; give the outcome of each when it is over. A failed round is an outcome, too.

        In a resumed run, rounds that are in the folder already are not played again: the same script goes on where it was killed. When
        in three rounds one after the other nobody gives anything, for one and the same fault in their data or the model, that was it.

        Raises:
            SettingError: n is below 1.
            FederationClosed: outside of `async with`.
        """
        due, first = self._to_play(n), len(self.history)
        for _ in range(due):
            if not await self._affordable() or hopeless(self.history, first):
                return
            outcome = await self._round()
            self._save()
            yield outcome

    async def run(self, *, rounds: int, callbacks: Sequence[keras.callbacks.Callback] = ()) -> History:
        """Play rounds with Keras' callbacks, a round being an epoch; stop early if one of them says so.

        The metrics of a round are the logs of its epoch. A failed round has none: `on_epoch_end` is not called for it. A learning rate
        that a callback gives to the optimizer of `model` is that of the owners from the next round on. In a resumed run callbacks
        remember what they had found; rounds that were played are not played again.

        Returns:
            All outcomes, those of earlier runs, too.

        Raises:
            SettingError: rounds is below 1, or a callback sets what nobody follows.
            FederationClosed: outside of `async with`.
        """
        if isinstance(self._global, GlobalArrays):
            compatibility.check_no_callbacks(callbacks)
            _ = [outcome async for outcome in self.rounds(rounds)]
            return self.history
        due, first = self._to_play(rounds), len(self.history)
        model, resumed, steps = self._opened().model, self._resumed, not self.strategy.local_training().gradient
        evaluated = any(name.startswith("val_") for outcome in self.history for name in outcome.metrics)
        memories = resumed.callbacks if resumed else ()
        with Callbacks(callbacks, model, first + due, memories, evaluated=evaluated, steps=steps) as told:
            model.stop_training = resumed is not None and resumed.stopped
            for _ in range(due):
                if model.stop_training or not await self._affordable() or hopeless(self.history, first):
                    break
                told.begin(len(self.history) + 1)
                outcome = await self._round()
                if outcome.failure is None:
                    told.end(outcome.round, outcome.metrics)
                self._save(told, stopped=model.stop_training)
        self._save(told, stopped=model.stop_training)  # a callback may have put the best weights back
        self._resumed = None
        return self.history

    def _to_play(self, rounds: int) -> int:
        """Of so many rounds that are asked for, those that a resumed run does not have yet."""
        check("rounds", rounds, rounds >= 1, "at least 1")
        if self._scope is None:
            raise FederationClosed("the federation is closed: play rounds inside 'async with federation:'")
        there = min(rounds, self._had)
        self._had -= there
        return rounds - there

    def _save(self, told: Callbacks | None = None, *, stopped: bool = False) -> None:
        if self._run is not None:
            kept = told.memories() if told else ()
            self._run.save(self._opened().checkpoint(self.history, kept, stopped=stopped, circumstances=self._before))

    async def _affordable(self) -> bool:
        """Whether privacy is left for a round; beside the event loop, for accounting takes a while."""
        private = self._private
        return private is None or await asyncio.to_thread(lambda: private.affordable)

    async def _round(self) -> Outcome:
        if self._scope is None:
            raise FederationClosed("the federation is closed: play rounds inside 'async with federation:'")
        opened, now = self._opened(), asyncio.get_running_loop().time
        await self._meet()
        began = now()
        moved = sum(outcome.failure is None for outcome in self.history) if opened.scheduled else 0
        task = opened.task(len(self.history) + 1, moved=moved)
        with live(task.round, show=self._progress) as progress:
            gathering = await self._gathering(task, began, progress)
            aggregate = await gathered(gathering, self.strategy, self.aggregation) if await self._paid(gathering) else None
        failure = gathering.book.failure
        if self._private is not None and failure is None:
            aggregate, failure = await self._noised(self._private, aggregate, task)
        failure = failure or stepped(opened, task, aggregate, len(self._owners))
        metrics, evaluated = dict[str, float](), None
        if aggregate is not None and not failure:
            metrics, evaluated = await self._metrics(aggregate, task, gathering.book)
        examples = aggregate.examples if aggregate else 0
        epsilon = None if self._private is None else await asyncio.to_thread(self._private.epsilon)
        self.history.append(
            concluded(
                gathering.book,
                metrics,
                examples=examples,
                seconds=now() - began,
                size=gathering.bytes + (evaluated.bytes if evaluated else 0),
                epsilon=epsilon,
                failure=failure,
                evaluators=evaluated.asked if evaluated else (),
                evaluated=evaluated.owners if evaluated else (),
                changes=self._changes,
            )
        )
        self._before, self._changes = self._now, ()
        return self.history[-1]

    async def _meet(self) -> None:
        """Find who is there, where owners come and go."""
        if isinstance(self._given, ChangingOwners):
            self._owners = {owner.name: owner for owner in await self._given.present()}
            self._away = frozenset(self._given.away())
            self._now = circumstances(list(self._owners), self.aggregation, self._quorum)
            self._changes = self._before.changes(self._now)

    async def _paid(self, gathering: Gathering) -> bool:
        """Whether owners may be asked: where what they send may be seen, it is accounted for before."""
        if self._private is None or not self._private.upfront:
            return True
        try:
            await asyncio.to_thread(self._private.charge)
        except BudgetSpent as error:
            gathering.give_up(str(error))
            return False
        self._save()
        return True

    async def _noised(self, private: Protection, aggregate: Aggregate | None, task: Task) -> tuple[Aggregate | None, str | None]:
        """Return what may be known, and why nothing may."""
        if aggregate is None and private.hidden:
            return None, "nobody took part: there is no sum, and no noise in it"
        if not private.upfront:
            try:
                await asyncio.to_thread(private.charge)
            except BudgetSpent as error:
                return None, str(error)
            self._save()  # before anything is released: a crash may cost privacy that was not used, never the other way round
        return await asyncio.to_thread(private.released, aggregate, task.summed, task.bounded), None

    async def _gathering(self, task: Task, now: float, progress: Callable[[RoundBook], None]) -> Gathering:
        deadline = math.inf if self._deadline is None else now + self._deadline
        names = list(self._owners)
        if self._pipeline is not None and isinstance(self.strategy, FedBuff):
            buffer, layout = self.strategy.buffer, self._opened().layout
            book = RoundBook(task.round, names, quorum=buffer, weights=task.summed, deadline=deadline, enough=buffer, layout=layout)
            return Buffer(book, self._owners, task, progress=progress, pipeline=self._pipeline, strategy=self.strategy)
        if self._private is None:
            model, strategy = self._opened(), self.strategy
            draw = drawn(model, task, names, strategy, self.aggregation, patience=self._patience, seed=self._seed, away=self._away)
        else:
            draw = await asyncio.to_thread(drawn_privately, self._private, task, names, self.strategy, self.aggregation, self._quorum)
        task, quorum = draw.task, draw.quorum(self.strategy, self._quorum)
        layout, enough = self._opened().layout, self._patience.over_with(draw, quorum)
        book = RoundBook(task.round, draw.owners, quorum=quorum, weights=task.summed, deadline=deadline, layout=layout, enough=enough)
        return Gathering(book, self._owners, task, progress=progress, tasks=draw.tasks)

    async def _metrics(self, aggregate: Aggregate, task: Task, book: RoundBook) -> tuple[dict[str, float], Evaluated | None]:
        opened, evaluated = self._opened(), None
        metrics = await results(opened, aggregate.states, aggregate.metrics)
        if evaluators := self._patience.evaluators_of(aggregate.evaluators, task.round, seed=self._seed):
            evaluated, values = await told(opened, evaluators, task, deadline=self._deadline, missing=book.fault)
            metrics |= values
        if self._evaluation is not None and isinstance(opened, GlobalModel):
            metrics |= await asyncio.to_thread(opened.evaluate, self._evaluation)
        return metrics, evaluated
