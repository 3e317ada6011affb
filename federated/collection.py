"""Asks owners all at once and takes in what comes until the round is over: the thin shell around the state machine of `rounds`."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any

from actors import MessageRejected
from federated.aggregation import MetricsMean, Tally
from federated.errors import UpdateRejected
from federated.outcome import Outcome
from federated.owner import Owner
from federated.rounds import Round, Standing
from federated.update import Task, Update, size


class Collection:
    """The updates of one round on their way into the tally.

    Attributes:
        metrics: of local training, over the updates that count.
        examples: that the updates were trained on.
        bytes: of weights, sent and received.
    """

    def __init__(self, book: Round, tally: Tally) -> None:
        self._book, self._tally = book, tally
        self.metrics = MetricsMean()
        self._evaluators: list[Owner] = []
        self.examples = self.bytes = 0

    async def gather(self, owners: Mapping[str, Owner], task: Task) -> None:
        """Asks the sampled owners and returns when the round is over. Owners that are still at work are told to stop."""
        over = asyncio.Event()

        async def ask(name: str) -> None:
            await self._ask(owners[name], task)
            if self._book.over:
                over.set()

        async with _tasks(ask(name) for name in self._book.standing):
            try:
                async with asyncio.timeout_at(self._book.deadline):
                    await over.wait()
            except TimeoutError:
                self._book.tick(self._book.deadline)

    async def _ask(self, owner: Owner, task: Task) -> None:
        self.bytes += size(task.weights)
        try:
            update = await owner.train(task)
        except MessageRejected as error:
            self._book.reject(owner.name, str(error))
        except Exception as error:  # whatever goes wrong at one owner costs that owner this round, and nothing more
            self._book.drop(owner.name, f"{type(error).__name__}: {error}")
        else:
            self._take(owner, update)

    def _take(self, owner: Owner, update: Update) -> None:
        self.bytes += size(update.weights)
        with contextlib.suppress(UpdateRejected):  # the book has it
            self._book.report(owner.name, update, now=asyncio.get_running_loop().time())
            self._tally.add(owner.name, update)
            self.metrics.add(update.metrics, update.examples)
            self.examples += update.examples
            if update.evaluates:
                self._evaluators.append(owner)

    async def evaluate(self, task: Task, *, deadline: float | None) -> dict[str, float]:
        """The metrics of the weights of the task on the evaluation data of the owners whose update counts.

        An evaluation that fails, or is not there in time, does not count.

        Args:
            task: with the weights to evaluate.
            deadline: seconds from now; None for none.

        Returns:
            `val_` and the name of the metric -> mean, weighted by examples.
        """
        metrics = MetricsMean()

        async def ask(owner: Owner) -> None:
            self.bytes += size(task.weights)
            with contextlib.suppress(Exception):  # an evaluation that is missing costs its metrics, and nothing more
                evaluation = await owner.evaluate(task)
                if evaluation.round == task.round and evaluation.examples > 0 and all(map(math.isfinite, evaluation.metrics.values())):
                    metrics.add(evaluation.metrics, evaluation.examples)

        async with _tasks(ask(owner) for owner in self._evaluators) as tasks:
            if tasks:
                await asyncio.wait(tasks, timeout=deadline)
        return {f"val_{name}": value for name, value in metrics.result().items()}

    def outcome(self, metrics: Mapping[str, float], seconds: float, failure: str | None) -> Outcome:
        """What came of the round."""
        having, reasons = self._book.having, self._book.reasons
        return Outcome(
            round=self._book.number,
            sampled=tuple(self._book.standing),
            reported=tuple(having(Standing.REPORTED)),
            late=tuple(having(Standing.LATE)),
            dropped={name: reasons[name] for name in having(Standing.DROPPED)},
            rejected={name: reasons[name] for name in having(Standing.REJECTED)},
            metrics=metrics,
            examples=self.examples,
            seconds=seconds,
            bytes=self.bytes,
            failure=failure,
        )


@contextlib.asynccontextmanager
async def _tasks(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Runs all of it while the block lasts; what is not done then is cancelled and waited for."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
