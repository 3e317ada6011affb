"""Where simulated owners train: the interface, and the default, one thread of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from federated.errors import SettingError
from federated.owners.holding import Holding, HoldingTrainer
from federated.owners.training import Trainer
from federated.tasks.failures import kind
from federated.tasks.update import Evaluation, Task, Update


class Engine(Protocol):
    """Trains the owners of a simulation, by their index."""

    async def open(self, holdings: Mapping[int, Holding]) -> None:
        """Begin; take what the owners hold."""

    async def train(self, index: int, task: Task) -> Update:
        """See `DataOwner.train`."""

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `DataOwner.evaluate`; 0 examples if the owner has no evaluation data."""

    async def close(self) -> None:
        """End what was begun."""


class ThreadEngine:
    """One thread, and one copy of the model, for all owners: they train one after the other, in the order in which they are asked."""

    def __init__(self) -> None:
        self._trainings: dict[int, HoldingTrainer] = {}
        self._trainer = Trainer()

    async def open(self, holdings: Mapping[int, Holding]) -> None:
        """Begin."""
        self._trainer = trainer = Trainer()
        self._trainings = {index: holding.at(trainer) for index, holding in holdings.items()}

    async def train(self, index: int, task: Task) -> Update:
        """See `Engine.train`."""
        return await self._trainings[index].train(task, stream=index)

    async def evaluate(self, index: int, task: Task) -> Evaluation:
        """See `Engine.evaluate`."""
        return await self._trainings[index].evaluate(task)

    async def close(self) -> None:
        """End the thread, forget the model."""
        await self._trainer.close()


def cannot_be_sent(error: Exception) -> SettingError:
    """Explain that the data of owners does not go to another process."""
    return SettingError(
        f"the data of an owner cannot be sent to another process ({kind(error)}): give arrays or a PyDataset, "
        "or simulate in this process; a tf.data.Dataset stays in the process that made it"
    )
