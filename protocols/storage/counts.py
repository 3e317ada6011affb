"""What one worker has counted of one model that outlives it: a file of SQLite, in which everything is on the disk before it is given away.

The folder of a vault belongs to one process, so what is in memory is what counts; the file is for the next process. It is written whole:
absolute numbers, in one transaction (write-ahead log, synchronous = FULL). Each row carries a MAC under a key of the vault, and the row of
the model the sum over all clients: an altered, missing or added row is found. A file that was replaced by an earlier one of its own is not.

This file knows nothing of models, terms, or of an event loop.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import msgspec

from protocols.errors import VaultError

_TABLES = """
CREATE TABLE model (number INTEGER PRIMARY KEY CHECK (number = 0), body BLOB NOT NULL, mac BLOB NOT NULL);
CREATE TABLE clients (name TEXT PRIMARY KEY, spent INTEGER NOT NULL, mac BLOB NOT NULL);
"""
FORMAT = 1
"""The version of the tables: SQLite's `user_version`. Files of 0 were written before there was one, and have the same tables."""
BUSY = 5.0
"""Seconds to wait for another program that reads the file, a backup."""


class Counted(msgspec.Struct, frozen=True):
    """How much of a model was used.

    Attributes:
        requests: that were answered, or at the provider granted and not given back.
        examples: of them.
        terms: what the owner has allowed last, in words of whoever counts; empty: nothing yet.
        spent: noisy answers by client. To `UseCounts.write` only those that have changed.
    """

    requests: int = 0
    examples: int = 0
    terms: bytes = b""
    spent: Mapping[str, int] = {}


class UseCounts:
    """The file of one model. Made by `make`, or by `open` if it is there. Not for use by two threads at once.

    Args:
        path: of the file.
        key: 16 bytes, of this model alone.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path, self._key = path, key
        self._spent: dict[str, int] = {}
        self._total = 0
        self._file = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
        except BaseException:
            self._file.close()
            raise

    @staticmethod
    def make(path: Path, key: bytes) -> UseCounts:
        """Begin to count, from 0, in a new file that its user alone can read.

        Raises:
            VaultError: it cannot be made, or is there already.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            made = UseCounts(path, key)
            made._file.executescript(f"{_TABLES} PRAGMA user_version = {FORMAT};")
            made.write(Counted())
        except (OSError, sqlite3.Error) as error:
            raise VaultError(f"{path} cannot be made: {error}") from None
        return made

    @staticmethod
    def open(path: Path, key: bytes) -> tuple[UseCounts, Counted]:
        """Go on with a file; return also what is in it.

        Raises:
            VaultError: it is missing, damaged, or altered: nothing may be given away on its word.
        """
        if not path.is_file():
            raise VaultError(f"{path} is missing: how much was used of this model is not known here")
        found = None
        try:
            found = UseCounts(path, key)
            return found, found._read()
        except sqlite3.Error as error:
            if found is not None:
                found.close()
            raise VaultError(f"{path} is damaged: {error}") from None
        except UnicodeDecodeError:  # what SQLite says of a damaged file quotes it
            if found is not None:
                found.close()
            raise VaultError(f"{path} is damaged: names in it are no text") from None
        except VaultError:
            if found is not None:
                found.close()
            raise

    @staticmethod
    def copy(path: Path, to: Path) -> None:
        """Copy a file as it is at one moment, also while another process writes it: SQLite's online backup.

        Raises:
            VaultError: it is missing, cannot be read, or `to` cannot be written.
        """
        if not path.is_file():
            raise VaultError(f"{path} is missing: how much was used of this model is not known here")
        try:
            os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with contextlib.closing(sqlite3.connect(path, timeout=BUSY)) as source, contextlib.closing(sqlite3.connect(to)) as target:
                source.backup(target)
                target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (OSError, sqlite3.Error) as error:
            raise VaultError(f"{path} cannot be copied to {to}: {error}") from None

    @staticmethod
    def remove(path: Path) -> None:
        """Remove a file, and what SQLite keeps beside it."""
        for one in (path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))):
            one.unlink(missing_ok=True)

    def write(self, counted: Counted) -> None:
        """Write everything; it is on the disk when this returns.

        Raises:
            VaultError: it cannot be written.
        """
        clients = len(self._spent.keys() | counted.spent.keys())
        total = self._total + sum(answers - self._spent.get(name, 0) for name, answers in counted.spent.items())
        body = msgspec.msgpack.encode((counted.requests, counted.examples, counted.terms, clients, total))
        rows = [(name, answers, self._mac("client", name, answers)) for name, answers in counted.spent.items()]
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.execute("INSERT OR REPLACE INTO model VALUES (0, ?, ?)", (body, self._mac("model", body)))
                self._file.executemany("INSERT OR REPLACE INTO clients VALUES (?, ?, ?)", rows)
                self._file.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._file.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise VaultError(f"{self._path} cannot be written: {error}") from None
        self._spent.update(counted.spent)
        self._total = total

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self) -> Counted:
        if self._file.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise VaultError(f"{self._path} is damaged")
        (version,) = self._file.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise VaultError(f"{self._path} has format {version}, of a later version of confide; this reads {FORMAT}: upgrade this worker")
        row = self._file.execute("SELECT body, mac FROM model").fetchone()
        clients = self._file.execute("SELECT name, spent, mac FROM clients").fetchall()
        if row is None or not self._made(row[1], "model", row[0]):
            raise VaultError(f"{self._path} is damaged: its numbers are not what this party has written")
        requests, examples, terms, count, total = msgspec.msgpack.decode(row[0], type=tuple[int, int, bytes, int, int])
        if not all(self._made(mac, "client", name, spent) for name, spent, mac in clients):
            raise VaultError(f"{self._path} is damaged: what a client has spent is not what this party has written")
        self._spent = {name: spent for name, spent, _ in clients}
        self._total = sum(self._spent.values())
        if (len(self._spent), self._total) != (count, total):
            raise VaultError(f"{self._path} is damaged: what clients have spent is not all there")
        return Counted(requests, examples, terms, dict(self._spent))

    def _mac(self, *what: str | bytes | int) -> bytes:
        return hmac.digest(self._key, msgspec.msgpack.encode(what), "sha256")

    def _made(self, mac: object, *what: str | bytes | int) -> bool:
        return isinstance(mac, bytes) and hmac.compare_digest(mac, self._mac(*what))
