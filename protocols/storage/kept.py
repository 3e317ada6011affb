"""What is kept of data and of trainings when their owner is away: the public half of each file, rights, and how arrays are put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, NotGranted
from protocols.mpc.parties.exchange import Ring
from protocols.training.terms import Column, alike, check_records, widened

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


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What those who may train on kept data may do with them. Each worker that takes part holds them to it.

    It bounds what a step, and what is opened, may mix; it makes no training harmless: who chooses the first weights reads out of the
    last ones, or out of metrics, what `min_batch` examples have in common; and who brings the targets or the features itself reads single
    records of the others all the same. Open weights and metrics (`reveal_to`) to those only who may see records.

    Attributes:
        min_batch: the fewest examples of these data in a step that has any of them, the last one of an epoch included; at least 1.
        reveal_to: common names in the certificates of those who get metrics, and weights that were trained on the data; None: whoever
            trains on them.
    """

    min_batch: int = 1
    reveal_to: tuple[str, ...] | None = None

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: the smallest batch is none, or there is no name in `reveal_to`, or an empty one.
        """
        if isinstance(self.min_batch, bool) or not isinstance(self.min_batch, int) or self.min_batch < 1:
            raise InputError(f"Use(min_batch={self.min_batch!r}): a whole number of at least 1 is needed")
        names = self.reveal_to
        if names is not None and not (isinstance(names, tuple) and names and all(isinstance(name, str) and name for name in names)):
            raise InputError("Use(reveal_to=) is a tuple of names of certificates, at least one and none empty; None is whoever trains")

    def __and__(self, other: Use) -> Use:
        """Return what both allow."""
        lists = [names for names in (self.reveal_to, other.reveal_to) if names is not None]
        both = tuple(name for name in lists[0] if all(name in names for names in lists)) if lists else None
        return Use(min_batch=max(self.min_batch, other.min_batch), reveal_to=both)

    def check_reveal(self, name: str) -> None:
        """Refuse to open what was trained on the data to who has a certificate of that name.

        Raises:
            NotGranted: the owner has not named it.
        """
        if self.reveal_to is not None and name not in self.reveal_to:
            allowed = ", ".join(self.reveal_to) or "nobody"
            raise NotGranted(
                f"weights and metrics of this training are opened to {allowed} only, as the owners of the data have said, and the"
                f" certificate shown is {name or 'none'}"
            )


class Stretch(msgspec.Struct, frozen=True):
    """Examples of one owner in an array that was put together.

    Attributes:
        examples: how many, after those of the stretch before.
        use: what their owner allows.
    """

    examples: int
    use: Use


def check_steps(stretches: Sequence[Stretch], steps: Sequence[npt.NDArray[np.int64]]) -> None:
    """Refuse steps with fewer examples of an owner than it allows, and yet some.

    Args:
        stretches: of the array, in its order.
        steps: the rows of each step.

    Raises:
        NotGranted: there is such a step.
    """
    if all(stretch.use.min_batch == 1 for stretch in stretches):
        return
    ends = np.cumsum([stretch.examples for stretch in stretches])
    for rows in steps:
        counts = np.bincount(np.searchsorted(ends, rows, side="right"), minlength=len(ends))
        for count, stretch in zip(counts, stretches, strict=True):
            if 0 < count < stretch.use.min_batch:
                raise NotGranted(
                    f"a step has {count} examples of an owner who allows steps with at least {stretch.use.min_batch}: choose a larger"
                    " batch_size, one that leaves no smaller remainder, and with several owners shuffle=False or still larger steps"
                )


class About(msgspec.Struct, frozen=True):
    """The public half of a file of shares.

    Attributes:
        role: whose share it is: a server's, or the masks of the crypto provider.
        use: digest of the right to train on it, at this worker.
        own: digest of the right to remove it, at this worker.
        allowed: common names in the certificates of those who may train on it without showing a right, and what each may do.
        granted: what those may do who show the right; of a training, what may be done with its weights.
        column: what array it is; None: weights. Its handle is empty.
        progress: of a training whose weights they are.
        check: what the parts of one version have in common, and those of different ones do not; empty for data as their owner brought them.
        origin: serial number of the version from which this one was made; 0: from none.
    """

    role: Role
    use: bytes
    own: bytes
    allowed: Mapping[str, Use] = {}
    granted: Use = Use()
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
    name, binary = "+".join(column.name for column in columns), all(column.binary for column in columns)
    if axis:
        shape = first.shape[0], sum(column.shape[1] for column in columns)
        return Column(name, shape, first.content, handle, first.records, binary)
    summing = all(column.summing for column in columns)
    shape = sum(column.shape[0] for column in columns), max(column.shape[1] for column in columns)
    known = [column.records for column in columns]
    return Column(name, shape, first.content, handle, _stacked(known) if all(known) else b"", binary, summing, first.example)


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
        if not alike(first.example, other.example):
            raise InputError(
                f"{both} do not fit below each other: their examples had the shapes {first.example} and {other.example}; give them their"
                " axes in one order before they are shared"
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
