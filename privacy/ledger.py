"""What has been released about one data set, by anybody and ever: a budget on disk that is checked before each release."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.accounting import PaidReleases, check_method
from privacy.accounting import epsilon as composed
from privacy.errors import BudgetSpent, LedgerUnusable, SettingError
from privacy.events import from_text, to_text

_TABLES = """
CREATE TABLE IF NOT EXISTS terms (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS releases (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, purpose TEXT NOT NULL, event TEXT NOT NULL, count INTEGER NOT NULL CHECK (count > 0)
);
"""


@dataclass(frozen=True)
class Release:
    """One line of a ledger.

    Attributes:
        at: when it was written, ISO 8601, UTC.
        purpose: what for, in the words of whoever released.
        event: a `dp_accounting.DpEvent`.
        count: how often.
    """

    at: str
    purpose: str
    event: Any
    count: int


class Ledger:
    """A privacy budget in a file, for all releases about one data set: training, federated rounds, answers, or anything with an event.

    A release is written, and has reached the disk, before it is made. So a crash between the two costs privacy that was not used, and
    never the other way round. Several processes can use one file at the same time.

    It is an accountant: `PrivacyEngine(accountant=Ledger(...))`, `Federation(..., ledger=Ledger(...))`.

    Args:
        path: of the file; it is made if it does not exist.
        data: the name of the data set.
        max_epsilon: the budget, above 0.
        delta: at which epsilon is meant, in (0, 1).
        unit: what differs between neighbouring data sets: "example", "owner", or whatever you release about. All releases in one ledger
            have to speak of the same.
        method: how releases are composed. "pld" (tighter) is proved for mechanisms that are fixed in advance: noise and number of releases
            may not be chosen by what was released before, as someone does who looks at a result and then decides how much noise the next
            one gets. If that happens give "rdp": it holds then, too (Feldman and Zrnic, 2021, arXiv:2008.11193). A ledger can be opened
            with either; what is written in it is the same.

    Raises:
        SettingError: a setting is out of its range.
        LedgerUnusable: the file is no ledger, or one of other data, unit, budget or delta.

    Example:
        >>> ledger = Ledger("digits.sqlite", data="digits", max_epsilon=3.0, delta=1e-5)
        >>> engine = PrivacyEngine(accountant=ledger)
        >>> ledger.spend(dp_accounting.GaussianDpEvent(20.0), purpose="a mean")
    """

    def __init__(
        self, path: str | os.PathLike[str], *, data: str, max_epsilon: float, delta: float, unit: str = "example", method: str = "pld"
    ) -> None:
        if not (0.0 < max_epsilon < float("inf") and 0.0 < delta < 1.0):
            raise SettingError(f"max_epsilon={max_epsilon}, delta={delta}: above 0 and finite, and in (0, 1) are needed")
        self.path, self.data, self.unit = Path(path), data, unit
        self.max_epsilon, self.delta = max_epsilon, delta
        check_method(method)
        self.method = method
        self._agree({"ledger of": "confide 1", "data": data, "unit": unit, "max_epsilon": repr(max_epsilon), "delta": repr(delta)})

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r}, data={self.data!r}, max_epsilon={self.max_epsilon}, delta={self.delta}, unit={self.unit!r})"

    # What there is.

    @property
    def releases(self) -> tuple[Release, ...]:
        """All of them, the oldest first."""
        with self._transaction() as db:
            rows = db.execute("SELECT at, purpose, event, count FROM releases ORDER BY number").fetchall()
        return tuple(Release(at, purpose, from_text(event), count) for at, purpose, event, count in rows)

    @property
    def events(self) -> tuple[tuple[Any, int], ...]:
        """What was released: each event, and how often in all."""
        with self._transaction() as db:
            return tuple((from_text(event), count) for event, count in _totals(db).items())

    def epsilon(self, delta: float | None = None) -> float:
        """Return an upper bound of epsilon for all releases, at `delta`, by default that of the budget."""
        return composed(self.events, self.method, self.delta if delta is None else delta)

    def affords(self, event: Any, count: int = 1) -> bool:
        """Whether `count` releases of `event` more would stay within the budget."""
        return composed((*self.events, (event, count)), self.method, self.delta) <= self.max_epsilon

    # Spending.

    def spend(self, event: Any, count: int = 1, *, purpose: str = "") -> None:
        """Write releases down. Make them after this has returned, or not at all.

        Args:
            event: a `dp_accounting.DpEvent`.
            count: at least 1.
            purpose: for those who read the ledger.

        Raises:
            BudgetSpent: they would cost more than is left. Nothing was written.
        """
        self._write({to_text(event): count}, purpose)

    def record(self, event: Any, count: int = 1) -> None:
        """Write a release down, as an accountant does."""
        self.spend(event, count)

    @contextlib.contextmanager
    def holding(self, planned: Iterable[Any], *, purpose: str = "training") -> Iterator[PaidReleases]:
        """Write planned releases down at once, for a block that makes them one by one; give back what it has not used when it ends.

        If the process dies within the block all of them stay spent.

        Raises:
            BudgetSpent: they would cost more than is left. Nothing was written.
        """
        wanted = Counter(to_text(event) for event in planned)
        rows = self._write(wanted, purpose)
        used: Counter[str] = Counter()

        def use(event: Any) -> None:
            text = to_text(event)
            if used[text] >= wanted[text]:
                raise BudgetSpent(f"{text} was not held often enough: {wanted[text]} times")
            used[text] += 1

        try:
            yield PaidReleases(use)
        finally:
            self._give_back(rows, used)

    def _write(self, wanted: dict[str, int], purpose: str) -> dict[str, int]:
        """Write releases down within the budget; return the numbers of their rows."""
        if any(count < 1 for count in wanted.values()):
            raise SettingError("a release counts at least once")
        with self._transaction() as db:
            now = _totals(db)
            after = [(from_text(text), count) for text, count in (Counter(now) + Counter(wanted)).items()]
            epsilon = composed(after, self.method, self.delta)
            if epsilon > self.max_epsilon:
                before = composed([(from_text(text), count) for text, count in now.items()], self.method, self.delta)
                raise BudgetSpent(
                    f"{sum(wanted.values())} releases about {self.data!r} would bring epsilon from {before:.3g} to {epsilon:.3g} at delta "
                    f"{self.delta:g}; the budget in {self.path} is {self.max_epsilon:g}: release less, with more noise, or never again"
                )
            at = datetime.now(UTC).isoformat(timespec="seconds")
            statement = "INSERT INTO releases (at, purpose, event, count) VALUES (?, ?, ?, ?)"
            return {text: db.execute(statement, (at, purpose, text, count)).lastrowid or 0 for text, count in wanted.items()}

    def _give_back(self, rows: dict[str, int], used: Counter[str]) -> None:
        with self._transaction() as db:
            for text, number in rows.items():
                if used[text]:
                    db.execute("UPDATE releases SET count = ? WHERE number = ?", (used[text], number))
                else:
                    db.execute("DELETE FROM releases WHERE number = ?", (number,))

    # The file.

    def _agree(self, terms: dict[str, str]) -> None:
        try:
            with self._transaction() as db:
                for statement in _TABLES.split(";")[:-1]:
                    db.execute(statement)
                found = dict(db.execute("SELECT name, value FROM terms").fetchall())
                if not found:
                    db.executemany("INSERT INTO terms VALUES (?, ?)", terms.items())
        except sqlite3.DatabaseError as error:
            raise LedgerUnusable(f"{self.path} is no ledger: {error}") from error
        other = [f"{name} {found[name]!r}, not {value!r}" for name, value in terms.items() if found and found.get(name) != value]
        if other:
            raise LedgerUnusable(f"{self.path} is a ledger with {', '.join(other)}: give what it was made with, or another file")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Alone with the file; what was written is on the disk when the block ends without an error, and gone if it ends with one."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=60.0, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _totals(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT event, SUM(count) FROM releases GROUP BY event ORDER BY MIN(number)").fetchall())
