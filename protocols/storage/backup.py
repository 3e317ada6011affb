"""A copy of a vault: made beside the worker that uses it, checked, and put back so that nothing is given anew.

A backup is a folder like that of the vault: the same encrypted files, the counts of models as they were at one moment, and `backup.json`,
which lists them with their SHA-256 under a MAC of the party, so that a file that is missing or of another backup is found. The key is not
in it.

What was answered after a backup is not counted in it. So what is put back has no terms: this worker answers nothing of a model until its
owner says how often (`confide models limit`). Datasets and trainings have versions: the other two workers refuse one that is too old.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from protocols.errors import VaultError
from protocols.storage.counts import Counted, UseCounts
from protocols.storage.kept_models import MODEL, KeptModels
from protocols.storage.replacement import replace, replacing, synchronize
from protocols.storage.vault import Label, Vault
from protocols.storage.versions import DATA, RUN

KINDS = (DATA, RUN, MODEL)
FORMAT = 1
LIST = "backup.json"
SUFFIXES = (".share", ".counts")
KEY = "key"
"""The file in a vault with its key, unless that is elsewhere."""


class _BackupList(msgspec.Struct, frozen=True):
    format: int
    made: str
    files: dict[str, str]
    mac: str

    def sealed(self, vault: Vault) -> _BackupList:
        """Return the same with the MAC of a party."""
        content = msgspec.msgpack.encode((self.format, self.made, sorted(self.files.items())))
        return msgspec.structs.replace(self, mac=hmac.digest(vault.key("backup"), content, "sha256").hex())


class _Format(msgspec.Struct, frozen=True):
    format: int


@dataclass(frozen=True)
class Checked:
    """What was found of one version.

    Attributes:
        label: of it.
        size: bytes of its file.
        counted: of a model that stays, what was counted; None: of anything else.
        damage: why it cannot be used; empty: it can.
    """

    label: Label
    size: int
    counted: Counted | None = None
    damage: str = ""


def check(folder: Path, key_file: Path | None = None) -> list[Checked]:
    """Read all that is in a vault, or in a backup, and say of each version whether it is what this party has written.

    Args:
        folder: of the vault. A worker may be using it.
        key_file: with the key; None: `key` in the folder.

    Raises:
        VaultError: it is none, its key cannot be used, or it holds what this version does not know.
    """
    vault = Vault.to_read(folder, key_file or folder / KEY)
    if (folder / LIST).exists():
        _listed(folder, vault)
    return [one for label in _labels(vault) if (one := _checked(vault, label)) is not None]


def back_up(folder: Path, backup: Path, key_file: Path | None = None) -> list[Checked]:
    """Copy a vault, also while its worker runs. The copy is checked before it gets its name.

    Raises:
        VaultError: something cannot be read, is damaged, or cannot be written; or `backup` is there already. Nothing is left then.
    """
    vault = Vault.to_read(folder, key_file or folder / KEY)
    if backup.exists():
        raise VaultError(f"{backup} is there already: give a new folder for each backup")
    with _errors(f"{backup} cannot be written"), _made(backup) as new:
        copy = Vault.to_read(new, key_file or folder / KEY)
        for label in _labels(vault):
            try:
                _copy(vault, copy, label)
            except (FileNotFoundError, VaultError):
                if label in vault.labels(label.kind, label.name):
                    raise
                _removed(copy, label)  # its worker has removed it meanwhile
        found = check(new, key_file or folder / KEY)
        for one in found:
            if one.damage:
                raise VaultError(f"nothing was backed up: {one.damage}")
        files = {path.relative_to(new).as_posix(): _digest(path) for path in _files(new)}
        listed = _BackupList(FORMAT, datetime.now(UTC).isoformat(timespec="seconds"), files, "")
        replace(new / LIST, msgspec.json.format(msgspec.json.encode(listed.sealed(vault))))
    return found


def restore(backup: Path, folder: Path, key_file: Path | None = None, *, nothing_since: bool = False) -> list[Checked]:
    """Put a backup back, in a folder without shares. Models are not answered of until their owners have said how often anew.

    Args:
        backup: made by `back_up`.
        folder: of the vault; is made if it is missing.
        key_file: with the key; None: `key` in the folder, which has to be there.
        nothing_since: the operator vouches that its worker has answered nothing since, as it was stopped before the backup was made:
            what was allowed then stays allowed.

    Raises:
        VaultError: the backup is damaged, not complete, of another party, or of a later version; or there are shares in the folder.
    """
    source = Vault.to_read(backup, key_file or folder / KEY)
    listed = _listed(backup, source)
    found = check(backup, key_file or folder / KEY)
    for one in found:
        if one.damage:
            raise VaultError(f"nothing was restored: {one.damage}")
    there = [kind for kind in KINDS if (folder / kind).exists()]
    if there:
        raise VaultError(f"{folder} holds shares already ({', '.join(there)}): restore into an empty folder, and move that one away")
    with contextlib.closing(Vault.open(folder, key_file)) as target, _errors(f"{folder} cannot be written"):
        for one in found:
            _copy(source, target, one.label, forgets=not nothing_since)
        missing = set(listed.files) - {path.relative_to(folder).as_posix() for path in _files(folder)}
        if missing:
            raise VaultError(f"{min(missing)} was not restored: {folder} is not complete")
    return found


def _labels(vault: Vault) -> list[Label]:
    """List all that is kept. Beside it may lie certificates and what a volume has of its own (`keys`, `lost+found`), no unknown shares."""
    kept = [path for path in vault.folder.glob("*/*/*") if path.suffix in SUFFIXES]
    unknown = sorted({path.relative_to(vault.folder).parts[0] for path in kept} - set(KINDS))
    if unknown:
        raise VaultError(f"{vault.folder} has shares in a folder {unknown[0]!r}, which this version does not know: was a later one used?")
    return [label for kind in KINDS for label in vault.labels(kind)]


def _checked(vault: Vault, label: Label) -> Checked | None:
    """Check one version; None: it was removed meanwhile."""
    path = vault.path(label)
    try:
        vault.read(label)
        return Checked(label, path.stat().st_size, _counted(vault, label) if label.kind == MODEL else None)
    except (FileNotFoundError, VaultError) as error:
        if label not in vault.labels(label.kind, label.name):
            return None
        return Checked(label, 0, damage=str(error))


def _counted(vault: Vault, label: Label) -> Counted:
    """Read what was counted in a copy: the file itself may be in use."""
    kept = KeptModels(vault)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / kept.counts_path(label).name
        UseCounts.copy(kept.counts_path(label), copy)
        counts, counted = kept.counts(label, copy)
        counts.close()
    return counted


def _copy(source: Vault, target: Vault, label: Label, *, forgets: bool = False) -> None:
    """Copy a version: of a model first what was counted, so that it is never there without; `forgets`: and not what was allowed."""
    target.path(label).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if label.kind == MODEL:
        kept = KeptModels(target)
        UseCounts.copy(KeptModels(source).counts_path(label), kept.counts_path(label))
        counts, counted = kept.counts(label)
        try:
            if forgets:
                counts.write(Counted(counted.requests, counted.examples))
        finally:
            counts.close()
    with open(source.path(label), "rb") as old, replacing(target.path(label)) as new:
        shutil.copyfileobj(old, new)


def _removed(copy: Vault, label: Label) -> None:
    copy.path(label).unlink(missing_ok=True)
    if label.kind == MODEL:
        UseCounts.remove(KeptModels(copy).counts_path(label))


def _listed(backup: Path, vault: Vault) -> _BackupList:
    """Return the list of a backup, of which all files are there and as they were, and no other."""
    path = backup / LIST
    try:
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=_Format).format
        if version > FORMAT:
            raise VaultError(f"{path} has format {version}, of a later version of confide; this one reads {FORMAT}: upgrade confide first")
        listed = msgspec.json.decode(text, type=_BackupList)
    except OSError as error:
        raise VaultError(f"{backup} is no backup, or was not finished: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise VaultError(f"{path} is damaged") from None
    if not hmac.compare_digest(listed.mac, listed.sealed(vault).mac):
        raise VaultError(f"{path} was altered, or is another party's: this key did not make it")
    there = {one.relative_to(backup).as_posix(): one for one in _files(backup)}
    for name in sorted(listed.files.keys() | there.keys()):
        if name not in there:
            raise VaultError(f"{backup / name} is missing: this backup is not complete")
        if listed.files.get(name) != _digest(there[name]):
            raise VaultError(f"{there[name]} is not what was backed up")
    return listed


def _files(folder: Path) -> list[Path]:
    return [path for kind in KINDS for path in sorted((folder / kind).glob("*/*")) if path.suffix in SUFFIXES]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Make a folder that gets its name when the block ends well, and of which nothing is left if not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))  # for its user alone
    try:
        yield new
        os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    synchronize(folder.parent)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VaultError(f"{what}: {error}") from None
