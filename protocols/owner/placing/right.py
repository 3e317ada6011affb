"""The right to a model that stays, as its owner keeps it: a file for its user alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from protocols.authority.rights import SECRET_BYTES, right_at
from protocols.errors import InputError, VaultError
from protocols.storage.replacement import replace

ENDING = ".model.json"


class _RightFile(msgspec.Struct, frozen=True):
    name: str
    secret: bytes


class ModelRight:
    """The right to one model: whoever has it, and the certificate of who shared it, limits and stops the model.

    A worker is shown what follows from it for that worker only, and keeps a digest of that, so that no worker can use it at another.

    Args:
        path: of the file.
        name: of the model.
        secret: from which the rights at the three workers follow.
    """

    def __init__(self, path: Path, name: str, secret: bytes) -> None:
        self.path, self.name, self.secret = path, name, secret

    def __repr__(self) -> str:
        return f"ModelRight({str(self.path)!r})"

    @staticmethod
    def new(folder: bool | str | os.PathLike[str], name: str, secret: bytes) -> ModelRight:
        """Return a right that is not written yet.

        Args:
            folder: where it will be written; True: in `models`.
            name: of the model.
            secret: of its owner.

        Raises:
            VaultError: there is a file of it already, which may be the right to a model that is there.
            InputError: a file cannot have that name.
        """
        if "/" in name or name.startswith("."):
            raise InputError(f"{name!r} is no name for a model that stays: it names a file, and its workers' folders")
        path = Path("models" if isinstance(folder, bool) else folder) / f"{name}{ENDING}"
        if path.exists():
            raise VaultError(f"{path} is there already: it is the right to a model that was shared before; move it, or choose another name")
        return ModelRight(path, name, secret)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> ModelRight:
        """Read the file of a right.

        Raises:
            InputError: it cannot be read, or holds none.
        """
        try:
            found = msgspec.json.decode(Path(path).read_bytes(), type=_RightFile)
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(f"{path} holds no right to a model, as share(durable=True) writes it: {error}") from None
        if len(found.secret) != SECRET_BYTES:
            raise InputError(f"{path} holds no right to a model: its secret has {len(found.secret)} bytes, {SECRET_BYTES} are needed")
        return ModelRight(Path(path), found.name, found.secret)

    def at(self, places: Sequence[int]) -> list[bytes]:
        """Return the rights at the workers of these places."""
        return [right_at(self.secret, place) for place in places]

    def write(self) -> None:
        """Write the file, readable for its user alone.

        Raises:
            VaultError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(self.path, msgspec.json.format(msgspec.json.encode(_RightFile(self.name, self.secret))))
        except OSError as error:
            raise VaultError(f"{self.path} cannot be written: {error}") from None

    def forget(self) -> None:
        """Remove the file: the model is gone."""
        self.path.unlink(missing_ok=True)
