"""Files that only one user can read; and a folder that one process changes at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from federated.errors import KeysError

LARGEST = 1 << 20
"""Bytes of a file that is read."""


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
