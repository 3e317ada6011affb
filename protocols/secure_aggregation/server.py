"""The server's side of one secure aggregation: relays, adds up, and takes the masks of those who dropped out away.

It learns the sum and who took part. Owners that send nothing, twice, or nonsense are left out, by name, as long as enough remain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import AggregationError, SharingError
from protocols.quantisation import Vector
from protocols.secure_aggregation import shamir
from protocols.secure_aggregation.masks import add_masks, agreed
from protocols.secure_aggregation.owner import checked
from protocols.secure_aggregation.session import Advertisement, Confirmation, Masked, Opened, Shares, Terms
from protocols.secure_aggregation.shamir import Field

T = TypeVar("T")


class Server:
    """One session at the server. After each round it says what to relay.

    Attributes:
        left_out: owner -> why, for those whose message was refused.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.left_out: dict[int, str] = {}
        self._advertised: dict[int, Advertisement] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._masked: set[int] = set()
        self._sum: Vector = np.zeros(terms.length, terms.dtype)

    def advertisements(self, received: Sequence[Advertisement]) -> dict[int, list[Advertisement]]:
        """Round 0 -> for each owner that advertised, what its neighbours have."""
        everybody = range(len(self.terms.roster))
        for one in received:
            try:
                self._advertised |= checked(self.terms, [one], among=everybody)
            except AggregationError as error:
                self.left_out[one.owner] = str(error)
        self._enough(len(self._advertised), "advertised their keys")
        self._enough_neighbours(self._advertised, "advertised their keys")
        return {u: self._from_neighbours(u, self._advertised) for u in self._advertised}

    def _from_neighbours(self, u: int, sent: Mapping[int, T]) -> list[T]:
        return [sent[v] for v in self.terms.neighbours(u) if v in sent]

    def shares(self, received: Sequence[Shares]) -> dict[int, dict[int, bytes]]:
        """Round 1 -> for each owner that shared, what its neighbours have sealed for it."""
        self._sealed = {one.owner: one.sealed for one in received if one.owner in self._advertised}
        self._enough(len(self._sealed), "shared their secrets")
        self._enough_neighbours(self._sealed, "shared their secrets")
        return {u: {v: box[u] for v, box in self._sealed.items() if u in box and v in self.terms.neighbours(u)} for u in self._sealed}

    def add(self, masked: Masked) -> None:
        """Round 2, for each vector as it arrives: adds it up and forgets it.

        Raises:
            AggregationError: it comes from a stranger, a second time, or has another shape.
        """
        if masked.owner not in self._sealed or masked.owner in self._masked:
            raise AggregationError(f"a vector of owner {masked.owner} was not expected: it has not shared, or has sent one before")
        if masked.vector.shape != self._sum.shape or masked.vector.dtype != self._sum.dtype:
            expected = f"{self._sum.shape} {self._sum.dtype}"
            raise AggregationError(f"owner {masked.owner} sent {masked.vector.shape} {masked.vector.dtype}, {expected} is needed")
        self._masked.add(masked.owner)
        np.add(self._sum, masked.vector, out=self._sum)

    def survivors(self) -> list[int]:
        """After round 2 -> the set that every owner in it is asked to confirm."""
        self._enough(len(self._masked), "sent their vectors")
        return sorted(self._masked)

    def confirmations(self, received: Sequence[Confirmation]) -> dict[int, list[Confirmation]]:
        """Round 3 -> for each owner that confirmed, what its neighbours have signed."""
        found = {one.owner: one for one in received if one.owner in self._masked}
        self._enough(len(found), "confirmed the sum")
        return {u: self._from_neighbours(u, found) for u in found}

    def total(self, received: Sequence[Opened]) -> Vector:
        """Round 4 -> the sum of the survivors' vectors.

        Raises:
            AggregationError: too few shares of a secret.
        """
        opened = [one for one in {one.owner: one for one in received}.values() if one.owner in self._masked]
        signs = {}
        for u in sorted(self._masked):
            signs[self._secret(u, {one.owner: one.own_masks[u] for one in opened if u in one.own_masks})] = -1
        for v in sorted(set(self._sealed) - self._masked):
            signs |= self._left(v, {one.owner: one.mask_keys[v] for one in opened if v in one.mask_keys})
        add_masks(self._sum, signs)
        return self._sum

    def _left(self, dropped: int, shares: dict[int, Field]) -> dict[bytes, int]:
        """The masks that an owner that dropped out after sharing has left in the vectors of others, and how to take them out."""
        partners = [u for u in self.terms.neighbours(dropped) if u in self._masked and u in self._sealed[dropped]]
        if not partners:
            return {}
        key = X25519PrivateKey.from_private_bytes(self._secret(dropped, shares))
        if key.public_key().public_bytes_raw() != self._advertised[dropped].mask_key:
            raise AggregationError(f"the shares of owner {dropped} give another key than it has advertised")
        seeds = {u: agreed(key, self._advertised[u].mask_key, self.terms.identifier, "mask") for u in partners}
        return {seed: -1 if dropped > u else 1 for u, seed in seeds.items()}

    def _secret(self, owner: int, shares: dict[int, Field]) -> bytes:
        neighbours = self.terms.neighbours(owner)
        numbered = {neighbours.index(u): share for u, share in shares.items() if u in neighbours}
        try:
            return shamir.combine(numbered, threshold=self.terms.threshold)
        except SharingError as error:
            raise AggregationError(f"a secret of owner {owner} cannot be reconstructed: {error}") from None

    def _enough_neighbours(self, present: Collection[int], what: str) -> None:
        fewest = min(sum(v in present for v in self.terms.neighbours(u)) for u in present)
        if fewest < self.terms.threshold:
            raise AggregationError(
                f"an owner has {fewest} neighbours that have {what}, {self.terms.threshold} are needed: "
                "the round is given up, nothing is opened"
            )

    def _enough(self, count: int, what: str) -> None:
        if count < self.terms.cohort:
            raise AggregationError(f"{count} owners have {what}, {self.terms.cohort} are needed: the round is given up, nothing is opened")
