"""Files that are replaced as a whole or not at all: whenever the process is killed, the old content is there or the new.

This file knows nothing of what is in them, or of who may read it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, *, mode: int | None = 0o600) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an error; it is on disk then.

    A link of that name is replaced itself, and what it leads to stays as it is.

    Args:
        path: in a folder that is there. A process that is killed may leave a file `*.new` beside it.
        mode: permissions, whatever the umask; the file never has wider ones. None: what the umask leaves of 0666.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666 if mode is None else 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    synchronize(path.parent)


def replace(path: Path, content: bytes, *, mode: int | None = 0o600) -> None:
    """Write a small file, whole or not at all; see `replacing`."""
    with replacing(path, mode=mode) as file:
        file.write(content)


def synchronize(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
