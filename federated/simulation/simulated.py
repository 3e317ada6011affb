"""Owners in this process: as many as the data has parts, without a thread or a model each."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from federated.errors import OwnerDropped, OwnerLate, SettingError
from federated.owners.giver import Giver, OwnGiver
from federated.owners.holding import Holding
from federated.owners.masker import Masker, OwnMasker
from federated.simulation.engine import Engine, ThreadEngine
from federated.strategies.strategy import check
from federated.tasks.update import Evaluation, Task, Update, size
from federated.trainers.runner import Factory

Script = Mapping[int, Collection[str]]
"""Round -> names of owners."""


class SimulatedOwner:
    """One owner of a simulation. Made by `simulated_owners`.

    Attributes:
        supplied: bytes of weights that no round changes that a real owner would have been sent so far.
    """

    def __init__(self, name: str, index: int, crowd: SimulatedOwners) -> None:
        self.name, self._index, self._crowd = name, index, crowd
        self.supplied, self._base = 0, b""
        self._masker: OwnMasker | None = None

    def __repr__(self) -> str:
        return f"SimulatedOwner({self.name!r})"

    async def train(self, task: Task) -> Update:
        """Train, unless it drops out of this round or is late.

        Raises:
            OwnerDropped, OwnerLate: as the simulation says.
        """
        self._crowd.check(task.round, self._index)
        self._supply(task)
        return await self._crowd.engine.train(self._index, task)

    def _supply(self, task: Task) -> None:
        if task.base and task.base != self._base:
            self._base = task.base
            self.supplied += size(task.kept)

    async def masker(self) -> Masker:
        """Its side of a secure aggregation, as real as that of any other owner."""
        if self._masker is None:
            self._masker = OwnMasker(self.train)
        return self._masker

    async def giver(self) -> Giver:
        """Its side of the two-server aggregation."""
        return OwnGiver(self.train)

    async def evaluate(self, task: Task) -> Evaluation:
        """Evaluate; 0 examples if it has no evaluation data."""
        self._supply(task)
        return await self._crowd.engine.evaluate(self._index, task)


class SimulatedOwners(Sequence[SimulatedOwner]):
    """The owners of a simulation, named "owner-0" and on. Made by `simulated_owners`; a federation opens and closes them."""

    def __init__(self, holdings: Sequence[Holding], *, engine: Engine, absences: Absences) -> None:
        self.engine = engine
        self._holdings, self._absences = dict(enumerate(holdings)), absences
        self._owners = [SimulatedOwner(f"owner-{i}", i, self) for i in range(len(holdings))]

    def __repr__(self) -> str:
        return f"<{len(self)} simulated owners>"

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[SimulatedOwner]:
        return iter(self._owners)

    def __getitem__(self, index: Any) -> Any:
        return self._owners[index]

    async def __aenter__(self) -> Self:
        await self.engine.open(self._holdings)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.engine.close()

    def check(self, number: int, index: int) -> None:
        """Raise what the simulation says about an owner in a round.

        Raises:
            OwnerDropped: it drops out.
            OwnerLate: its answer would come after the deadline.
        """
        self._absences.check(number, index, self._owners[index].name)


class Absences:
    """Which owners drop out or are late, in which rounds: functions of a seed, and as scripts say."""

    def __init__(self, *, dropout: float, straggling: float, seed: int, dropouts: Script, stragglers: Script) -> None:
        check("dropout", dropout, 0.0 <= dropout < 1.0, "in [0, 1)")
        check("straggling", straggling, 0.0 <= straggling < 1.0, "in [0, 1)")
        check("seed", seed, seed >= 0, "at least 0")
        self._dropout, self._straggling, self._seed = dropout, straggling, seed
        self._dropouts, self._stragglers = dropouts, stragglers

    def check(self, number: int, index: int, name: str) -> None:
        """See `SimulatedOwners.check`."""
        drops, lags = np.random.default_rng([self._seed, number, index]).random(2)
        if drops < self._dropout or name in self._dropouts.get(number, ()):
            raise OwnerDropped(f"{name} drops out of round {number}, as the simulation says")
        if lags < self._straggling or name in self._stragglers.get(number, ()):
            raise OwnerLate(f"{name} is late in round {number}, as the simulation says")

    def names(self) -> set[str]:
        """Who is named in a script."""
        return {name for script in (self._dropouts, self._stragglers) for names in script.values() for name in names}


def simulated_owners(
    parts: Sequence[Any],
    dropout: float = 0.0,
    seed: int = 0,
    *,
    straggling: float = 0.0,
    evaluation: Sequence[Any] | None = None,
    dropouts: Script | None = None,
    stragglers: Script | None = None,
    engine: Engine | None = None,
    trainer: Factory | None = None,
    memory: str | os.PathLike[str] | None = None,
) -> SimulatedOwners:
    """Owners in this process, for `Federation(owners=...)`. With the default engine they train one after the other.

    Runs are repeatable: dropouts, the order of examples, and the randomness of layers (Dropout) are functions of seeds, the round and
    the owner. One federation at a time may use these owners.

    Args:
        parts: the data of each owner, (x, y) as `partition` gives them, or what else a `DataOwner` takes.
        dropout: probability that an owner drops out of a round, in [0, 1).
        seed: of dropouts and stragglers, at least 0.
        straggling: probability that an owner is late in a round, in [0, 1). No time is spent on it: it is late at once.
        evaluation: evaluation data of each owner; None: none has any.
        dropouts: round -> names of owners ("owner-3") that drop out of it in any case.
        stragglers: round -> names of owners that are late in it in any case.
        engine: where they train; None: a `ThreadEngine`.
        trainer: of the user's own, in place of Keras, see `DataOwner`: called once for each owner, with its part.
        memory: a folder in which each owner has one for what it remembers between rounds, see `DataOwner`.

    Raises:
        SettingError: no parts, not as many evaluation parts, a name in a script that no owner has, or a probability out of range.
        DataError: a part is no data.

    Example:
        >>> from federated import partition
        >>> x, y = np.zeros((2000, 4)), np.arange(2000) % 10
        >>> simulated_owners(partition(x, y, owners=100, alpha=0.5, seed=0), dropout=0.05, seed=7)
        <100 simulated owners>
    """
    if not parts or (evaluation is not None and len(evaluation) != len(parts)):
        count = "no" if evaluation is None else len(evaluation)
        raise SettingError(f"{len(parts)} parts and {count} evaluation parts: at least one part is needed, and as many to evaluate on")
    absences = Absences(dropout=dropout, straggling=straggling, seed=seed, dropouts=dropouts or {}, stragglers=stragglers or {})
    tests = [None] * len(parts) if evaluation is None else evaluation
    places = [None if memory is None else Path(memory) / f"owner-{i}" for i in range(len(parts))]
    holdings = [Holding(part, test, trainer, place) for part, test, place in zip(parts, tests, places, strict=True)]
    owners = SimulatedOwners(holdings, engine=engine or ThreadEngine(), absences=absences)
    unknown = absences.names() - {owner.name for owner in owners}
    if unknown:
        raise SettingError(f"a script names {sorted(unknown)}: the owners are owner-0 to owner-{len(owners) - 1}")
    return owners
