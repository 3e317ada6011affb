"""The folder in which one party keeps shares at rest: files that are encrypted under its own key, written whole or not at all.

A file is

    magic | party | length of header | header | salt | seal of header | ciphertext | tag

with AES-128-GCM (NIST SP 800-38D) under keys that HKDF derives from the party's key and the salt of the file, so that no key and nonce
serve twice. The header is not secret: what the file holds, for whom, which version. It is authenticated by itself, so that it can be
trusted without reading the rest, and again with the content.

This file knows nothing of what the numbers are, of parties, or of an event loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.errors import VaultError
from protocols.mpc.numbers.ring import Ring
from protocols.mpc.parties.keystream import derive
from protocols.storage.replacement import replace, replacing

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What names may look like: they are names of folders."""
KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
TAG_BYTES: Final = 16
MAGIC: Final = b"cfshare1"
"""What each file begins with; the last byte is the version of the format."""
HEADER_LIMIT: Final = 1 << 20
CHUNK: Final = 1 << 20
_START: Final = len(MAGIC) + 16 + 4
_FILE: Final = re.compile(r"(\d{8,})-([0-9a-f]{32})\.share")


class Label(msgspec.Struct, frozen=True):
    """Which file: a version of something that has a name. The parts of one version at all parties have the same label.

    Attributes:
        kind: a group of names.
        name: see `NAME`.
        serial: counts versions, from 1.
        tag: 16 random bytes, which tell apart two versions of one serial that were begun at different times.
    """

    kind: str
    name: str
    serial: int
    tag: bytes

    def next(self) -> Label:
        """Return the label of a version after this one."""
        return Label(self.kind, self.name, self.serial + 1, secrets.token_bytes(16))


class _Header(msgspec.Struct, frozen=True):
    label: Label
    about: bytes
    shapes: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return 8 * sum(math.prod(shape) for shape in self.shapes.values())


