"""Owners in this process: as many as the data has parts, with one thread and one copy of the model for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from federated.data import Data
from federated.errors import OwnerDropped, SettingError
from federated.strategy import check
from federated.training import Trainer
from federated.update import Evaluation, Task, Update


class SimulatedOwner:
    """One owner of a simulation. Made by `simulated_owners`."""

    def __init__(self, name: str, index: int, crowd: SimulatedOwners, data: Data, evaluation: Data | None) -> None:
        self.name, self._index, self._crowd = name, index, crowd
        self._data, self._evaluation = data, evaluation

    def __repr__(self) -> str:
        return f"SimulatedOwner({self.name!r})"

    async def train(self, task: Task) -> Update:
        """Trains, unless it drops out of this round.

        Raises:
            OwnerDropped: it does.
        """
        if self._crowd.drops(task.round, self._index):
            raise OwnerDropped(f"{self.name} drops out of round {task.round}, as the simulation says")
        return await self._crowd.trainer.train(task, self._data, evaluates=self._evaluation is not None, stream=self._index)

    async def evaluate(self, task: Task) -> Evaluation:
        """Evaluates; 0 examples if it has no evaluation data."""
        if self._evaluation is None:
            return Evaluation(task.round, 0, {})
        return await self._crowd.trainer.evaluate(task, self._evaluation)


class SimulatedOwners(Sequence[SimulatedOwner]):
    """The owners of a simulation, named "owner-0" and on. Made by `simulated_owners`; a federation closes them."""

    def __init__(
        self,
        parts: Sequence[Any],
        evaluation: Sequence[Any] | None,
        *,
        dropout: float,
        seed: int,
        script: Mapping[int, Collection[str]],
    ) -> None:
        self._dropout, self._seed, self._script = dropout, seed, script
        self.trainer = Trainer()
        tests = [None] * len(parts) if evaluation is None else [Data(part) for part in evaluation]
        pairs = zip(parts, tests, strict=True)
        self._owners = [SimulatedOwner(f"owner-{i}", i, self, Data(part), test) for i, (part, test) in enumerate(pairs)]

    def __repr__(self) -> str:
        return f"<{len(self)} simulated owners>"

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[SimulatedOwner]:
        return iter(self._owners)

    def __getitem__(self, index: Any) -> Any:
        return self._owners[index]

    def drops(self, number: int, index: int) -> bool:
        """Whether the owner with this index drops out of round `number`: a function of the seed, or as the script says."""
        if self._owners[index].name in self._script.get(number, ()):
            return True
        return bool(np.random.default_rng([self._seed, number, index]).random() < self._dropout)

    async def close(self) -> None:
        """Ends the thread and forgets the model. The next federation gets new ones; only one at a time may use these owners."""
        old, self.trainer = self.trainer, Trainer()
        await old.close()


def simulated_owners(
    parts: Sequence[Any],
    dropout: float = 0.0,
    seed: int = 0,
    *,
    evaluation: Sequence[Any] | None = None,
    script: Mapping[int, Collection[str]] | None = None,
) -> SimulatedOwners:
    """Owners in this process, for `Federation(owners=...)`. They train one after the other and always in the same order.

    Runs are repeatable: dropouts and the order of examples come from seeds. If the model has layers with randomness of their own
    (Dropout), call `keras.utils.set_random_seed` before.

    Args:
        parts: the data of each owner, (x, y) as `partition` gives them, or data sets.
        dropout: probability that an owner drops out of a round, in [0, 1).
        seed: of the dropouts, at least 0.
        evaluation: evaluation data of each owner; None: none has any.
        script: round -> names of owners ("owner-3") that drop out of it in any case.

    Raises:
        SettingError: no parts, not as many evaluation parts, a name in the script that no owner has, or a probability out of range.
        DataError: a part is no data.

    Example:
        >>> simulated_owners(partition(x, y, owners=100, alpha=0.5, seed=0), dropout=0.05, seed=7)
        <100 simulated owners>
    """
    check("dropout", dropout, 0.0 <= dropout < 1.0, "in [0, 1)")
    check("seed", seed, seed >= 0, "at least 0")
    if not parts or (evaluation is not None and len(evaluation) != len(parts)):
        count = "no" if evaluation is None else len(evaluation)
        raise SettingError(f"{len(parts)} parts and {count} evaluation parts: at least one part is needed, and as many to evaluate on")
    owners = SimulatedOwners(parts, evaluation, dropout=dropout, seed=seed, script=script or {})
    unknown = {name for names in (script or {}).values() for name in names} - {owner.name for owner in owners}
    if unknown:
        raise SettingError(f"script names {sorted(unknown)}: the owners are owner-0 to owner-{len(owners) - 1}")
    return owners
