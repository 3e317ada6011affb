"""What a trainer remembers between rounds, for each run: in memory, or in a folder of the owner's, where it survives its process."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from federated.errors import UpdateHeldBack
from federated.tasks.update import Array
from federated.trainers.trained import Remembered
from protocols.storage.replacement import replacing

MOST_RUNS = 16
"""Runs whose states are kept; of more, those that rested longest are forgotten."""
DEEPEST = 32
"""Levels of dicts and lists in a state."""
ARRAY = "\0array"


class TrainerMemory:
    """States by run, each after the last round that was trained and before it.

    A round that is asked for again, by an aggregator that was killed before it had written the round down, begins with what there was
    before it: so a run that is resumed is the run that was not interrupted.

    Args:
        folder: where they are kept, one file a run; it is made if it does not exist. None: they are kept as long as this object lives.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._runs: dict[str, tuple[int, Remembered, Remembered]] = {}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def before(self, run: str, number: int) -> Remembered:
        """Return a copy of the state with which round `number` of a run begins.

        Raises:
            UpdateHeldBack: a later round was trained already; or the file is damaged.
        """
        last, before, after = self._known(run)
        if number < last:
            raise UpdateHeldBack(
                f"this owner's trainer has trained round {last} of this run, and cannot go back to round {number}: begin another run"
            )
        return copy.deepcopy(before if number == last else after)

    def keep(self, run: str, number: int, state: Remembered) -> None:
        """Keep the state after round `number`, whole or not at all.

        Raises:
            UpdateHeldBack: it has something that cannot be kept.
            OSError: the folder cannot be written; what was kept is untouched.
        """
        arrays: list[Array] = []
        text = json.dumps(_plain(state, arrays))
        last, before, after = self._known(run)
        before = before if number == last else after
        self._runs.pop(run, None)
        self._runs[run] = (number, before, _with_arrays(json.loads(text), arrays))
        if self._folder is not None:
            self._write(run)
        while len(self._runs) > MOST_RUNS:
            del self._runs[next(iter(self._runs))]

    def _known(self, run: str) -> tuple[int, Remembered, Remembered]:
        if run not in self._runs and self._folder is not None and self._file(run).exists():
            self._runs[run] = _read(self._file(run))
        return self._runs.get(run, (0, {}, {}))

    def _file(self, run: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(run.encode()).hexdigest()[:32]}.npz"  # a name that others have chosen is no path

    def _write(self, run: str) -> None:
        number, before, after = self._runs[run]
        arrays: list[Array] = []
        both = {"before": _plain(before, arrays), "after": _plain(after, arrays)}
        text = json.dumps({"round": number, "arrays": len(arrays), **both})
        named = {f"array {i}": array for i, array in enumerate(arrays)}
        with replacing(self._file(run)) as file:
            np.savez(file, text=np.frombuffer(text.encode(), np.uint8), **named)
        self._forget()

    def _forget(self) -> None:
        """Delete the files of runs that rested longest."""
        assert self._folder is not None
        files = sorted(self._folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MOST_RUNS]:
            file.unlink(missing_ok=True)


def _read(file: Path) -> tuple[int, Remembered, Remembered]:
    try:
        with np.load(file, allow_pickle=False) as found:
            text = json.loads(found["text"].tobytes())
            arrays = [found[f"array {i}"] for i in range(text["arrays"])]
        return int(text["round"]), _with_arrays(text["before"], arrays), _with_arrays(text["after"], arrays)
    except (ValueError, KeyError, TypeError, IndexError, EOFError, OSError, zipfile.BadZipFile):
        raise UpdateHeldBack(f"{file} is no state of a trainer, or is damaged: move it away to begin anew") from None


def _plain(value: Any, arrays: list[Array], depth: int = 0) -> Any:
    """Return a state as JSON, its arrays put aside.

    Raises:
        UpdateHeldBack: naming the kind of what cannot be kept; no value, and no key, which may be of the data.
    """
    if depth > DEEPEST:
        raise UpdateHeldBack(f"a trainer's state has more than {DEEPEST} levels of dicts and lists")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and value != ARRAY):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        arrays.append(value)
        return {ARRAY: len(arrays) - 1}
    if isinstance(value, (list, tuple)):
        return [_plain(one, arrays, depth + 1) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) and key != ARRAY for key in value):
        return {key: _plain(one, arrays, depth + 1) for key, one in value.items()}
    raise UpdateHeldBack(
        f"a trainer's state has a {type(value).__name__} in it: numbers, texts, truth values, None, arrays of numbers, and lists and dicts "
        "(with texts as keys) of these are kept; numpy.asarray(...) makes an array of a tensor"
    )


def _with_arrays(value: Any, arrays: list[Array]) -> Any:
    if isinstance(value, list):
        return [_with_arrays(one, arrays) for one in value]
    if isinstance(value, dict):
        if value.keys() == {ARRAY}:
            return np.array(arrays[value[ARRAY]])
        return {key: _with_arrays(one, arrays) for key, one in value.items()}
    return value