class Vault:
    """The files of one party. One process at a time, and whoever only reads. Made by `open` or `to_read`.

    Args:
        folder: exists.
        key: 32 bytes, secret.
        exclusive: no other process may use it.
    """

    def __init__(self, folder: Path, key: bytes, *, exclusive: bool = True) -> None:
        self._folder, self._key = folder, key
        self._party = derive(key, "party")
        self._begun: set[Path] = set()
        self._beginning = threading.Lock()
        self._lock = locked(folder) if exclusive else None

    @staticmethod
    def open(folder: str | os.PathLike[str], key_file: str | os.PathLike[str] | None = None) -> Vault:
        """Open the folder of a party, and make it, and its key, if they are missing.

        Args:
            folder: is made readable for its user alone.
            key_file: 64 hexadecimal digits, as of `openssl rand -hex 32`. None: `key` in the folder, which is made. Whoever copies the
                folder then has the key, too: keep it elsewhere where backups go elsewhere.

        Raises:
            VaultError: another process uses the folder, or there is no usable key.
        """
        path = Path(folder)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if key_file is not None:
                return Vault(path, _read_key(Path(key_file)))
            if not (path / "key").exists() and not any(path.glob("*/*/*.share")):
                replace(path / "key", secrets.token_bytes(KEY_BYTES).hex().encode())
            return Vault(path, _read_key(path / "key"))
        except OSError as error:
            raise VaultError(f"{path} cannot be used to keep shares: {error}") from None

    @staticmethod
    def to_read(folder: Path, key_file: Path) -> Vault:
        """Read the folder of a party, beside the process that uses it: files may vanish meanwhile. Nothing is made.

        Raises:
            VaultError: there is no folder, or no usable key.
        """
        if not folder.is_dir():
            raise VaultError(f"{folder} is no folder")
        return Vault(folder, _read_key(key_file), exclusive=False)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    def close(self) -> None:
        """Let other processes use the folder."""
        if self._lock is not None:
            os.close(self._lock)

    def labels(self, kind: str, name: str | None = None) -> list[Label]:
        """Return what is here, by name and serial. A file that was not finished is not."""
        if not _valid(kind):
            return []
        folder = self._folder / kind
        names = ([name] if _valid(name) else []) if name is not None else sorted(os.listdir(folder) if folder.is_dir() else [])
        found = []
        for one in names:
            files = os.listdir(folder / one) if (folder / one).is_dir() else []
            matches = sorted(filter(None, map(_FILE.fullmatch, files)), key=lambda match: (int(match[1]), match[2]))
            found += [Label(kind, one, int(match[1]), bytes.fromhex(match[2])) for match in matches]
        return found

    def write(self, label: Label, about: bytes, arrays: Mapping[str, Ring]) -> None:
        """Write a version. Whenever the process is killed, it is there and complete, or it is not there.

        Args:
            label: of the version.
            about: public; is authenticated.
            arrays: words, any shapes, by name.

        Raises:
            VaultError: it cannot be written, or is here already: no version is ever replaced.
        """
        header = _Header(label, about, {name: array.shape for name, array in arrays.items()})
        path = self._path(label)
        with self._beginning:
            if path in self._begun or path.exists():
                raise VaultError(f"version {label.serial} of {label.name!r} is here already, or is being written")
            self._begun.add(path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as file:
                _write(file, self._key, self._party, header, arrays)
        except OSError as error:
            raise VaultError(f"{path} cannot be written: {error}") from None
        finally:
            with self._beginning:
                self._begun.discard(path)

    def about(self, label: Label) -> bytes:
        """Return what was said about a version when it was written.

        Raises:
            VaultError: the file is not there, damaged, or another party's.
        """
        with self._opened(label) as file:
            return self._header(file, label)[0].about

    def read(self, label: Label) -> tuple[bytes, dict[str, Ring]]:
        """Return what was said about a version, and its arrays.

        Raises:
            VaultError: the file is not there, damaged, or another party's. Nothing of its content is returned then.
        """
        with self._opened(label) as file:
            header, salt, bound = self._header(file, label)
            cipher = Cipher(algorithms.AES(derive(self._key, "content", salt)), modes.GCM(bytes(12))).decryptor()
            cipher.authenticate_additional_data(bound)
            arrays = {name: np.empty(shape, "<u8") for name, shape in header.shapes.items()}
            for array in arrays.values():
                target = array.reshape(-1).view(np.uint8).data
                for start in range(0, len(target), CHUNK):
                    part = target[start : start + CHUNK]
                    cipher.update_into(file.read(len(part)), part)
            try:
                cipher.finalize_with_tag(file.read(TAG_BYTES))
            except InvalidTag:
                raise VaultError(f"{file.name} is damaged: its content is not what this party has written") from None
        return header.about, {name: array.astype(np.uint64, copy=False) for name, array in arrays.items()}

    def remove(self, kind: str, name: str, *, before: int | None = None) -> None:
        """Remove all versions of a name, or those of a serial below `before`."""
        for label in self.labels(kind, name):
            if before is None or label.serial < before:
                self._path(label).unlink(missing_ok=True)
        if before is None and _valid(kind) and _valid(name):
            with contextlib.suppress(OSError):
                for left in (self._folder / kind / name).glob("*.new"):
                    left.unlink()
                (self._folder / kind / name).rmdir()

    def beside(self, label: Label, end: str) -> Path:
        """Return where something may lie that belongs to a version, in its folder, which is made.

        Raises:
            VaultError: the label is none, or the folder cannot be made.
        """
        path = self._path(label)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise VaultError(f"{path.parent} cannot be made: {error}") from None
        return path.with_suffix(end)

    def path(self, label: Label) -> Path:
        """Return where a version lies, or would.

        Raises:
            VaultError: the label is none.
        """
        return self._path(label)

    def key(self, *purpose: str | bytes | int) -> bytes:
        """Return a key of this party for something else that it keeps, 16 bytes."""
        return derive(self._key, "for", *purpose)

    def _path(self, label: Label) -> Path:
        if not _valid(label.kind) or not _valid(label.name):
            raise VaultError(f"{label.name!r} is no name for shares: 1 to 100 letters, digits, '.', '_' and '-', the first no '.'")
        if not 1 <= label.serial < 1 << 63 or len(label.tag) != TAG_BYTES:
            raise VaultError(f"version {label.serial} of {label.name!r} with {len(label.tag)} bytes for a tag is none")
        return self._folder / label.kind / label.name / f"{label.serial:08}-{label.tag.hex()}.share"

    @contextlib.contextmanager
    def _opened(self, label: Label) -> Iterator[BinaryIO]:
        path = self._path(label)
        try:
            with open(path, "rb") as file:
                yield file
        except OSError as error:
            raise VaultError(f"{path} cannot be read: {error}") from None

    def _header(self, file: BinaryIO, label: Label) -> tuple[_Header, bytes, bytes]:
        """Return the header, the salt, and all of what they are authenticated by; the file is read up to the ciphertext."""
        start = file.read(_START)
        length = int.from_bytes(start[-4:], "big")
        if start[: len(MAGIC) - 1] == MAGIC[:-1] and start[len(MAGIC) - 1 : len(MAGIC)] > MAGIC[-1:]:
            raise VaultError(f"{file.name} was written by a later version of confide, which this one cannot read: upgrade this worker")
        if not start.startswith(MAGIC) or len(start) < _START or length > HEADER_LIMIT:
            raise VaultError(f"{file.name} is damaged: it does not begin as a file of shares does")
        if start[len(MAGIC) : -4] != self._party:
            raise VaultError(f"{file.name} was written by another party, or under another key: this party cannot read it")
        text, salt = file.read(length), file.read(SALT_BYTES)
        bound = start + text + salt
        if not secrets.compare_digest(_header_seal(self._key, salt, bound), file.read(TAG_BYTES)):
            raise VaultError(f"{file.name} is damaged: its header is not what this party has written")
        header = msgspec.msgpack.decode(text, type=_Header)
        if header.label != label:
            raise VaultError(f"{file.name} holds version {header.label.serial} of {header.label.name!r}: it was renamed")
        expected, size = file.tell() + header.size + TAG_BYTES, os.fstat(file.fileno()).st_size
        if size != expected:
            raise VaultError(f"{file.name} has {size:,} bytes, {expected:,} were written: it is damaged")
        return header, salt, bound


def _valid(name: str) -> bool:
    return NAME.fullmatch(name) is not None


def locked(folder: Path) -> int:
    """Hold the folder as long as the descriptor is open; the operating system lets go of it when the process ends, however."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise VaultError(f"{folder} is used by another process: each needs a folder of its own") from None
    return descriptor


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise VaultError(f"the key of the shares cannot be read: {error}") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise VaultError(f"{path} is no key: {2 * KEY_BYTES} hexadecimal digits are needed, as of: openssl rand -hex {KEY_BYTES}")
    return key


def _header_seal(key: bytes, salt: bytes, bound: bytes) -> bytes:
    """Return a GMAC of the header."""
    mac = Cipher(algorithms.AES(derive(key, "header", salt)), modes.GCM(bytes(12))).encryptor()
    mac.authenticate_additional_data(bound)
    mac.finalize()
    return mac.tag


def _write(file: BinaryIO, key: bytes, party: bytes, header: _Header, arrays: Mapping[str, Ring]) -> None:
    text, salt = msgspec.msgpack.encode(header), secrets.token_bytes(SALT_BYTES)
    bound = MAGIC + party + len(text).to_bytes(4, "big") + text + salt
    file.write(bound + _header_seal(key, salt, bound))
    cipher = Cipher(algorithms.AES(derive(key, "content", salt)), modes.GCM(bytes(12))).encryptor()
    cipher.authenticate_additional_data(bound)
    buffer = memoryview(bytearray(CHUNK))
    for array in arrays.values():
        source = np.ascontiguousarray(array, "<u8").reshape(-1).view(np.uint8).data
        for start in range(0, len(source), CHUNK):
            part = source[start : start + CHUNK]
            file.write(buffer[: cipher.update_into(part, buffer)])
    cipher.finalize()
    file.write(cipher.tag)
