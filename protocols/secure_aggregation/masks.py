"""Keys between two owners, and the masks that grow from them: X25519, HKDF-SHA256, AES-CTR, AES-GCM, all bound to the session."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import AggregationError
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.quantisation import Vector

CHUNK = 1 << 17
"""Bytes of a mask that are made at once: small enough for the cache."""


def agreed(private: X25519PrivateKey, public: bytes, session: bytes, purpose: str) -> bytes:
    """Return 32 bytes that only two owners know, for one session and one purpose."""
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise AggregationError("an advertised key is not a public key") from None
    return HKDF(hashes.SHA256(), 32, salt=session, info=purpose.encode()).derive(secret)


def add_masks(vector: Vector, signs: Mapping[bytes, int]) -> None:
    """Add (or with sign -1 subtract) the key streams of seeds to a vector, in place, all of them to one part of it after the other."""
    streams = [(KeyStream(derive(seed, "mask")), np.add if sign > 0 else np.subtract) for seed, sign in signs.items()]
    buffer = np.empty(CHUNK // 8, np.uint64)
    mask = buffer.view(vector.dtype)
    for start in range(0, len(vector), len(mask)):
        part = vector[start : start + len(mask)]
        for stream, combine in streams:
            stream.fill(buffer)
            combine(part, mask[: len(part)], out=part)


def _context(session: bytes, sender: int, receiver: int) -> bytes:
    return session + sender.to_bytes(4, "big") + receiver.to_bytes(4, "big")


def seal(key: bytes, session: bytes, sender: int, receiver: int, plain: bytes, beside: bytes = b"") -> bytes:
    """Encrypt from one owner to another: AES-256-GCM. The key serves two messages, one each way, told apart by the nonce.

    Args:
        key: of the two.
        session: its identifier.
        sender: its number.
        receiver: its number.
        plain: what only the receiver may read.
        beside: what everybody may read, and the receiver has to get as it is.
    """
    context = _context(session, sender, receiver)
    return AESGCM(key).encrypt(context[-8:] + bytes(4), plain, context + beside)


def unseal(key: bytes, session: bytes, sender: int, receiver: int, sealed: bytes, beside: bytes = b"") -> bytes:
    """Decrypt, and return the plaintext.

    Raises:
        AggregationError: it was not sealed by that sender for that receiver in this session.
    """
    context = _context(session, sender, receiver)
    try:
        return AESGCM(key).decrypt(context[-8:] + bytes(4), sealed, context + beside)
    except (InvalidTag, ValueError):
        raise AggregationError(f"the shares from owner {sender} were altered, or are of another session") from None
