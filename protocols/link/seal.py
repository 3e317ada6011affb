"""Tamper evidence: both servers seal what each has sent and received, and whoever gets their answers compares the seals."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from blake3 import blake3

from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.pair import Agreement

SEAL_BYTES = 32
"""Bytes of a seal, and of the key of all seals of two servers."""

SHORT = 1 << 14
"""Bytes of a message that are taken in at once: a call costs more than to copy them."""


def seal_key(own: Agreement, public: bytes, session: bytes) -> bytes:
    """Return the key of the seals of two servers, from this server's half of an agreement (X25519) and the other's public key.

    The public keys pass through the hands of whoever brings the two together, the third party or the owner of a training. Neither it nor
    anybody who reads all messages learns the key, and no argument of a message is the key or determines it.

    Args:
        own: used for this only.
        public: of the other server, 32 bytes.
        session: names the model or the run.

    Raises:
        ClusterError: it is no public key.
    """
    pair = own.with_peer(public, "seal", session)
    return pair.key("seal", 0) + pair.key("seal", 1)


class Seal:
    """A keyed BLAKE3 (a pseudo-random function, not linear) over all messages of one computation, in the same order at both servers.

    Equal seals mean that both servers had the same masked weights, inputs or examples and the same messages between them, so that what they
    opened was the same as well; if one bit differs, they differ but with a probability of 2^-256, whoever has altered it, unless it knows
    the key.

    It finds faults and whoever alters messages between the servers or to one of them, also on links without TLS. It finds nothing where
    somebody alters the messages of both servers with the third party while they agree on the key (TLS finds that), nor dealt randomness,
    keys of masks or shares of weights that are wrong from the start, nor a server that computes wrongly and sends what it has computed.

    Args:
        key: of the two servers, 32 bytes, see `seal_key`.
        channel: names the computation; used once.
    """

    def __init__(self, key: bytes, channel: bytes) -> None:
        self._mac = blake3(key=key)
        self._mac.update(len(channel).to_bytes(8, "little") + channel)

    def add(self, arrays: Sequence[Ring]) -> None:
        """Add one message. Both servers add what each was sent alone, then for each round the message of server 0 and that of server 1."""
        sizes = [array.nbytes for array in arrays]
        parts: list[bytes | memoryview] = [struct.pack(f"<{len(sizes) + 1}Q", len(sizes), *sizes)]
        parts += [np.ascontiguousarray(array).data.cast("B") for array in arrays if array.size]
        if sum(sizes) <= SHORT:
            self._mac.update(b"".join(parts))
            return
        for part in parts:
            self._mac.update(part)

    def close(self) -> bytes:
        """Return the seal, 32 bytes."""
        return self._mac.digest(SEAL_BYTES)
