"""Tamper evidence: both servers seal what each has sent and received, and whoever gets their answers compares the seals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.exchange import Ring
from protocols.keystream import derive


class Seal:
    """A GMAC (NIST SP 800-38D) over all messages of one computation, in an order that is the same at both servers.

    Equal seals mean that both servers had the same masked input and the same messages between them, so that what they opened was the same
    as well; if one bit differs, they differ but with a probability of 2^-128 times the number of blocks of 16 bytes. The key is used for
    one computation. Besides the servers it is known to who set them up, the party that deals or, in training, the owner, through whose
    hands no such message goes.

    It tells altered messages between the servers, and different inputs to the two. It tells nothing about dealt randomness or shares of
    weights that are wrong from the start, or about a server that computes wrongly and sends what it has computed: the adversary is
    semi-honest, and links have TLS; this is evidence of faults, and of whoever is on a link that has none.

    Args:
        link: known to both servers, and to who set them up.
        channel: names the computation; used once.
    """

    def __init__(self, link: bytes, channel: bytes) -> None:
        self._mac = Cipher(algorithms.AES(derive(link, "seal", channel)), modes.GCM(bytes(12))).encryptor()

    def add(self, arrays: Sequence[Ring]) -> None:
        """One message. Both servers add the masked input, then for each round the message of server 0 and that of server 1."""
        self._mac.authenticate_additional_data(np.array([len(arrays), *(array.nbytes for array in arrays)], "<u8").tobytes())
        for array in arrays:
            self._mac.authenticate_additional_data(np.ascontiguousarray(array).data.cast("B"))

    def close(self) -> bytes:
        """The seal, 16 bytes. Nothing can be added any more."""
        self._mac.finalize()
        return self._mac.tag
