"""Files that are replaced as a whole or not at all, some of them for one user only; and a folder that one process changes at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from federated.errors import KeysError

LARGEST = 1 << 20
"""Bytes of a file that is read."""


def write(path: Path, content: bytes, *, mode: int) -> None:
    """Replace a file at once by one that never had wider permissions; when this returns, it is on the disk.

    A link of that name is replaced itself, and what it leads to stays as it is.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    synchronize(path.parent)


def synchronize(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_private(path: Path) -> bytes:
    """Return what is in a file that only this user can read.

    Raises:
        KeysError: it is not there, is a link, belongs to somebody else, or others can read it.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise KeysError(
                    f"{path} has mode {stat.S_IMODE(found.st_mode):04o} and belongs to user {found.st_uid}: it has to be a file of user"
                    f" {os.geteuid()}, with mode 0600"
                )
            return file.read(LARGEST)
    except OSError as error:
        what = "is a link, and has to be a file" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise KeysError(f"{path} {what}") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder for this process alone as long as the block lasts; waits for others.

    Raises:
        KeysError: it is not there, or cannot be written.
    """
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KeysError(f"{folder} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
