"""A run on disk: after each round one file, whole or not at all, from which a killed run goes on exactly where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from federated.errors import RunExists
from federated.rounds.outcome import Outcome
from federated.strategies.strategy import State, Strategy
from federated.tasks.update import Array, Blueprint, Weights
from protocols.storage.replacement import replacing

FILE = "run.npz"


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """All that the next round depends on. Its sampling and the order of examples are functions of the seed and its number.

    Attributes:
        run: a digest of model, strategy and seed, see `digest`.
        weights: the global ones.
        state: of the strategy.
        history: all outcomes, failed ones, too; the next round is one more than there are.
        learning_rate: of the global model's optimizer, which callbacks may have changed; None if it follows a schedule.
        callbacks: what each Keras callback remembers, in their order.
        stopped: a callback has ended the training.
        privacy: what has been spent, a round under way included, and the state of the mechanism; see `PrivateRounds.state`.
        circumstances: of the last round; None in a run of an older version.
        begun: steps of a schedule that the model's optimizer had made by itself; 0 in a run of an older version, which began there.
        lineage: what the owners' own trainers call this run and those that go on with it; empty in a run of an older version.
    """

    run: str
    weights: Weights
    state: State
    history: tuple[Outcome, ...]
    learning_rate: float | None = None
    callbacks: tuple[Mapping[str, Any], ...] = ()
    stopped: bool = False
    privacy: Mapping[str, Any] = field(default_factory=dict)
    circumstances: Circumstances | None = None
    begun: int = 0
    lineage: str = ""


@dataclass(frozen=True)
class _Text:
    """What of a checkpoint is not an array."""

    run: str
    history: tuple[Outcome, ...]
    learning_rate: float | None
    stopped: bool
    privacy: dict[str, Any] = field(default_factory=dict)
    state: dict[str, int] = field(default_factory=dict)
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    circumstances: Circumstances | None = None
    begun: int = 0
    lineage: str = ""


@dataclass(frozen=True)
class Circumstances:
    """What may be another when a run is resumed, but not in silence.

    Attributes:
        owners: their names.
        aggregation: what shows it.
        hidden: whether nobody sees single updates.
        quorum: share of the sampled owners.
    """

    owners: tuple[str, ...]
    aggregation: str
    hidden: bool
    quorum: float

    def changes(self, now: Circumstances) -> tuple[str, ...]:
        """Name what is another now.

        Raises:
            RunExists: single updates were hidden, and would be no more.
        """
        if self.hidden and not now.hidden:
            raise RunExists(
                f"the run hides the updates of single owners ({self.aggregation}), and {now.aggregation} shows them: resume it with an "
                "aggregation that hides them, or give another folder"
            )
        gone, new = (len(set(one) - set(other)) for one, other in ((self.owners, now.owners), (now.owners, self.owners)))
        owners = f"owners: {len(now.owners)} for {len(self.owners)}, {gone} gone and {new} new" if gone or new else ""
        aggregation = f"aggregation: {now.aggregation} for {self.aggregation}" if now.aggregation != self.aggregation else ""
        quorum = f"quorum: {now.quorum:g} for {self.quorum:g}" if now.quorum != self.quorum else ""
        return tuple(filter(None, (owners, aggregation, quorum)))


def circumstances(owners: Sequence[str], aggregation: object, quorum: float) -> Circumstances:
    """Those of a run.

    Args:
        owners: their names.
        aggregation: an `Aggregation`.
        quorum: share of the sampled owners.
    """
    shown = repr(aggregation)
    return Circumstances(
        tuple(owners),
        type(aggregation).__name__ if " at 0x" in shown else shown,
        bool(getattr(aggregation, "hides_updates", False)),
        quorum,
    )


class RunFolder:
    """A folder with one run in it.

    Args:
        path: is made if it does not exist.
        resume: go on with the run that is in it; if there is none, begin.

    Raises:
        RunExists: there is a run, and it is not to be resumed.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._file = self.path / FILE
        if self._file.exists() and not resume:
            raise RunExists(f"{self.path} has a run already: give resume=True to go on with it, or another folder")
        for left in self.path.glob(f"{FILE}.*.new"):  # of a process that was killed
            left.unlink()

    def load(self, run: str) -> Checkpoint | None:
        """Load the last checkpoint; None if there is none.

        Args:
            run: digest of the settings.

        Raises:
            RunExists: it was made with other settings, or by no run.
        """
        if not self._file.exists():
            return None
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                text = msgspec.json.decode(arrays["text"].tobytes(), type=_Text, strict=False)  # see _written
                state = {name: [arrays[f"state/{name}/{i}"] for i in range(n)] for name, n in text.state.items()}
                weights = _numbered(arrays, "weights")
                callbacks = tuple(_with_arrays(arrays, i, one) for i, one in enumerate(text.callbacks))
        except (ValueError, KeyError, EOFError, msgspec.MsgspecError) as error:
            raise RunExists(f"{self._file} is not a run, or is damaged: {error}; give another folder") from error
        if text.run != run:
            raise RunExists(
                f"the run in {self.path} has another model, strategy, seed or privacy: resume it with its own, or give another folder"
            )
        rest = (text.learning_rate, callbacks, text.stopped, text.privacy, text.circumstances, text.begun, text.lineage)
        return Checkpoint(text.run, weights, state, text.history, *rest)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the last checkpoint. Whenever the process is killed, the old one or the new one is there.

        Raises:
            OSError: it cannot be written; the old one is untouched.
        """
        with replacing(self._file, mode=None) as file:
            np.savez(file, allow_pickle=False, **_arrays(checkpoint))


def digest(blueprint: Blueprint, strategy: Strategy, seed: int, privacy: object) -> str:
    """Hash what must be the same when a run is resumed: model (whatever names Keras has made up), strategy, seed and privacy."""
    said = [_unnamed(blueprint.architecture), _unnamed(blueprint.compilation)]
    if blueprint.adapters:
        said.append(blueprint.adapters)
    return digest_of("\0".join(said), strategy, seed, privacy)


def digest_of(model: str, strategy: Strategy, seed: int, privacy: object) -> str:
    """Hash the same, given what tells one model from another."""
    return hashlib.sha256("\0".join([model, repr(strategy), str(seed), repr(privacy)]).encode()).hexdigest()


def _unnamed(text: str) -> str:
    """JSON with everything that has a name numbered instead, in the order of appearance."""
    numbers: dict[str, str] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("name"), str):
                numbers.setdefault(value["name"], f"#{len(numbers)}")
            collect(list(value.values()))
        elif isinstance(value, list):
            for one in value:
                collect(one)

    def numbered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: numbered(one) for key, one in value.items()}
        if isinstance(value, list):
            return [numbered(one) for one in value]
        return numbers.get(value, value) if isinstance(value, str) else value

    plan = json.loads(text)
    collect(plan)
    return json.dumps(numbered(plan))


def _arrays(checkpoint: Checkpoint) -> dict[str, Array]:
    arrays = {f"weights/{i}": array for i, array in enumerate(checkpoint.weights)}
    arrays |= {f"state/{name}/{i}": array for name, some in checkpoint.state.items() for i, array in enumerate(some)}
    remembered = []
    for i, callback in enumerate(checkpoint.callbacks):
        remembered.append({name: value for name, value in callback.items() if not isinstance(value, list)})
        for name, value in callback.items():
            if isinstance(value, list):
                arrays |= {f"callbacks/{i}/{name}/{j}": array for j, array in enumerate(value)}
    counts = {name: len(some) for name, some in checkpoint.state.items()}
    text = _Text(
        checkpoint.run,
        tuple(_written(outcome) for outcome in checkpoint.history),
        checkpoint.learning_rate,
        checkpoint.stopped,
        dict(checkpoint.privacy),
        counts,
        remembered,
        checkpoint.circumstances,
        checkpoint.begun,
        checkpoint.lineage,
    )
    return arrays | {"text": np.frombuffer(msgspec.json.encode(text), np.uint8)}


def _written(outcome: Outcome) -> Outcome:
    """Write metrics that are NaN or infinite as words, since JSON has no such numbers."""
    metrics: dict[str, Any] = {name: value if math.isfinite(value) else str(value) for name, value in outcome.metrics.items()}
    return dataclasses.replace(outcome, metrics=metrics)


def _numbered(arrays: Mapping[str, Array], prefix: str) -> Weights:
    found = [name for name in arrays if name.startswith(f"{prefix}/")]
    return [arrays[f"{prefix}/{i}"] for i in range(len(found))]


def _with_arrays(arrays: Mapping[str, Array], number: int, callback: dict[str, Any]) -> dict[str, Any]:
    prefix = f"callbacks/{number}/"
    names = {name.removeprefix(prefix).rpartition("/")[0] for name in arrays if name.startswith(prefix)}
    return callback | {name: _numbered(arrays, prefix + name) for name in names}
