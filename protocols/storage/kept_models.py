"""Models that stay when their owner has gone: what one worker keeps of each, beside what it has counted.

A server keeps W_i, its share of the weights: with those of the other server they are W, and alone they are uniform. The third party keeps
the program, which is public, and no mask: whenever the workers come together again all masks are new, see
`protocols/workers/dealt_models.py`.

This file knows nothing of programs, terms, or of an event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from protocols.errors import VaultError
from protocols.mpc.numbers.ring import Ring
from protocols.storage.counts import Counted, UseCounts
from protocols.storage.vault import Label, Vault

MODEL = "model"
"""The kind of these files in a vault. The tag of a label is the identifier of the model, the same at all three workers."""


class KeptModel(msgspec.Struct, frozen=True):
    """The public half of a file.

    Attributes:
        party: whose part it is: 0 or 1 of a server, 2 of who deals.
        equals: whether the three workers are equals.
        digest: of the owner's right at this worker.
        holder: the common name in the owner's certificate.
        program: fingerprint of the program.
        promise: what is promised where answers are noisy, in words of whoever serves it; empty: nothing.
        members: urls of the three workers when it was left here: for workers that learn them from a process, on loopback.
        length: bytes of the program, at who deals.
    """

    party: int
    equals: bool
    digest: bytes
    holder: str
    program: bytes
    promise: bytes
    members: tuple[str, str, str]
    length: int = 0


@dataclass(frozen=True)
class FoundModel:
    """What a worker found of a model when it was started."""

    label: Label
    about: KeptModel
    counts: UseCounts
    counted: Counted


class KeptModels:
    """The models in the folder of one worker.

    Args:
        vault: of the worker.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def keep(self, label: Label, about: KeptModel, arrays: Mapping[str, Ring]) -> UseCounts:
        """Write a model, whole or not at all, and begin to count. Slow for a large one.

        Raises:
            VaultError: it cannot be written, or one of that name is here.
        """
        if self._vault.labels(MODEL, label.name):
            raise VaultError(f"a model named {label.name!r} is kept here already")
        path, counts = self._vault.beside(label, ".counts"), None
        try:
            counts = UseCounts.make(path, self._key(label))
            self._vault.write(label, msgspec.msgpack.encode(about), arrays)
        except BaseException:
            if counts is not None:
                counts.close()
                UseCounts.remove(path)
            raise
        return counts

    def found(self, parties: frozenset[int]) -> tuple[list[FoundModel], dict[str, str]]:
        """Return the models of which a part of these is here, and by name those that cannot be used, and why."""
        models, damaged = [], {}
        for label in self._vault.labels(MODEL):
            try:
                about = self.about(label)
                if about.party in parties:
                    models.append(FoundModel(label, about, *self.counts(label)))
            except VaultError as error:
                damaged[label.name] = str(error)
        return models, damaged

    def about(self, label: Label) -> KeptModel:
        """Return the public half of a model.

        Raises:
            VaultError: its file is damaged.
        """
        return msgspec.msgpack.decode(self._vault.about(label), type=KeptModel)

    def of(self, name: str) -> KeptModel:
        """Return the public half of what is kept under a name, if that can be read.

        Raises:
            VaultError: it cannot, or there is nothing.
        """
        labels = self._vault.labels(MODEL, name)
        if not labels:
            raise VaultError(f"nothing is kept of a model named {name!r}")
        return self.about(labels[-1])

    def abouts(self) -> list[KeptModel]:
        """Return the public halves of all that are not damaged."""
        found = []
        for label in self._vault.labels(MODEL):
            try:
                found.append(self.about(label))
            except VaultError:
                continue
        return found

    def counts(self, label: Label, path: Path | None = None) -> tuple[UseCounts, Counted]:
        """Return the file in which the use of a model is counted, open, and what is in it; or a copy of that at `path`.

        Raises:
            VaultError: it is missing, damaged, or altered.
        """
        return UseCounts.open(path or self.counts_path(label), self._key(label))

    def counts_path(self, label: Label) -> Path:
        """Return where that file lies."""
        return self._vault.beside(label, ".counts")

    def arrays(self, label: Label) -> dict[str, Ring]:
        """Return what is secret of a model. Slow for a large one.

        Raises:
            VaultError: its file is damaged; nothing of it is returned.
        """
        return self._vault.read(label)[1]

    def remove(self, name: str) -> None:
        """Remove a model, and what was counted of it."""
        paths: list[Path] = [self.counts_path(label) for label in self._vault.labels(MODEL, name)]
        for path in paths:
            UseCounts.remove(path)
        self._vault.remove(MODEL, name)

    def _key(self, label: Label) -> bytes:
        return self._vault.key("counts", label.tag)


def words(content: bytes) -> Ring:
    """Return bytes as words for a vault, zeros behind them."""
    return np.frombuffer(content + bytes(-len(content) % 8), "<u8").astype(np.uint64)


def content(words: Ring, length: int) -> bytes:
    """Return the bytes that `words` was given."""
    return words.astype("<u8").tobytes()[:length]
