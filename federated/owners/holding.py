"""What one owner holds, and what trains on it: Keras, or a trainer of its own."""

from __future__ import annotations

import os
from typing import Any, Protocol

from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import Evaluation, Task, Update
from federated.trainers.runner import Factory, Runner, check_factory


class Training(Protocol):
    """Trains and evaluates on what one owner holds."""

    async def train(self, task: Task, *, tells: bool = True, stream: int = 0) -> Update:
        """Train as told; see `Trainer.train` and `Runner.train`.

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
        memory: a folder for what the trainer remembers between rounds; None: it is kept as long as the owner lives.

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

    def at(self, trainer: Trainer, *, least: int = 1) -> Training:
        """Return what trains on it.

        Args:
            trainer: of Keras models, in whose thread all work is done.
            least: the fewest examples that an update of a trainer of its own may be over.
        """
        if self._trainer is None:
            return _WithKeras(self, trainer)
        data, evaluation = self._given
        return Runner(self._trainer, data, evaluation, thread=trainer.thread, memory=self._memory, least=least)


class _WithKeras:
    """Keras, on what an owner holds."""

    def __init__(self, holding: Holding, trainer: Trainer) -> None:
        self._holding, self._trainer = holding, trainer

    async def train(self, task: Task, *, tells: bool = True, stream: int = 0) -> Update:
        assert self._holding.data is not None
        evaluates = tells and self._holding.evaluation is not None
        return await self._trainer.train(task, self._holding.data, evaluates=evaluates, stream=stream)

    async def evaluate(self, task: Task) -> Evaluation:
        data = self._holding.evaluation
        return Evaluation(task.round, 0, {}) if data is None else await self._trainer.evaluate(task, data)
