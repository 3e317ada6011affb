"""The audit log of a process: who asked what, and what came of it. What cannot be written there does not happen.

A line has left this process before the answer that it is about does. It is on the disk within a second: a power cut may cost the last of
them, the end of the process none. Once a line could not be written, or the disk has failed, every message that would be written is
refused until the line can be written, after a failure of the disk for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from actors.errors import AuditBroken, AuditUnwritable
from actors.observing.audit_file import digest, last
from actors.observing.figures import Figure, count, state

SYNC_EVERY = 1.0
"""Seconds after which a line is on the disk."""
PART = 13
"""Hexadecimal digits of the head in one figure: 52 bits, which a float holds exactly."""


class AuditLog:
    """A file that only grows, and that one process writes.

    Args:
        path: of the file. It is made, for this user alone, if it is not there; otherwise its chain goes on.
        now: the time, with a zone.

    Attributes:
        entries: lines in the file.
        head: the hash of the last one, hexadecimal.

    Raises:
        AuditUnwritable: it cannot be opened, others may read or write it, another process writes it, or it is no audit log.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path, self._now = path, now
        self._unwritten = b""
        self._unsynced = asyncio.Event()
        self._broken = ""
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise AuditUnwritable(f"the audit log {path} cannot be opened: {error.strerror}") from None
        try:
            self._check_file()
            self.entries, self.head, whole = last(path)
            if not whole:
                self._put(b"\n")
            self.write(what="audit", decision="opened")
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, AuditBroken):
                raise AuditUnwritable(str(error)) from None
            raise

    def _check_file(self) -> None:
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise AuditUnwritable(f"the audit log {self._path} has to be a file of this user that nobody else may read: chmod 600")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AuditUnwritable(f"the audit log {self._path} is written by another process: give each its own file") from None

    @property
    def broken(self) -> str:
        """Why nothing more can be written; empty if it can."""
        return self._broken

    def check(self) -> None:
        """Refuse what could not be written.

        Raises:
            AuditUnwritable: the log cannot be written now.
        """
        if self._broken:
            self._put(b"")

    def write(self, **entry: Any) -> None:
        """Append an entry.

        Raises:
            AuditUnwritable: it could not be written; it will be the next line, as soon as something can.
        """
        numbered = {"entry": self.entries + 1, "at": self._now().isoformat(timespec="microseconds"), **entry, "before": self.head}
        line = msgspec.json.encode(numbered)
        self.entries, self.head = self.entries + 1, digest(line)
        self._put(line + b"\n")

    def _put(self, line: bytes) -> None:
        self._unwritten += line
        if self._broken.startswith(_FAILED):
            raise AuditUnwritable(self._broken)
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
        except OSError as error:
            self._broken = f"the audit log cannot be written ({error.strerror}): nothing that belongs into it is done until it can"
            raise AuditUnwritable(self._broken) from None
        self._broken = ""
        self._unsynced.set()

    async def sync(self) -> None:
        """Bring lines to the disk, at most once a second, until cancelled."""
        while True:
            await self._unsynced.wait()
            self._unsynced.clear()
            try:
                await asyncio.to_thread(os.fsync, self._file)
            except OSError as error:
                self._broken = f"{_FAILED} ({error.strerror}): nothing that belongs into it is done; start this process anew"
                return
            await asyncio.sleep(SYNC_EVERY)

    def close(self) -> None:
        """Say that the process ends in order, and close the file."""
        with contextlib.suppress(AuditUnwritable, OSError):
            self.write(what="audit", decision="closed")
            os.fsync(self._file)
        os.close(self._file)

    def figures(self) -> list[Figure]:
        """Return how long the log is, and its head: by them it shows later whether something was cut off."""
        parts = [self.head[start : start + PART] for start in range(0, len(self.head), PART)]
        meaning = "the hash of the last entry of the audit log, 52 bits in each part and 48 in the last, for confide audit verify --head"
        heads = [state("audit_head", meaning, int(digits, 16), part=str(number)) for number, digits in enumerate(parts)]
        return [
            count("audit_entries", "entries of the audit log", self.entries),
            state("audit_broken", "1 if the audit log cannot be written, and requests are refused", bool(self._broken)),
            *heads,
        ]


_FAILED = "the disk has failed under the audit log"


def head_of(parts: dict[str, float]) -> str:
    """Return the head, hexadecimal, from the figures `audit_head` by their parts; empty if some are missing."""
    digits = [f"{int(parts[str(number)]):x}" for number in range(len(parts)) if str(number) in parts]
    sizes = [PART, PART, PART, PART, 64 - 4 * PART]
    return "".join(one.rjust(size, "0") for one, size in zip(digits, sizes, strict=True)) if len(digits) == len(sizes) else ""
