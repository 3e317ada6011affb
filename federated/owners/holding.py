"""What one owner holds, and what trains on it: Keras, or a trainer of its own."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol

from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import Evaluation, Task, Update
from federated.trainers.memory import TrainerMemory
from federated.trainers.runner import Factory, TrainerRunner, check_factory


class HoldingTrainer(Protocol):
    """Trains and evaluates on what one owner holds."""

    async def train(self, task: Task, *, tells: bool = True, stream: int = 0) -> Update:
        """Train as told; see `Trainer.train` and `TrainerRunner.train`.

        Args:
            task: what to do.
            tells: whether metrics, and whether it evaluates, leave the owner.
            stream: tells apart owners that share a seed.
        """

    async def evaluate(self, task: Task) -> Evaluation:
        """Evaluate the weights of the task; over 0 examples if there is nothing to evaluate on."""


class Holding:
    """What one owner holds: data to train on, perhaps data to evaluate on, perhaps a trainer of its own.

    Args:
        data: what a `DataOwner` takes; with a trainer, whatever that takes.
        evaluation: the same; None: there is none.
        trainer: is called with the data (and the evaluation data, if there is any), and gives a `OwnTrainer`; None: Keras trains.
        memory: a folder for what is remembered between rounds, by a trainer of its own or by methods of training that remember something;
            None: it is kept as long as the owner lives.

    Attributes:
        data: None where a trainer has it.

    Raises:
        DataError: the data is none.
        SettingError: the trainer cannot be called.
    """

    def __init__(
        self, data: Any, evaluation: Any = None, trainer: Factory | None = None, memory: str | os.PathLike[str] | None = None
    ) -> None:
        self._trainer, self._memory, self._given = trainer, memory, (data, evaluation)
        self.data: Data | None = None
        self.evaluation: Data | None = None
        if trainer is not None:
            check_factory(trainer)
        else:
            self.data = Data(data)
            self.evaluation = None if evaluation is None else Data(evaluation)
            self._given = (None, None)

    def __repr__(self) -> str:
        return f"<Holding, {'a trainer of its own' if self.data is None else repr(self.data)}>"

    @property
    def evaluates_nothing(self) -> bool:
        """Whether there is nothing to evaluate on; a trainer of its own may have something."""
        return self._trainer is None and self.evaluation is None

    def at(self, trainer: Trainer, *, least: int = 1) -> HoldingTrainer:
        """Return what trains on it.

        Args:
            trainer: of Keras models, in whose thread all work is done.
            least: the fewest examples that an update of a trainer of its own may be over.
        """
        if self._trainer is None:
            return _WithKeras(self, trainer, self._memory)
        data, evaluation = self._given
        return TrainerRunner(self._trainer, data, evaluation, thread=trainer.thread, memory=self._memory, least=least)


class _WithKeras:
    """Keras, on what an owner holds."""

    def __init__(self, holding: Holding, trainer: Trainer, memory: str | os.PathLike[str] | None) -> None:
        self._holding, self._trainer, self._memory = holding, trainer, TrainerMemory(memory)

    async def train(self, task: Task, *, tells: bool = True, stream: int = 0) -> Update:
        assert self._holding.data is not None
        evaluates = tells and self._holding.evaluation is not None
        if not task.training.method:
            return await self._trainer.train(task, self._holding.data, evaluates=evaluates, stream=stream)
        state = await asyncio.to_thread(self._memory.before, task.lineage, task.round)
        update = await self._trainer.train(task, self._holding.data, evaluates=evaluates, stream=stream, state=state)
        await asyncio.to_thread(self._memory.keep, task.lineage, task.round, state)
        return update

    async def evaluate(self, task: Task) -> Evaluation:
        data = self._holding.evaluation
        if data is None:
            return Evaluation(task.round, 0, {})
        method = bool(task.training.method)
        state = await asyncio.to_thread(self._memory.before, task.lineage, task.round + 1) if method else None
        return await self._trainer.evaluate(task, data, state=state)
