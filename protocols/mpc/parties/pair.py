"""A secret that two parties agree on and neither chooses: X25519 (RFC 7748), then HKDF-SHA256 (RFC 5869) bound to what it is for."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocols.errors import ClusterError, TicketRefused
from protocols.mpc.parties.keystream import derive


class Pair:
    """What two parties share: a key for each purpose, each given once, so that the same masks never serve twice.

    Args:
        secret: 16 bytes that the two know and nobody else.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._given: set[tuple[str | bytes | int, ...]] = set()

    def __repr__(self) -> str:
        return f"<Pair, {len(self._given)} keys given>"

    def key(self, *purpose: str | bytes | int) -> bytes:
        """Return the key of a purpose, 16 bytes: the same at both parties.

        Raises:
            TicketRefused: it was given before.
        """
        if purpose in self._given:
            raise TicketRefused(f"the key for {purpose[0]!r} was used before: the same masks never serve twice; share the model anew")
        self._given.add(purpose)
        return derive(self._secret, *purpose)


class Agreement:
    """One party's half of an agreement. The private key comes from the operating system, lives here only, and is used once.

    The two public keys may be read by anybody. Whoever can alter them on the way can pretend to be either party: between machines the
    links have certificates (wss://).
    """

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def with_peer(self, public: bytes, *context: str | bytes | int) -> Pair:
        """Agree with the owner of `public` on what these two share.

        Args:
            public: 32 bytes, the other party's `public`.
            context: what both must mean: the session, and the roles in it.

        Raises:
            ClusterError: it is no public key.
        """
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise ClusterError(f"{len(public)} bytes arrived that are no public key of X25519; the other worker is faulty") from None
        return Pair(derive(shared, "pair", *context, *sorted((self.public, public))))
