"""What everybody in one secure aggregation agrees on: who takes part, on what, the thresholds, and the words that are exchanged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import AggregationError
from protocols.quantisation import word_type

COMPLETE = 32
"""Up to so many owners everybody masks with everybody."""
SMALLEST_COHORT = 3
"""A sum over fewer owners would show one owner's vector to another."""


@dataclass(frozen=True)
class AggregationTerms:
    """The public parameters of a session.

    Attributes:
        label: what is aggregated, e.g. the run and round; no two sessions may have the same.
        roster: the Ed25519 public keys (32 bytes) of the owners who may take part, in order; an owner's number is its position.
        length: elements of a vector.
        threshold: how many neighbours can reconstruct a secret: more than two thirds of them, so that a server cannot get both secrets of
            one owner by telling different neighbours different things.
        cohort: the fewest owners whose sum may be opened.
        degree: how many owners each owner masks with; even, or one less than the number of owners.
        word: bits of an element, 32 or 64: sums are modulo 2^word.
        task: a digest of what each owner was asked to do, which owners compare with what they were asked; empty if there is none.
        commitments: of each owner to its nonce, see `graph`; none are needed if everybody masks with everybody.
    """

    label: str
    roster: tuple[bytes, ...]
    length: int
    threshold: int
    cohort: int
    degree: int
    word: int = 64
    task: bytes = b""
    commitments: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.roster)
        if len(set(self.roster)) != n:
            raise AggregationError("an owner is on the roster twice")
        if not SMALLEST_COHORT <= self.cohort <= n:
            raise AggregationError(f"a cohort of {self.cohort} of {n} owners; from {SMALLEST_COHORT} to all of them is needed")
        if not (2 <= self.degree < n and (self.degree % 2 == 0 or self.degree == n - 1)):
            raise AggregationError(f"degree {self.degree} among {n} owners; an even number below {n}, or {n - 1}, is needed")
        if not 2 * self.degree < 3 * self.threshold <= 3 * self.degree:
            raise AggregationError(
                f"threshold {self.threshold} of {self.degree}; more than two thirds are needed, so that nobody's secrets can both be had"
            )
        if self.word not in (32, 64):
            raise AggregationError(f"elements of {self.word} bits; 32 or 64 are needed")
        if self.length < 1:
            raise AggregationError(f"vectors of {self.length} elements; at least one is needed")
        if not self.complete and len(self.commitments) != n:
            raise AggregationError(
                f"{len(self.commitments)} commitments to nonces of {n} owners: each needs one where not all mask with all"
            )

    @cached_property
    def identifier(self) -> bytes:
        """A hash of everything above: bound into every key, signature and ciphertext."""
        return hashlib.sha256(b"confide secure aggregation 2" + msgspec.msgpack.encode(self._fields())).digest()

    def _fields(self) -> list[object]:
        sizes = [self.length, self.threshold, self.cohort, self.degree, self.word]
        return [self.label, list(self.roster), *sizes, self.task, list(self.commitments)]

    @property
    def complete(self) -> bool:
        """Whether everybody masks with everybody."""
        return self.degree == len(self.roster) - 1

    def neighbours(self, u: int) -> list[int]:
        """Return whom owner u shares with and masks with, itself not included, in increasing order, where everybody masks with everybody.

        Raises:
            AggregationError: not everybody does; then it follows from nonces, see `graph.Graph`.
        """
        if not self.complete:
            raise AggregationError("who masks with whom follows from the nonces of the owners: ask the graph of the session")
        return [v for v in range(len(self.roster)) if v != u]

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Of the elements of a vector."""
        return word_type(self.word)


def usual_degree(owners: int) -> int:
    """Return how many owners each masks with: all up to 32 owners, else 4 log2(n)."""
    return owners - 1 if owners <= COMPLETE else 2 * math.ceil(2 * math.log2(owners))


def usual_cohort(owners: int) -> int:
    """Return two thirds of so many owners, at least 3."""
    return max(SMALLEST_COHORT, -(-2 * owners // 3))


def terms(
    label: str,
    roster: Sequence[bytes],
    length: int,
    *,
    degree: int | None = None,
    cohort: int | None = None,
    word: int = 64,
    task: bytes = b"",
    commitments: Sequence[bytes] = (),
) -> AggregationTerms:
    """Return usual parameters: everybody with everybody up to 32 owners, else 4 log2(n) neighbours; two thirds of all as the cohort."""
    n = len(roster)
    degree = usual_degree(n) if degree is None else degree
    smallest = usual_cohort(n) if cohort is None else cohort
    committed = () if degree == n - 1 else tuple(commitments)
    return AggregationTerms(label, tuple(roster), length, 2 * degree // 3 + 1, smallest, degree, word, task, committed)


class Advertisement(msgspec.Struct, frozen=True):
    """Round 0, owner to all: what is signed with the session and the owner's number.

    Two X25519 public keys, for shares and for masks; a digest of the seed of its own mask; its nonce, if not all mask with all.
    """

    owner: int
    share_key: bytes
    mask_key: bytes
    own_mask: bytes
    nonce: bytes
    signature: bytes


class Shares(msgspec.Struct, frozen=True):
    """Round 1, owner to neighbours: by neighbour, the digests of the shares of both secrets, and AES-256-GCM of these shares."""

    owner: int
    sealed: dict[int, bytes]


class MaskedVector(msgspec.Struct, frozen=True):
    """Round 2, owner to server: the masked vector."""

    owner: int
    vector: np.ndarray[Any, np.dtype[Any]]

    def __repr__(self) -> str:
        return f"MaskedVector(owner={self.owner})"


class Confirmation(msgspec.Struct, frozen=True):
    """Round 3, owner to all: a signature on the set of owners whose vectors the server says it has."""

    owner: int
    signature: bytes


class Opened(msgspec.Struct, frozen=True):
    """Round 4, owner to server: for each neighbour a share of its own mask (it survived) or of its mask key (it did not); never both.

    `unreadable` are the neighbours whose shares did not come as they said.
    """

    owner: int
    own_masks: dict[int, npt.NDArray[np.uint64]]
    mask_keys: dict[int, npt.NDArray[np.uint64]]
    unreadable: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"Opened(owner={self.owner})"
