"""The aggregator: holds the global model, asks owners round by round, and lets the strategy make the next model of what they send."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from actors import ActorSystem
from federated.aggregation import Aggregation, PlainMean, Tally
from federated.averaging import FedAvg
from federated.collection import Collection
from federated.errors import FederationClosed, SettingError, StepFailed
from federated.global_model import GlobalModel
from federated.history import History
from federated.joining import JoiningOwners
from federated.outcome import Outcome
from federated.owner import Owner, RemoteOwner
from federated.rounds import Round
from federated.simulation import SimulatedOwners
from federated.strategy import Strategy, check
from federated.update import Task

if TYPE_CHECKING:
    import keras


class Federation:
    """Trains one model over many owners. An async context manager; leaving it ends all that it began.

    A round: (1) a fraction of the owners is sampled; (2) each gets the global weights, trains, and answers; (3) the updates that are
    in order are aggregated as they come; (4) when all have answered, or the deadline passes, the strategy makes the new global weights;
    (5) owners that reported and have evaluation data evaluate them. With fewer updates than the quorum the global model stays as it is.

    **Leaks** with `PlainMean`: the aggregator sees the update of each owner. Nobody else sees anything but the global weights.

    Args:
        model: makes a compiled `keras.Model` with an optimizer, a loss and a known input shape. It is called once.
        owners: addresses (`wss://host:port/name`) of `DataOwner`s, or `simulated_owners(...)`, or `joining_owners(...)`.
        strategy: who trains, how, and how the weights change.
        aggregation: how updates become one.
        quorum: share of the sampled owners that has to report, in (0, 1].
        deadline: seconds that owners have in each round, and again to evaluate; None: as long as they take.
        seed: of the sampling and of the order of examples, at least 0.
        system: a running actor system to reach owners through, for instance one with certificates; None: one of its own.

    Attributes:
        history: the outcomes so far.

    Raises:
        SettingError: settings that make no sense, or not together.

    Example:
        >>> federation = Federation(model=build_model, owners=simulated_owners(partition(x, y, owners=20)), strategy=FedAvg())
        >>> async with federation:
        ...     async for outcome in federation.rounds(50):
        ...         print(outcome)
    """

    def __init__(
        self,
        *,
        model: Callable[[], keras.Model],
        owners: Sequence[str] | Sequence[Owner],
        strategy: Strategy | None = None,
        aggregation: Aggregation | None = None,
        quorum: float = 0.5,
        deadline: float | None = 600.0,
        seed: int = 0,
        system: ActorSystem | None = None,
    ) -> None:
        self.strategy, self.aggregation = strategy or FedAvg(), aggregation or PlainMean()
        check("quorum", quorum, 0.0 < quorum <= 1.0, "in (0, 1]")
        check("deadline", deadline, deadline is None or 0.0 < deadline < math.inf, "above 0 seconds, or None")
        check("seed", seed, seed >= 0, "at least 0")
        _check_owners(owners, self.strategy)
        _check_together(self.strategy, self.aggregation)
        self.history = History()
        self._number = 0
        self._build, self._given, self._system = model, owners, system
        self._quorum, self._deadline, self._seed = quorum, deadline, seed
        self._owners: dict[str, Owner] = {}
        self._global: GlobalModel | None = None
        self._scope: contextlib.AsyncExitStack | None = None

    # Life.

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as scope:
            self._owners = {owner.name: owner for owner in await self._reach(scope)}
            if self._global is None:
                self._global = GlobalModel(self._build, self.strategy)
            self._scope = scope.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            await scope.aclose()

    async def _reach(self, scope: contextlib.AsyncExitStack) -> list[Owner]:
        if isinstance(self._given, SimulatedOwners):
            scope.push_async_callback(self._given.close)
        if isinstance(self._given, JoiningOwners):
            await scope.enter_async_context(self._given)
        system = self._system
        if system is None and any(isinstance(owner, str) for owner in self._given):
            system = await scope.enter_async_context(ActorSystem())
        return [RemoteOwner(system, owner) if isinstance(owner, str) and system else cast(Owner, owner) for owner in self._given]

    @property
    def model(self) -> keras.Model:
        """The global model, compiled, with the weights of the last round. Weights that are set in it are those of the next.

        Raises:
            FederationClosed: the federation was never entered, so there is none yet.
        """
        return self._opened().model

    def _opened(self) -> GlobalModel:
        if self._global is None:
            raise FederationClosed("the federation has no model yet: enter 'async with federation:' first")
        return self._global

    # Rounds.

    async def rounds(self, n: int) -> AsyncIterator[Outcome]:
        """Plays n rounds more; gives the outcome of each when it is over. A failed round is an outcome, too.

        Raises:
            SettingError: n is below 1.
            FederationClosed: outside of `async with`.
        """
        check("n", n, n >= 1, "at least 1")
        for _ in range(n):
            yield await self._round()

    async def run(self, *, rounds: int, callbacks: Sequence[keras.callbacks.Callback] = ()) -> History:
        """Plays rounds with Keras' callbacks, a round being an epoch; stops early if one of them says so.

        The metrics of a round are the logs of its epoch. A failed round has none: `on_epoch_end` is not called for it. A learning rate
        that a callback gives to the optimizer of `model` is that of the owners from the next round on.

        Returns:
            All outcomes, those of earlier runs, too.

        Raises:
            SettingError: rounds is below 1.
            FederationClosed: outside of `async with`.
        """
        check("rounds", rounds, rounds >= 1, "at least 1")
        model = self._opened().model
        with _told(callbacks, model, rounds) as told:
            for epoch in range(rounds):
                told.on_epoch_begin(epoch)
                outcome = await self._round()
                if outcome.failure is None:
                    told.on_epoch_end(epoch, dict(outcome.metrics))
                if model.stop_training:
                    break
        return self.history

    async def _round(self) -> Outcome:
        if self._scope is None:
            raise FederationClosed("the federation is closed: play rounds inside 'async with federation:'")
        opened, now = self._opened(), asyncio.get_running_loop().time
        began = now()
        task = opened.task(self._number + 1, self._seed)
        book = self._book(task, began)
        tally = self.aggregation.tally(task.weights, single_updates=self.strategy.single_updates)
        collection = Collection(book, tally)
        await collection.gather(self._owners, task)
        failure = book.failure or _stepped(opened, tally)
        metrics = {} if failure else await self._metrics(collection, replace(task, weights=opened.weights))
        self._number += 1
        self.history.append(collection.outcome(metrics, now() - began, failure))
        return self.history[-1]

    def _book(self, task: Task, now: float) -> Round:
        names = sample(list(self._owners), self.strategy.fraction, seed=[self._seed, task.round])
        quorum = max(math.ceil(self._quorum * len(names)), self.strategy.least_updates)
        deadline = math.inf if self._deadline is None else now + self._deadline
        return Round(task.round, names, quorum=quorum, weights=task.weights, deadline=deadline)

    async def _metrics(self, collection: Collection, task: Task) -> dict[str, float]:
        return collection.metrics.result() | await collection.evaluate(task, deadline=self._deadline)


def sample(names: Sequence[str], fraction: float, *, seed: Sequence[int]) -> list[str]:
    """A fraction of the names, at least one, without repetition, in their order: a function of the seed."""
    chosen = np.random.default_rng(seed).choice(len(names), _sampled(len(names), fraction), replace=False)
    return [names[i] for i in sorted(chosen)]


def _sampled(owners: int, fraction: float) -> int:
    return max(1, round(fraction * owners))


def _stepped(model: GlobalModel, tally: Tally) -> str | None:
    try:
        model.step(tally.result())
    except StepFailed as error:
        return str(error)
    return None


@contextlib.contextmanager
def _told(callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, rounds: int) -> Iterator[keras.callbacks.CallbackList]:
    """Keras' callbacks between the beginning and the end of training."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    model.stop_training = False
    told = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=rounds, verbose=0)
    told.on_train_begin()
    try:
        yield told
    finally:
        told.on_train_end()


def _check_owners(owners: Sequence[str] | Sequence[Owner], strategy: Strategy) -> None:
    names = [owner if isinstance(owner, str) else owner.name for owner in owners]
    if isinstance(owners, str) or not names or len(set(names)) < len(names):
        raise SettingError(f"owners={owners!r}: a list of at least one owner is needed, and each once")
    sampled = _sampled(len(names), strategy.fraction)
    if sampled < strategy.least_updates:
        raise SettingError(
            f"{type(strategy).__name__} needs {strategy.least_updates} updates a round, and {sampled} of {len(names)} owners are asked: "
            f"add owners, or raise fraction={strategy.fraction}"
        )


def _check_together(strategy: Strategy, aggregation: Aggregation) -> None:
    if strategy.single_updates and aggregation.hides_updates:
        raise SettingError(
            f"{type(strategy).__name__} compares the updates of single owners, which {type(aggregation).__name__} hides from everybody: "
            f"use PlainMean, or a strategy that needs the mean only"
        )
