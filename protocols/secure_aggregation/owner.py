"""An owner's side of one secure aggregation: five steps, each once, no network.

Steps: `advertise`, `share`, `mask`, `confirm`, `unmask`. Each takes what the server relayed and returns what to send; an error means: stop
taking part. The masked vector is x + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv) modulo 2^64 over the neighbours that shared.

Adversary: a server that lies about who advertised, dropped out or confirmed, and up to threshold - 1 corrupt neighbours of an owner.
**Leaks** to the server: the sum over at least `cohort` owners, and who took part. **Rounds**: 5 messages of an owner.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import AggregationError
from protocols.quantisation import Vector
from protocols.secure_aggregation import shamir
from protocols.secure_aggregation.masks import add_masks, agreed, seal, unseal
from protocols.secure_aggregation.session import Advertisement, Confirmation, Masked, Opened, Shares, Terms

STEPS = ("advertise", "share", "mask", "confirm", "unmask")


class _Pair(msgspec.Struct, frozen=True):
    """What one owner entrusts to another: a share of its own mask and one of its mask key."""

    own_mask: bytes
    mask_key: bytes


class Owner:
    """One owner in one session.

    Args:
        terms: the session. Its label must never have been used before by this owner.
        identity: the long-term key whose public half is on the roster.

    Raises:
        AggregationError: the identity is not on the roster.
    """

    def __init__(self, terms: Terms, identity: Ed25519PrivateKey) -> None:
        public = identity.public_key().public_bytes_raw()
        if public not in terms.roster:
            raise AggregationError("this owner is not on the roster of the session")
        self.terms, self.number = terms, terms.roster.index(public)
        self._identity = identity
        self._neighbours = terms.neighbours(self.number)
        self._share_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._own_mask = os.urandom(shamir.SECRET_BYTES)
        self._advertised: dict[int, Advertisement] = {}
        self._sealed: dict[int, bytes] = {}
        self._survivors: frozenset[int] = frozenset()
        self._step = 0

    def __repr__(self) -> str:
        return f"Owner({self.number} of {len(self.terms.roster)})"

    def _enter(self, step: str) -> None:
        if self._step >= len(STEPS) or STEPS[self._step] != step:
            due = STEPS[self._step] if self._step < len(STEPS) else "nothing"
            raise AggregationError(f"{step} was asked for, {due} is due: each step is done once, in order")
        self._step += 1

    def advertise(self) -> Advertisement:
        """Step 0: two fresh public keys, signed."""
        self._enter("advertise")
        keys = self._share_key.public_key().public_bytes_raw(), self._mask_key.public_key().public_bytes_raw()
        return Advertisement(self.number, *keys, self._identity.sign(advertised(self.terms, self.number, *keys)))

    def share(self, advertisements: Sequence[Advertisement]) -> Shares:
        """Step 1: shares of both secrets for the neighbours that advertised.

        Args:
            advertisements: those of the neighbours.

        Raises:
            AggregationError: a forged or doubled advertisement, one of a stranger, or too few of them.
        """
        self._enter("share")
        self._advertised = checked(self.terms, advertisements, among=self._neighbours)
        present = list(self._advertised)
        if len(present) < self.terms.threshold:
            raise AggregationError(f"{len(present)} neighbours are there, {self.terms.threshold} are needed: too few to hide among")
        own = shamir.split(self._own_mask, threshold=self.terms.threshold, shares=len(self._neighbours))
        key = shamir.split(self._mask_key.private_bytes_raw(), threshold=self.terms.threshold, shares=len(self._neighbours))
        sealed = {}
        for v in present:
            j = self._neighbours.index(v)
            pair = msgspec.msgpack.encode(_Pair(own[j].tobytes(), key[j].tobytes()))
            sealed[v] = seal(self._channel(v), self.terms.identifier, self.number, v, pair)
        return Shares(self.number, sealed)

    def _channel(self, v: int) -> bytes:
        return agreed(self._share_key, self._advertised[v].share_key, self.terms.identifier, "shares")

    def mask(self, sealed: Mapping[int, bytes], vector: Vector) -> Masked:
        """Step 2: the masked vector.

        Args:
            sealed: what each neighbour that shared has sealed for this owner.
            vector: (length,) integers of the word of the terms, encoded.

        Raises:
            AggregationError: shares from strangers, too few, or a vector of another shape.
        """
        self._enter("mask")
        if vector.shape != (self.terms.length,) or vector.dtype != self.terms.dtype:
            expected = f"({self.terms.length},) {self.terms.dtype}"
            raise AggregationError(f"a vector of shape {vector.shape} and dtype {vector.dtype}; {expected} is needed")
        strangers = set(sealed) - set(self._advertised)
        if strangers:
            raise AggregationError(f"shares arrived from {sorted(strangers)}, who are no neighbours of this owner or have not advertised")
        if len(sealed) < self.terms.threshold:
            raise AggregationError(f"{len(sealed)} neighbours have shared, {self.terms.threshold} are needed")
        self._sealed = dict(sealed)
        signs = {self._own_mask: 1}
        for v in sealed:
            seed = agreed(self._mask_key, self._advertised[v].mask_key, self.terms.identifier, "mask")
            signs[seed] = 1 if v > self.number else -1
        y = vector.copy()
        add_masks(y, signs)
        return Masked(self.number, y)

    def confirm(self, survivors: Sequence[int]) -> Confirmation:
        """Step 3: signs the set of owners whose vectors the server says it has.

        Raises:
            AggregationError: this owner is not among them, they are too few, or a neighbour among them has not shared.
        """
        self._enter("confirm")
        chosen = frozenset(survivors)
        if self.number not in chosen or len(chosen) < self.terms.cohort or not chosen <= set(range(len(self.terms.roster))):
            raise AggregationError(
                f"a sum over {len(chosen)} owners was announced; at least {self.terms.cohort} are needed, this one among them"
            )
        if not (chosen & set(self._neighbours)) <= set(self._sealed):
            raise AggregationError("a neighbour that has not shared was announced as part of the sum")
        self._survivors = chosen
        return Confirmation(self.number, self._identity.sign(confirmed(self.terms, chosen)))

    def unmask(self, confirmations: Sequence[Confirmation]) -> Opened:
        """Step 4: for each neighbour one share: of its own mask if it is part of the sum, of its mask key if not.

        Args:
            confirmations: those of the neighbours.

        Raises:
            AggregationError: not enough neighbours have signed the very set that this one has signed, or shares were altered.
        """
        self._enter("unmask")
        verify_confirmations(self.terms, self._survivors, confirmations, among=self._neighbours)
        own_masks, mask_keys = {}, {}
        for v, box in self._sealed.items():
            pair = msgspec.msgpack.decode(unseal(self._channel(v), self.terms.identifier, v, self.number, box), type=_Pair)
            if v in self._survivors:
                own_masks[v] = np.frombuffer(pair.own_mask, np.uint64)
            else:
                mask_keys[v] = np.frombuffer(pair.mask_key, np.uint64)
        return Opened(self.number, own_masks, mask_keys)


def advertised(terms: Terms, owner: int, share_key: bytes, mask_key: bytes) -> bytes:
    """What the signature of an advertisement covers."""
    return b"advertise" + terms.identifier + owner.to_bytes(4, "big") + share_key + mask_key


def confirmed(terms: Terms, survivors: frozenset[int]) -> bytes:
    """What the signature of a confirmation covers."""
    return b"confirm" + terms.identifier + np.sort(np.fromiter(survivors, ">u4", len(survivors))).tobytes()


def _verified(terms: Terms, owner: int, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(terms.roster[owner]).verify(signature, message)
    except InvalidSignature:
        raise AggregationError(f"the signature of owner {owner} is forged, or of another session") from None


def checked(terms: Terms, advertisements: Sequence[Advertisement], *, among: Collection[int]) -> dict[int, Advertisement]:
    """Advertisements by owner.

    Raises:
        AggregationError: one is forged, or of somebody who is not among those expected, or an owner has two.
    """
    found: dict[int, Advertisement] = {}
    for one in advertisements:
        if one.owner not in among:
            raise AggregationError(f"owner {one.owner} advertised, and is not on the roster or no neighbour")
        _verified(terms, one.owner, one.signature, advertised(terms, one.owner, one.share_key, one.mask_key))
        if one.owner in found:
            raise AggregationError(f"owner {one.owner} advertised twice")
        found[one.owner] = one
    return found


def verify_confirmations(terms: Terms, survivors: frozenset[int], confirmations: Sequence[Confirmation], *, among: Collection[int]) -> None:
    """Checks that as many neighbours as can open a secret signed this very set (Bell et al., 2020, algorithm 3, round 5).

    Raises:
        AggregationError: a forged signature, one of a stranger, or too few.
    """
    signers, message = set(), confirmed(terms, survivors)
    for one in confirmations:
        if one.owner not in survivors or one.owner not in among:
            raise AggregationError(f"owner {one.owner} confirmed a sum that it is no part of, or is no neighbour")
        _verified(terms, one.owner, one.signature, message)
        signers.add(one.owner)
    if len(signers) < terms.threshold:
        raise AggregationError(f"{len(signers)} neighbours have signed the same set, {terms.threshold} are needed; too few to open the sum")
