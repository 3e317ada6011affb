"""What is kept of data and of trainings when their owner is away: the public half of each file, rights, and how arrays are put together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from protocols.errors import InputError
from protocols.exchange import Ring
from protocols.training.terms import Column, check_records, widened

Role = Literal["server", "crypto provider"]

DATA, RUN = "data", "run"
"""The kinds of what is kept."""


class Progress(msgspec.Struct, frozen=True, order=True):
    """How far a training is: so many steps of the epoch of this number, from 0, are in the weights.

    Attributes:
        before: steps that the model had made before this training: learning rates go on from there.
    """

    epoch: int
    step: int
    before: int = 0

    def made(self, steps: int) -> int:
        """All steps of the model, with so many in an epoch."""
        return self.before + self.epoch * steps + self.step


class About(msgspec.Struct, frozen=True):
    """The public half of a file of shares.

    Attributes:
        role: whose share it is: a server's, or the masks of the crypto provider.
        use: digest of the right to train on it, at this worker.
        own: digest of the right to remove it, at this worker.
        allowed: common names in the certificates of those who may train on it without showing a right.
        column: what array it is; None: weights. Its handle is empty.
        progress: of a training whose weights they are.
        check: what the parts of one version have in common, and those of different ones do not; empty for data as their owner brought them.
        origin: serial number of the version from which this one was made; 0: from none.
    """

    role: Role
    use: bytes
    own: bytes
    allowed: tuple[str, ...] = ()
    column: Column | None = None
    progress: Progress | None = None
    check: bytes = b""
    origin: int = 0


def run_name(secret: bytes) -> str:
    """Return the name under which servers keep a training, from the secret of its owner."""
    return hashlib.sha256(b"confide training" + secret).hexdigest()[:32]


def records(ids: Sequence[object]) -> bytes:
    """A digest of record ids in their order: rows of two owners belong together if it is the same.

    It is public. It hides no list of ids that somebody can guess as a whole, and it is no way to find out which records two owners have
    in common.
    """
    told = hashlib.sha256(b"confide records")
    for one in ids:
        word = str(one).encode()
        told.update(len(word).to_bytes(8, "big") + word)
    return told.digest()


def joined(columns: Sequence[Column], axis: int, handle: bytes) -> Column:
    """Arrays of several owners as one: below each other (axis 0: each has other examples), or beside each other (axis 1: each has other
    features of the same examples).

    Raises:
        InputError: they do not fit each other.
    """
    if not columns:
        raise InputError("there is no name of data: at least one is needed")
    if axis not in (0, 1):
        raise InputError(f"axis={axis}: 0 puts the examples of several owners below each other, 1 their features beside each other")
    first, *others = columns
    for other in others:
        _check_pair(first, other, axis)
    name = "+".join(column.name for column in columns)
    if axis:
        shape = first.shape[0], sum(column.shape[1] for column in columns)
        return Column(name, shape, first.content, handle, first.records)
    shape = sum(column.shape[0] for column in columns), max(column.shape[1] for column in columns)
    known = [column.records for column in columns]
    return Column(name, shape, first.content, handle, _stacked(known) if all(known) else b"")


def _check_pair(first: Column, other: Column, axis: int) -> None:
    both = f"{first.name!r} and {other.name!r}"
    if first.content != other.content:
        raise InputError(f"{both} do not fit: {first.name!r} holds {first.content}, {other.name!r} {other.content}; load them one by one")
    if axis == 0:
        if first.content == "numbers" and first.shape[1] != other.shape[1]:
            raise InputError(
                f"{both} do not fit below each other: {first.shape[1]} and {other.shape[1]} features an example; owners of different"
                " examples need the same features in the same order (for different features of the same examples give axis=1)"
            )
        return
    if first.content == "labels":
        raise InputError(f"{both} are labels: only features go beside each other (axis=1); load the labels of one owner")
    if first.shape[0] != other.shape[0]:
        raise InputError(
            f"{both} do not fit beside each other: {first.shape[0]} and {other.shape[0]} examples; owners of different features need the"
            " same examples in the same order (for different examples with the same features give axis=0)"
        )
    check_records(first, other)


def _stacked(known: Sequence[bytes]) -> bytes:
    return known[0] if len(known) == 1 else hashlib.sha256(b"confide stacked records" + b"".join(known)).digest()


def put_together(arrays: Sequence[Ring], axis: int) -> Ring:
    """One party's part of `joined`. Classes that only some owners have are public zeros at the others."""
    if axis == 0:
        width = max(array.shape[1] for array in arrays)
        arrays = [widened(array, width) for array in arrays]
    return np.concatenate(arrays, axis)
