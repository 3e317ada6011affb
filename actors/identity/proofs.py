"""How two systems on one machine prove who they are, when their connection has no certificates.

Each greets with a nonce. Who has dialed reads the file that the system at that address has published (`published.py`), and sends up to
two tags, HMAC-SHA256 over both nonces, the address that was dialed and the address that the sender listens at:

- under the key in the file: the sender runs for the same user;
- if it listens itself, under what X25519 gives for its own private key and the public key in the file (the other end finds the sender's
  public key in the file of the sender's address): the sender is the system that listens there.

The other end answers with its own tags over the same, so that nobody can take a free port and be taken for somebody else. Because the
address that was dialed is in the tags, a proof that somebody in between passes on to another address is worth nothing.

Adversary: any other user of this machine. **Leaks** to whoever listens at the address: the address that the sender listens at.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from actors.address import Address
from actors.errors import LinkError, Malformed
from actors.identity import published
from actors.identity.caller import Caller
from actors.identity.published import KEY_BYTES, Published
from actors.messages.frames import Proof

NONCE_BYTES = 32


class Identity:
    """Who a system that listens on loopback is, as long as it listens. Its private key never leaves this object."""

    def __init__(self, address: Address) -> None:
        self.address = published.reached(address)
        self._private = X25519PrivateKey.generate()
        self._told = Published(secrets.token_bytes(KEY_BYTES), self._private.public_key().public_bytes_raw())
        self._path = published.publish(address, self._told)

    def __repr__(self) -> str:
        return f"<Identity of {self.address}>"

    @property
    def user_key(self) -> bytes:
        """The key of those who can read the file."""
        return self._told.user

    def shared_with(self, public: bytes) -> bytes | None:
        """Return what this system and the holder of a public key have in common; None if it is no public key."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            return None

    def withdraw(self) -> None:
        """Remove the file."""
        published.withdraw(self._path, self._told)


class Introduction:
    """One connection's proofs, at one end of it.

    Args:
        own: who this system is; None if it does not listen on loopback.
        dialed: the address that this end has dialed; None if it was dialed.
        for_user: show that this system runs for its user. A worker of a cluster does not: it is to have no rights at the others.

    Attributes:
        nonce: to greet with.
    """

    def __init__(self, own: Identity | None, dialed: Address | None, *, for_user: bool) -> None:
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self._own, self._for_user = own, for_user
        self._dialed = "" if dialed is None else published.reached(dialed)
        found = published.find(dialed) if dialed is not None and published.kept_in_the_clear(dialed) else None
        self._found: Published | None = None if found is None else found[0]
        self._path: Path | None = None if found is None else found[1]
        self._theirs = b""
        self._shared: bytes | None = None  # with the system that has published the file

    def missing(self) -> str:
        """Return what an end that was dialed and has proven nothing may be; empty if no proof is asked of it."""
        if self._found is None:
            return ""
        return (
            f"whoever listens at {self._dialed} does not prove to be the process that wrote {self._path}: that process may have been"
            " killed, and this one be another program, or of another user. If you know that it is right, remove that file"
        )

    def greeted(self, nonce: bytes) -> Proof | None:
        """Take the nonce of the other end; return what to send it, if this end has dialed somebody who knows this user."""
        self._theirs = nonce
        if self._found is None:
            return None
        self._shared = None if self._own is None else self._own.shared_with(self._found.public)
        return Proof(
            "" if self._own is None else self._own.address,
            self._tag(self._found.user, "user dials", self._dialed, self._sender) if self._for_user else b"",
            self._tag(self._shared, "system dials", self._dialed, self._sender) if self._shared else b"",
        )

    @property
    def _sender(self) -> str:
        return "" if self._own is None else self._own.address

    def answered(self, proof: Proof, caller: Caller) -> Caller:
        """Take the answer to a proof; return who the other end is.

        Raises:
            LinkError: it is not the system that has published the file.
            Malformed: there was no proof to answer.
        """
        if self._found is None:
            raise Malformed("a proof arrived that was not asked for")
        expected = self._tag(self._found.user, "user listens", self._dialed, self._sender)
        if not hmac.compare_digest(proof.user, expected):
            raise LinkError(
                f"whoever listens at {self._dialed} is not the process that wrote {self._path}: it may be of another user. If you know"
                " that this is right, remove that file"
            )
        pair = self._shared
        if pair is not None and not hmac.compare_digest(proof.system, self._tag(pair, "system listens", self._dialed, self._sender)):
            raise LinkError(f"whoever listens at {self._dialed} does not have the key that {self._path} names")
        return replace(caller, same_user=True, address=self._dialed)

    def checked(self, proof: Proof, caller: Caller) -> tuple[Proof, Caller]:
        """Check the proof of an end that has dialed this one; return the answer, and who it is as far as it has proven that."""
        if self._own is None or not self._theirs:
            return Proof("", b"", b""), caller
        here, sender = self._own.address, proof.address[:300]
        same_user = hmac.compare_digest(proof.user, self._tag(self._own.user_key, "user dials", here, sender))
        pair = self._pair(sender)
        known = pair is not None and hmac.compare_digest(proof.system, self._tag(pair, "system dials", here, sender))
        answer = Proof(
            here,
            self._tag(self._own.user_key, "user listens", here, sender),
            self._tag(pair, "system listens", here, sender) if pair is not None and known else b"",
        )
        return answer, replace(caller, same_user=same_user, address=sender if known else "")

    def _pair(self, sender: str) -> bytes | None:
        """Return the secret that this system shares with the one that listens at an address, if any."""
        try:
            address = Address.parse(sender)
        except LinkError:
            return None
        found = published.find(address) if published.kept_in_the_clear(address) else None
        return None if found is None or self._own is None else self._own.shared_with(found[0].public)

    def _tag(self, key: bytes, what: str, dialed: str, sender: str) -> bytes:
        """HMAC-SHA256 of everything that is proven, each part preceded by its length."""
        nonces = (self.nonce, self._theirs) if self._dialed else (self._theirs, self.nonce)
        digest = hmac.new(key, digestmod=sha256)
        for part in (b"confide identity", what.encode(), *nonces, dialed.encode(), sender.encode()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()
