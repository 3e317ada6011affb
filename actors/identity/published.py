"""How processes of one user on one machine know each other: a file that only this user can read, for each address on loopback.

Any user of a machine can connect to a port on loopback, and take one that is free. So a system that listens there in the clear writes a
file, `HOST-PORT` in a folder of its user, with two things: a key for whoever can read the file, and the public half of its own key.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import msgspec

from actors.address import Address
from actors.errors import BadAddress

KEY_BYTES = 32
LARGEST = 4096
"""Bytes of a file that is read."""


class Published(msgspec.Struct, frozen=True):
    """What a system on loopback tells the processes of its user.

    Attributes:
        user: the key by which a process shows that it can read this file, 32 bytes.
        public: of the X25519 key of the system, 32 bytes.
    """

    user: bytes
    public: bytes

    def __repr__(self) -> str:
        return "Published(...)"


def reached(address: Address) -> str:
    """Return the one way in which an address on loopback is written here: localhost is 127.0.0.1."""
    return str(Address(address.secure, "127.0.0.1", address.port)) if address.host == "localhost" else str(address)


def kept_in_the_clear(address: Address) -> bool:
    """Whether systems at this address are known by their files: on loopback, without certificates."""
    return address.loopback and not address.secure


def publish(address: Address, published: Published) -> Path:
    """Write the file of an address, readable for this user only; it replaces one that a process left when it was killed.

    Raises:
        BadAddress: there is no folder that is this user's alone.
    """
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _private(folder.stat(follow_symlinks=False)):
                continue
            path = folder / _name(address)
            handle, new = tempfile.mkstemp(dir=folder)  # 0600
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(published))
            os.replace(new, path)
            return path
    raise BadAddress(
        f"{address} cannot be listened on for this user alone: none of {', '.join(map(str, _folders()))} can be written and is closed to"
        " others; set XDG_RUNTIME_DIR to a folder with mode 0700"
    )


def find(address: Address) -> tuple[Published, Path] | None:
    """Return what the system at an address has published for this user, and in which file; None if there is nothing."""
    for folder in _folders():
        path = folder / _name(address)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                if not (_private(folder.stat(follow_symlinks=False)) and _private(os.fstat(file.fileno()))):
                    continue
                found = msgspec.json.decode(file.read(LARGEST), type=Published)
            if len(found.user) == len(found.public) == KEY_BYTES:
                return found, path
    return None


def withdraw(path: Path, published: Published) -> None:
    """Remove a file, unless another process has replaced it."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if msgspec.json.decode(path.read_bytes(), type=Published) == published:
            path.unlink()


def _folders() -> list[Path]:
    """Where such files are, the best place first."""
    runtime, user = os.environ.get("XDG_RUNTIME_DIR"), os.geteuid()
    folders = [Path(runtime) / "confide"] if runtime else []
    with contextlib.suppress(RuntimeError):  # there is no home
        folders.append(Path.home() / ".cache" / "confide" / "run")
    return [*folders, Path(tempfile.gettempdir()) / f"confide-{user}"]


def _name(address: Address) -> str:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    return f"{host.replace(':', '_')}-{address.port}"


def _private(status: os.stat_result) -> bool:
    """Whether it is this user's, and nobody else can read or change it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
