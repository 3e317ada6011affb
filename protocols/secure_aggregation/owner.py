"""An owner's side of one secure aggregation: five steps, each once, no network.

Steps: `advertise`, `share`, `mask`, `confirm`, `unmask`. Each takes what the server relayed and returns what to send; an error means: stop
taking part. The masked vector is x + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv) modulo 2^64 over the neighbours that shared.

Adversary: a server that lies about who advertised, dropped out or confirmed, and up to threshold - 1 corrupt neighbours of an owner. What
the session is about is in the terms, and so in every signature: owners that were told different terms do not open a sum together.
**Leaks** to the server: the sum over at least `cohort` owners, and who took part. **Rounds**: 5 messages of an owner.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import AggregationError
from protocols.quantisation import Vector
from protocols.secure_aggregation import graph, shamir
from protocols.secure_aggregation.masks import add_masks, agreed, seal, unseal
from protocols.secure_aggregation.session import Advertisement, AggregationTerms, Confirmation, MaskedVector, Opened, Shares

STEPS = ("advertise", "share", "mask", "confirm", "unmask")


DIGEST_BYTES = 32
BOX_BYTES = 2 * DIGEST_BYTES + 2 * 8 * shamir.LIMBS + 16
"""What an owner gives a neighbour: digests of two shares, and the shares themselves, sealed."""


class AggregationOwner:
    """One owner in one session.

    Args:
        terms: the session. Its label must never have been used before by this owner.
        identity: the long-term key whose public half is on the roster.
        nonces: whose commitment is in the terms; None is enough if everybody masks with everybody.

    Raises:
        AggregationError: the identity is not on the roster, or the terms have another commitment.
    """

    def __init__(self, terms: AggregationTerms, identity: Ed25519PrivateKey, nonces: graph.Nonces | None = None) -> None:
        public = identity.public_key().public_bytes_raw()
        if public not in terms.roster:
            raise AggregationError("this owner is not on the roster of the session")
        self.terms, self.number = terms, terms.roster.index(public)
        if not terms.complete and (nonces is None or terms.commitments[self.number] != nonces.commitment):
            raise AggregationError("the terms do not have this owner's commitment: who masks with whom would be chosen without it")
        self._identity, self._nonces = identity, nonces
        self._neighbours: list[int] = []
        self._share_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._own_mask = os.urandom(shamir.SECRET_BYTES)
        self._advertised: dict[int, Advertisement] = {}
        self._sealed: dict[int, bytes] = {}
        self._survivors: frozenset[int] = frozenset()
        self._step = 0

    def __repr__(self) -> str:
        return f"AggregationOwner({self.number} of {len(self.terms.roster)})"

    def _enter(self, step: str) -> None:
        if self._step >= len(STEPS) or STEPS[self._step] != step:
            due = STEPS[self._step] if self._step < len(STEPS) else "nothing"
            raise AggregationError(f"{step} was asked for, {due} is due: each step is done once, in order")
        self._step += 1

    def advertise(self) -> Advertisement:
        """Advertise (step 0) two fresh public keys, what fixes the own mask, and the nonce; signed."""
        self._enter("advertise")
        nonce = self._nonces.reveal() if self._nonces is not None and not self.terms.complete else b""
        keys = self._share_key.public_key().public_bytes_raw(), self._mask_key.public_key().public_bytes_raw()
        one = Advertisement(self.number, *keys, fixed(self.terms, self.number, self._own_mask), nonce, b"")
        return msgspec.structs.replace(one, signature=self._identity.sign(advertised(self.terms, one)))

    def share(self, advertisements: Sequence[Advertisement], nonces: Sequence[bytes] = ()) -> Shares:
        """Share (step 1) both secrets among the neighbours that advertised.

        Args:
            advertisements: those of the neighbours.
            nonces: of all owners, in the order of the roster; none if everybody masks with everybody.

        Raises:
            AggregationError: a forged or doubled advertisement, one of a stranger, or too few of them; nonces that are not what was
                committed to.
        """
        self._enter("share")
        self._neighbours = graph.Graph(self.terms, nonces).neighbours(self.number)
        self._advertised = checked(self.terms, advertisements, among=self._neighbours)
        present = list(self._advertised)
        if len(present) < self.terms.threshold:
            raise AggregationError(f"{len(present)} neighbours are there, {self.terms.threshold} are needed: too few to hide among")
        own = shamir.split(self._own_mask, threshold=self.terms.threshold, shares=len(self._neighbours))
        key = shamir.split(self._mask_key.private_bytes_raw(), threshold=self.terms.threshold, shares=len(self._neighbours))
        sealed = {}
        for v in present:
            j = self._neighbours.index(v)
            digests = digest(own[j]) + digest(key[j])
            pair = own[j].tobytes() + key[j].tobytes()
            sealed[v] = digests + seal(self._channel(v), self.terms.identifier, self.number, v, pair, digests)
        return Shares(self.number, sealed)

    def _channel(self, v: int) -> bytes:
        return agreed(self._share_key, self._advertised[v].share_key, self.terms.identifier, "shares")

    def mask(self, sealed: Mapping[int, bytes], vector: Vector) -> MaskedVector:
        """Return (step 2) the masked vector.

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
        return MaskedVector(self.number, y)

    def confirm(self, survivors: Sequence[int]) -> Confirmation:
        """Sign (step 3) the set of owners whose vectors the server says it has.

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
        """Open (step 4) for each neighbour one share: of its own mask if it is part of the sum, of its mask key if not.

        Args:
            confirmations: those of the neighbours.

        Raises:
            AggregationError: not enough neighbours have signed the very set that this one has signed.
        """
        self._enter("unmask")
        verify_confirmations(self.terms, self._survivors, confirmations, among=self._neighbours)
        own_masks, mask_keys, unreadable = {}, {}, []
        for v, box in self._sealed.items():
            try:
                own_mask, mask_key = self._unsealed(v, box)
            except AggregationError:  # of the server, or of that neighbour: the others' shares are enough without it
                unreadable.append(v)
                continue
            if v in self._survivors:
                own_masks[v] = own_mask
            else:
                mask_keys[v] = mask_key
        return Opened(self.number, own_masks, mask_keys, tuple(unreadable))

    def _unsealed(self, v: int, box: bytes) -> tuple[shamir.Field, shamir.Field]:
        """Return the shares that a neighbour has sealed, if they are those whose digests it tells everybody."""
        digests, sealed = box[: 2 * DIGEST_BYTES], box[2 * DIGEST_BYTES :]
        plain = unseal(self._channel(v), self.terms.identifier, v, self.number, sealed, digests)
        pair = np.frombuffer(plain, np.uint64) if len(plain) == 16 * shamir.LIMBS else np.zeros(0, np.uint64)
        own_mask, mask_key = pair[: shamir.LIMBS], pair[shamir.LIMBS :]
        if digest(own_mask) + digest(mask_key) != digests:
            raise AggregationError(f"the shares from owner {v} are others than it tells everybody")
        return own_mask, mask_key


def digest(share: shamir.Field) -> bytes:
    """Return what everybody may know of a share, which says nothing of it as long as it is not opened."""
    return hashlib.sha256(b"confide share" + share.tobytes()).digest()


def fixed(terms: AggregationTerms, owner: int, own_mask: bytes) -> bytes:
    """Return what an owner advertises of the seed of its own mask, so that nobody can make it another one later."""
    return hashlib.sha256(b"confide own mask" + terms.identifier + owner.to_bytes(4, "big") + own_mask).digest()


def advertised(terms: AggregationTerms, one: Advertisement) -> bytes:
    """Return what the signature of an advertisement covers."""
    fields = msgspec.msgpack.encode((one.share_key, one.mask_key, one.own_mask, one.nonce))
    return b"advertise" + terms.identifier + one.owner.to_bytes(4, "big") + fields


def confirmed(terms: AggregationTerms, survivors: frozenset[int]) -> bytes:
    """Return what the signature of a confirmation covers."""
    return b"confirm" + terms.identifier + np.sort(np.fromiter(survivors, ">u4", len(survivors))).tobytes()


def _verified(terms: AggregationTerms, owner: int, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(terms.roster[owner]).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise AggregationError(f"the signature of owner {owner} is forged, or of another session") from None


def checked(terms: AggregationTerms, advertisements: Sequence[Advertisement], *, among: Collection[int]) -> dict[int, Advertisement]:
    """Return advertisements by owner.

    Raises:
        AggregationError: one is forged, or of somebody who is not among those expected, or an owner has two, or another nonce than it
            has committed to.
    """
    found: dict[int, Advertisement] = {}
    for one in advertisements:
        if one.owner not in among:
            raise AggregationError(f"owner {one.owner} advertised, and is not on the roster or no neighbour")
        _verified(terms, one.owner, one.signature, advertised(terms, one))
        if not terms.complete and graph.commitment(one.nonce) != terms.commitments[one.owner]:
            raise AggregationError(f"the nonce of owner {one.owner} is not the one that it has committed to")
        if one.owner in found:
            raise AggregationError(f"owner {one.owner} advertised twice")
        found[one.owner] = one
    return found


def verify_confirmations(
    terms: AggregationTerms, survivors: frozenset[int], confirmations: Sequence[Confirmation], *, among: Collection[int]
) -> None:
    """Check that as many neighbours as can open a secret signed this very set (Bell et al., 2020, algorithm 3, round 5).

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
