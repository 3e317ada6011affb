"""The server's side of one secure aggregation: relays, adds up, and takes the masks of those who dropped out away.

It learns the sum and who took part. Owners that send nothing, twice, or nonsense are left out, by name, as long as enough remain. What an
owner deals to its neighbours it fixes by digests before, and the seed of its own mask too: so whoever alters a share is named, and the sum
is opened with the shares of the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import AggregationError, SharingError
from protocols.quantisation import Vector
from protocols.secure_aggregation import shamir
from protocols.secure_aggregation.graph import Graph
from protocols.secure_aggregation.masks import add_masks, agreed
from protocols.secure_aggregation.owner import BOX_BYTES, DIGEST_BYTES, checked, digest, fixed
from protocols.secure_aggregation.session import Advertisement, AggregationTerms, Confirmation, MaskedVector, Opened, Shares
from protocols.secure_aggregation.shamir import Field

T = TypeVar("T")
OWN_MASK, MASK_KEY = 0, 1
"""Which of the two secrets of an owner."""
SUBSETS = 256
"""How many sets of shares are tried, if those of an owner do not belong together."""


class AggregationServer:
    """One session at the server. After each round it says what to relay.

    Attributes:
        left_out: owner -> why, for those whose message was refused.
        faults: owner -> what it did wrong, although its vector is in the sum.
        nonces: of all owners, to relay to each with the advertisements; none if everybody masks with everybody.
    """

    def __init__(self, terms: AggregationTerms) -> None:
        self.terms = terms
        self.left_out: dict[int, str] = {}
        self.faults: dict[int, str] = {}
        self.nonces: tuple[bytes, ...] = ()
        self._graph: Graph | None = None
        self._advertised: dict[int, Advertisement] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._masked: set[int] = set()
        self._sum: Vector = np.zeros(terms.length, terms.dtype)

    def advertisements(self, received: Sequence[Advertisement]) -> dict[int, list[Advertisement]]:
        """Return (round 0), for each owner that advertised, what its neighbours have.

        Raises:
            AggregationError: too few; or where not all mask with all, not all: then begin another session with those that have.
        """
        everybody = range(len(self.terms.roster))
        for one in received:
            try:
                self._advertised |= checked(self.terms, [one], among=everybody)
            except AggregationError as error:
                self.left_out[one.owner] = str(error)
        self._enough(len(self._advertised), "advertised their keys")
        if not self.terms.complete:
            if len(self._advertised) < len(everybody):
                raise AggregationError(
                    f"{len(self._advertised)} of {len(everybody)} owners advertised: their nonces are needed, all of them"
                )
            self.nonces = tuple(self._advertised[u].nonce for u in everybody)
        self._graph = Graph(self.terms, self.nonces)
        self._enough_neighbours(self._advertised, "advertised their keys")
        return {u: self._from_neighbours(u, self._advertised) for u in self._advertised}

    def _neighbours(self, u: int) -> list[int]:
        if self._graph is None:
            raise AggregationError("nobody has advertised yet: rounds come in order")
        return self._graph.neighbours(u)

    def _from_neighbours(self, u: int, sent: Mapping[int, T]) -> list[T]:
        return [sent[v] for v in self._neighbours(u) if v in sent]

    def shares(self, received: Sequence[Shares]) -> dict[int, dict[int, bytes]]:
        """Return (round 1), for each owner that shared, what its neighbours have sealed for it."""
        for one in received:
            if one.owner not in self._advertised:
                continue
            if set(one.sealed) == {v for v in self._neighbours(one.owner) if v in self._advertised} and all(
                len(box) == BOX_BYTES for box in one.sealed.values()
            ):
                self._sealed[one.owner] = one.sealed
            else:
                self.left_out[one.owner] = "it has not sealed shares for each of its neighbours"
        self._enough(len(self._sealed), "shared their secrets")
        self._enough_neighbours(self._sealed, "shared their secrets")
        return {u: {v: self._sealed[v][u] for v in self._neighbours(u) if v in self._sealed} for u in self._sealed}

    def add(self, masked: MaskedVector) -> None:
        """Add a vector up (round 2) as it arrives, and forget it.

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
        """Return (after round 2) the set that every owner in it is asked to confirm."""
        self._enough(len(self._masked), "sent their vectors")
        return sorted(self._masked)

    def confirmations(self, received: Sequence[Confirmation]) -> dict[int, list[Confirmation]]:
        """Return (round 3), for each owner that confirmed, what its neighbours have signed."""
        found = {one.owner: one for one in received if one.owner in self._masked}
        self._enough(len(found), "confirmed the sum")
        return {u: self._from_neighbours(u, found) for u in found}

    def total(self, received: Sequence[Opened]) -> Vector:
        """Return (round 4) the sum of the survivors' vectors.

        Raises:
            AggregationError: too few shares of a secret, or an owner has dealt shares that give no secret of its own. It is named.
        """
        opened = [one for one in {one.owner: one for one in received}.values() if one.owner in self._masked]
        for one in opened:
            for v in one.unreadable:
                if one.owner in self._sealed.get(v, ()):
                    self._fault({one.owner, v}, f"owner {one.owner} says that it cannot read the shares from owner {v}: one of them lies")
        signs = {}
        for u in sorted(self._masked):
            signs[self._own_mask(u, {one.owner: one.own_masks[u] for one in opened if u in one.own_masks})] = -1
        for v in sorted(set(self._sealed) - self._masked):
            signs |= self._left(v, {one.owner: one.mask_keys[v] for one in opened if v in one.mask_keys})
        add_masks(self._sum, signs)
        return self._sum

    def _own_mask(self, owner: int, shares: dict[int, Field]) -> bytes:
        known = self._advertised[owner].own_mask
        return self._secret(owner, OWN_MASK, shares, lambda secret: fixed(self.terms, owner, secret) == known)

    def _left(self, dropped: int, shares: dict[int, Field]) -> dict[bytes, int]:
        """Return the masks that an owner that dropped out after sharing has left in the vectors of others, and how to take them out."""
        partners = [u for u in self._neighbours(dropped) if u in self._masked and u in self._sealed[dropped]]
        if not partners:
            return {}
        known = self._advertised[dropped].mask_key
        secret = self._secret(dropped, MASK_KEY, shares, lambda secret: _public(secret) == known)
        key = X25519PrivateKey.from_private_bytes(secret)
        seeds = {u: agreed(key, self._advertised[u].mask_key, self.terms.identifier, "mask") for u in partners}
        return {seed: -1 if dropped > u else 1 for u, seed in seeds.items()}

    def _secret(self, owner: int, which: int, shares: dict[int, Field], right: Callable[[bytes], bool]) -> bytes:
        """Return a secret of an owner, from the shares that are as it has dealt them."""
        neighbours, dealt = self._neighbours(owner), {}
        for v, share in shares.items():
            if v not in self._sealed[owner]:
                continue
            told = self._sealed[owner][v][which * DIGEST_BYTES : (which + 1) * DIGEST_BYTES]
            if not isinstance(share, np.ndarray) or digest(share) != told:
                self._fault({v}, f"it has altered its share of a secret of owner {owner}")
            else:
                dealt[neighbours.index(v)] = share
        failed = f"a secret of owner {owner} cannot be reconstructed"
        if len(dealt) < self.terms.threshold:
            raise AggregationError(f"{failed}: {len(dealt)} shares are there, {self.terms.threshold} are needed")
        for chosen in itertools.islice(_subsets(sorted(dealt), self.terms.threshold), SUBSETS):
            try:
                secret = shamir.combine({j: dealt[j] for j in chosen}, threshold=self.terms.threshold)
            except SharingError:
                secret = b""
            if secret and right(secret):
                return secret
            self._fault({owner}, "it has dealt shares that do not belong together")
        raise AggregationError(f"{failed}: it has dealt shares that give another than it has advertised")

    def _fault(self, owners: Collection[int], what: str) -> None:
        for owner in owners:
            self.faults.setdefault(owner, what)

    def _enough_neighbours(self, present: Collection[int], what: str) -> None:
        fewest = min(sum(v in present for v in self._neighbours(u)) for u in present)
        if fewest < self.terms.threshold:
            raise AggregationError(
                f"an owner has {fewest} neighbours that have {what}, {self.terms.threshold} are needed: "
                "the round is given up, nothing is opened"
            )

    def _enough(self, count: int, what: str) -> None:
        if count < self.terms.cohort:
            raise AggregationError(f"{count} owners have {what}, {self.terms.cohort} are needed: the round is given up, nothing is opened")


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _subsets(numbers: list[int], size: int) -> Iterator[tuple[int, ...]]:
    """Return subsets of a size: first those that leave out neighbours in the list, so that each number is missing soon, then all."""
    twice = numbers + numbers
    yield from (tuple(twice[start : start + size]) for start in range(len(numbers)))
    yield from itertools.combinations(numbers, size)
