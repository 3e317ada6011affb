"""The owner of data as an actor: it trains on what it holds when it is asked to, and gives away weights and metrics, never a record."""

from __future__ import annotations

from typing import Any, Protocol

from actors import Actor, ActorSystem, message
from federated.data import Data
from federated.training import Trainer
from federated.update import Evaluation, Task, Update


class Owner(Protocol):
    """What a federation knows of an owner, wherever it is."""

    @property
    def name(self) -> str:
        """Unlike that of any other owner."""

    async def train(self, task: Task) -> Update:
        """The update of a round."""

    async def evaluate(self, task: Task) -> Evaluation:
        """The metrics of the weights of the task on the owner's evaluation data."""


class DataOwner(Actor):
    """Holds data, and trains the models that it is sent.

    What happens in a round: (1) a task arrives: weights, a blueprint (JSON, no code), settings; (2) the model is built, once for each
    blueprint; (3) it trains in a thread, so that the process goes on answering; (4) the new weights, the number of examples and the
    metrics go back. If the aggregator gives up, training stops after the batch under way.

    Whoever can reach it can have it train: let it listen with TLS, or on loopback.

    Args:
        data: (x, y) arrays, a `tf.data.Dataset` of batches, or a `keras.utils.PyDataset`.
        evaluation: the same, to evaluate global models on; None: this owner evaluates nothing.

    Raises:
        DataError: the data is none of these, or is empty.

    Example:
        >>> async with ActorSystem(listen="ws://127.0.0.1:9001") as system:
        ...     await system.spawn(DataOwner, (x, y), name="owner")
        ...     await system.serve_forever()
    """

    def __init__(self, data: Any, evaluation: Any = None) -> None:
        self._data = Data(data)
        self._evaluation = None if evaluation is None else Data(evaluation)
        self._trainer = Trainer()

    @message
    async def train(self, task: Task) -> Update:
        """Trains as told, from the weights of the task.

        Raises:
            ModelRefused: the blueprint cannot be built here.
            DataError: the data set is empty or without end.
            ValueError: the weights do not fit the blueprint, or the data does not fit the model.
        """
        return await self._trainer.train(task, self._data, evaluates=self._evaluation is not None)

    @message
    async def evaluate(self, task: Task) -> Evaluation:
        """Evaluates the weights of the task; 0 examples if this owner has no evaluation data."""
        if self._evaluation is None:
            return Evaluation(task.round, 0, {})
        return await self._trainer.evaluate(task, self._evaluation)

    async def stopped(self) -> None:
        """Ends the thread."""
        await self._trainer.close()


class RemoteOwner:
    """An owner at an address. It is connected to anew each time, so that one that was away can come back."""

    def __init__(self, system: ActorSystem, url: str) -> None:
        self._system, self.name = system, url

    async def train(self, task: Task) -> Update:
        """See `DataOwner.train`; takes as long as it takes, for the round has the deadline."""
        return await (await self._reach()).train(task)

    async def evaluate(self, task: Task) -> Evaluation:
        """See `DataOwner.evaluate`."""
        return await (await self._reach()).evaluate(task)

    async def _reach(self) -> DataOwner:
        return (await self._system.connect(self.name, DataOwner)).with_options(timeout=None)
