"""The file of an audit log: JSON lines, each of which holds the SHA-256 of the line before.

**What checking it detects**: a line that was changed, removed, put in or moved, as long as another line follows it whose hash of the line
before was left alone; with a head that is known from elsewhere (`/metrics`, `confide status --json`, the log) also lines that were cut off
at the end, a changed last line, and a file whose hashes were all made anew.

**What it does not**: without a known head, lines that were cut off at the end, or a file that was made anew from some line on by whoever
could write it; and what its process never wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from actors.errors import AuditBroken

BEGINNING = "0" * 64
"""What the first line holds in place of a hash."""
LONGEST = 1 << 16
"""Bytes that a line may have."""
_FIRST = b'{"entry":1,'


@dataclass(frozen=True)
class Chain:
    """A file whose lines follow from each other.

    Attributes:
        entries: how many lines there are.
        head: the hash of the last one, hexadecimal; `BEGINNING` if there is none.
        torn: numbers of lines, from 1, that are no whole entries: a process or its machine ended while it wrote them.
        found: the number of the line whose hash is the head that was asked for; None: nobody asked.
    """

    entries: int
    head: str
    torn: tuple[int, ...]
    found: int | None = None


def verified(path: Path, *, head: str | None = None) -> Chain:
    """Check a file from its first line to its last.

    Args:
        path: of the file. It may be in use.
        head: the hash of a line that was once the last, known from elsewhere; None: none is known.

    Raises:
        AuditBroken: it cannot be read, a line does not follow from the one before, or no line has that hash.
    """
    before, number, torn, found = BEGINNING, 0, [], 0 if head == BEGINNING else None
    begun, line = 0, b""  # the first of the lines at the end that are no entries
    try:
        for number, line in enumerate(_lines(path), 1):
            entry = parsed(line)
            if entry is None:
                torn.append(number)
                begun = begun or number
            else:
                _check(path, number, entry, before)
                begun = 0
            before = digest(line)
            if before == head:
                found = number
    except OSError as error:
        raise AuditBroken(f"{path} cannot be read: {type(error).__name__}") from None
    if begun and (begun < number or line.endswith(b"\n")):  # what was torn has no end, and nothing follows it but whole entries
        raise AuditBroken(f"{path}: entry {begun} is the first that is broken: it is no entry, and no entry was written after it")
    if head is not None and found is None:
        raise AuditBroken(
            f"{path}: none of its {number} entries has the hash {head}: entries were cut off at the end, or the file was made anew"
        )
    return Chain(number, before, tuple(torn), found)


def _check(path: Path, number: int, entry: dict[str, Any], before: str) -> None:
    if entry["entry"] != number:
        raise AuditBroken(f"{path}: entry {number} is the first that is broken: the line in its place says to be entry {entry['entry']}")
    if entry["before"] != before:
        place = f"entry {number - 1} is the first that is broken: it" if number > 1 else "entry 1 is broken: what was before it"
        raise AuditBroken(f"{path}: {place} is not what entry {number} was written after")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(LONGEST + 1):
            yield line


def digest(line: bytes) -> str:
    """Return the hash of a line, without its end."""
    return sha256(line.rstrip(b"\n")).hexdigest()


def parsed(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line; None if it is no whole one."""
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    numbered = type(entry.get("entry")) is int and type(entry.get("before")) is str
    return entry if numbered and line.endswith(b"\n") else None


def last(path: Path) -> tuple[int, str, bool]:
    """Return the number and the hash of the last line, and whether it ends with the file: for who goes on writing.

    Raises:
        AuditBroken: there is no entry within its last lines.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * LONGEST))
        lines = file.read().split(b"\n")
    whole = lines[-1] == b""
    lines = lines[:-1] if whole else lines
    if not lines:
        return 0, BEGINNING, True
    for back, line in enumerate(reversed(lines)):
        entry = parsed(line + b"\n")
        if entry is not None:
            return entry["entry"] + back, digest(lines[-1]), whole
    if not whole and len(lines) == 1 and _FIRST.startswith(lines[0][: len(_FIRST)]):
        return 1, digest(lines[-1]), whole  # the very first entry was torn
    raise AuditBroken(f"{path} is no audit log: none of its last lines is an entry; give another file")
