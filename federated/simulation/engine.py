"""Where simulated owners train: the interface, and the default, one thread of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from federated.errors import SettingError
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.failures import kind
from federated.tasks.update import Evaluation, Task, Update


class Holding:
    """What one simulated owner holds: data to train on, and perhaps data to evaluate on."""

    def __init__(self, data: Any, evaluation: Any = None) -> None:
        self.data = Data(data)
        self.evaluation = None if evaluation is None else Data(evaluation)

    def __repr__(self) -> str:
        return f"<Holding, {self.data!r}>"


class Engine(Protocol):
    """Trains the owners of a simulation, by their index."""

    async def open(self, holdings: Mapping[int, Holding]) -> None:
        """Begins; takes what the owners hold."""

    async def train(self, index: int, task: Task) -> Update:
        """See `DataOwner.train`."""

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `DataOwner.evaluate`; 0 examples if the owner has no evaluation data."""

    async def close(self) -> None:
        """Ends what was begun."""


class ThreadEngine:
    """One thread, and one copy of the model, for all owners: they train one after the other, in the order in which they are asked."""

    def __init__(self) -> None:
        self._holdings: Mapping[int, Holding] = {}
        self._trainer = Trainer()

    async def open(self, holdings: Mapping[int, Holding]) -> None:
        """Begins."""
        self._holdings, self._trainer = holdings, Trainer()

    async def train(self, index: int, task: Task) -> Update:
        """See `Engine.train`."""
        holding = self._holdings[index]
        return await self._trainer.train(task, holding.data, evaluates=holding.evaluation is not None, stream=index)

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `Engine.evaluate`."""
        data = self._holdings[index].evaluation
        return Evaluation(task.round, 0, {}) if data is None else await self._trainer.evaluate(task, data)

    async def close(self) -> None:
        """Ends the thread, forgets the model."""
        await self._trainer.close()


def cannot_be_sent(error: Exception) -> SettingError:
    """What is told when the data of owners does not go to another process."""
    return SettingError(
        f"the data of an owner cannot be sent to another process ({kind(error)}): give arrays or a PyDataset, "
        "or simulate in this process; a tf.data.Dataset stays in the process that made it"
    )
