"""A dataset: an array that its owner has shared, as workers know it and as whoever may train on it has it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from protocols.errors import InputError, TooLarge

Content = Literal["numbers", "labels"]

DATASET_LIMIT = 1 << 31
"""The most bytes of an array in the ring, 8 for each value."""


class Dataset(msgspec.Struct, frozen=True):
    """An array that is shared, as workers know it: all of it is public.

    Attributes:
        name: what errors call it.
        shape: examples, columns.
        content: what it holds.
        handle: what the workers call it.
        records: a digest of the ids of its rows in their order, empty if its owner gave none.
        binary: whether all of its numbers are 0 or 1.
        signs: whether all of its numbers are -1 or 1.
        summing: whether the numbers of each of its rows sum to 1, as those of one-hot rows do.
        example: the shape in which its owner had an example, flattened here; empty if nobody has said so.
    """

    name: str
    shape: tuple[int, int]
    content: Content
    handle: bytes
    records: bytes = b""
    binary: bool = False
    summing: bool = False
    example: tuple[int, ...] = ()
    signs: bool = False

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.shape}, {self.content})"

    def check(self) -> None:
        """Refuse a shape that is none or too large, before anything of it is allocated.

        Raises:
            TooLarge: it is more than `DATASET_LIMIT`.
            InputError: it is negative.
        """
        if min(self.shape) < 0:
            raise InputError(f"an array of shape {self.shape} was announced for {self.name!r}; there is none of that shape")
        size = 8 * self.shape[0] * self.shape[1]
        if size > DATASET_LIMIT:
            raise TooLarge(f"{self.name!r} has {size >> 20} MiB in the ring, {DATASET_LIMIT >> 20} MiB are allowed: store it in parts")


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether examples of two shapes are the same when they are flat: shapes are equal but for axes of length 1, or one is flat."""
    first, second = (tuple(length for length in shape if length != 1) for shape in (one, other))
    return first == second or min(len(first), len(second)) < 2


@dataclass(frozen=True)
class SharedDataset:
    """An array that is shared, as whoever may train on it has it. Made by `Cluster.store` and `Cluster.load`.

    Attributes:
        dataset: what the workers know.
        secret: from which the rights to train on it follow, another one for each worker.
    """

    dataset: Dataset
    secret: bytes = field(repr=False)

    def __repr__(self) -> str:
        return repr(self.dataset)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.dataset.name

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, columns."""
        return self.dataset.shape

    @property
    def content(self) -> Content:
        """What it holds."""
        return self.dataset.content


def records(ids: Sequence[object]) -> bytes:
    """Return a digest of record ids in their order: rows of two owners belong together if it is the same.

    It is public. It hides no list of ids that somebody can guess as a whole, and it is no way to find out which records two owners have
    in common.
    """
    told = hashlib.sha256(b"confide records")
    for one in ids:
        word = str(one).encode()
        told.update(len(word).to_bytes(8, "big") + word)
    return told.digest()


def check_records(first: Dataset, other: Dataset) -> None:
    """Refuse arrays whose rows are of other records, or in another order.

    Raises:
        InputError: their digests of record ids differ, or only one of them has any.
    """
    if first.records == other.records:
        return
    if first.records and other.records:
        raise InputError(
            f"the rows of {first.name!r} and {other.name!r} have other record ids, or another order: sort both by the same ids, and"
            " share them again"
        )
    without = other if first.records else first
    raise InputError(
        f"of {first.name!r} and {other.name!r} only one was shared with record ids: share {without.name!r} with its ids, too, so that"
        " it can be checked that the rows belong together, or both without"
    )
