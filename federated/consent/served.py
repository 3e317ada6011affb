"""What an owner has served, so that nobody is served twice with the same, or more often than the owner wants to."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from federated.errors import UpdateHeldBack

DAY = 24 * 60 * 60.0


class Served:
    """The record.

    Args:
        path: a file that it is kept in, so that a restart of the owner begins nothing anew; it is made if it does not exist. None: it is
            kept as long as this object lives.
        clock: seconds since the epoch.

    Raises:
        OSError: the file cannot be read or written.
        UpdateHeldBack: it is no such record.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = None if path is None else Path(path), clock
        self._rounds: set[tuple[str, int]] = set()
        self._counts: Counter[str] = Counter()
        self._recent: dict[str, list[float]] = {}
        if self._path is not None and self._path.exists():
            whole, _, torn = self._path.read_text(encoding="utf-8").rpartition("\n")
            if torn:  # the owner died while it wrote, and before it served
                os.truncate(self._path, len(whole.encode()) + bool(whole))
            for line in whole.splitlines():
                self._remember(line)

    def _remember(self, line: str) -> None:
        try:
            what, at, run, number = json.loads(line)
            at, number = float(at), int(number)
        except (ValueError, TypeError):
            raise UpdateHeldBack(f"{self._path} is no record of what an owner has served, or is damaged: nothing is given") from None
        if what == "round":
            self._rounds.add((str(run), number))
        else:
            self._counts[what] += 1
            self._recent.setdefault(what, []).append(at)

    def _write(self, what: str, run: str, number: int) -> None:
        line = json.dumps([what, self._clock(), run, number])
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._remember(line)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many services of each kind there have been."""
        return self._counts

    def once(self, run: str, number: int) -> bool:
        """Take a round of a run in; False if it was served before."""
        if (run, number) in self._rounds:
            return False
        self._write("round", run, number)
        return True

    def count(self, what: str, run: str, number: int, *, in_all: int | None, a_day: int | None) -> None:
        """Take in one service of a kind.

        Args:
            what: its kind.
            run: its name, for those who read the record.
            number: of the round, for the same.
            in_all: how many there may be; None: any number.
            a_day: how many there may be within 24 hours.

        Raises:
            UpdateHeldBack: there have been as many as there may be.
        """
        since = self._clock() - DAY
        recent = self._recent[what] = [at for at in self._recent.get(what, ()) if at > since]
        if in_all is not None and self._counts[what] >= in_all:
            raise UpdateHeldBack(f"this owner's policy allows {in_all} services of this kind, and they have been given")
        if a_day is not None and len(recent) >= a_day:
            raise UpdateHeldBack(f"this owner's policy allows {a_day} services of this kind a day, and they have been given")
        self._write(what, run, number)
