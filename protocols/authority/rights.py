"""Rights of owners: what an owner shows to a worker to be known as the one that placed something there.

An owner draws one secret for what it places. For the worker at place i it derives right_i = HKDF(secret, i); that worker is told
SHA-256(right_i) at first, and right_i when the owner uses it. So nothing that a worker knows, before or afterwards, is a right at another
worker. A right is also bound to the certificate of who placed the thing; without certificates that name is empty.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from actors import caller
from protocols.errors import NotOwner
from protocols.mpc.parties.keystream import derive

SECRET_BYTES = 32


def new_secret() -> bytes:
    """Return a secret from which the rights at all three workers follow."""
    return secrets.token_bytes(SECRET_BYTES)


def right_at(secret: bytes, place: int) -> bytes:
    """Return the right at the worker of a place, 16 bytes: it tells nothing of those at others."""
    return derive(secret, "right at worker", place)


def digest(right: bytes) -> bytes:
    """Return what a worker keeps of a right: it recognises the right, and could not show it elsewhere."""
    return sha256(b"confide right" + right).digest()


def digest_at(secret: bytes, place: int) -> bytes:
    """Return what the worker of a place is told of the right there."""
    return digest(right_at(secret, place))


def shows(right: bytes, expected: bytes) -> bool:
    """Return whether it is the right that has this digest."""
    return hmac.compare_digest(digest(right), expected)


@dataclass(frozen=True)
class Claim:
    """Whose something is, as one worker knows it.

    Attributes:
        digest: of the right to it at this worker.
        holder: the common name in the certificate of who placed it; empty if there was none.
    """

    digest: bytes = field(repr=False)
    holder: str

    @staticmethod
    def of_caller(digest: bytes) -> Claim:
        """Return the claim of whoever sent the message that is being handled.

        Raises:
            NotOwner: this is no digest.
        """
        if len(digest) != sha256().digest_size:
            raise NotOwner(f"a claim of {len(digest)} bytes arrived; the digest of a right has {sha256().digest_size}")
        return Claim(digest, caller().common_name)

    def allows(self, right: bytes) -> bool:
        """Return whether who sent the message that is being handled is the one, and shows the right."""
        return shows(right, self.digest) and caller().common_name == self.holder

    def check(self, right: bytes, what: str) -> None:
        """Refuse everybody else.

        Raises:
            NotOwner: another right was shown, or by another certificate.
        """
        if not self.allows(right):
            raise NotOwner(f"{what} was placed here by somebody else; only who placed it may do this")
