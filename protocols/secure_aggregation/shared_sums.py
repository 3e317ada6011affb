"""Sums over two servers that do not collude: one gets a vector minus a key stream, the other the key (as in Prio, Corrigan-Gibbs and
Boneh, 2017, section 3, with a seed for one of the shares).

This file is one server's book-keeping, without a network: what was handed in, what counts and how much, and the half of the sum that is
opened once. **Leaks** to a server: which tickets count, and how much; a vector that is uniform, or a key.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from protocols.errors import AggregationError
from protocols.mpc.parties.exchange import Party, exchange
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.quantisation import Vector, word_type

SEED_BYTES = 32
DIGEST_WORDS = 4
"""Ring words of what two servers compare."""
NONCE_BYTES = 16
WAITING = 256
"""How many parts may wait to be admitted; more are refused."""
LARGEST_FACTOR = 256
"""By which a part may be multiplied in any sum: with larger ones a sum would show one part above all others."""
LARGEST = 1 << 31
"""Bytes of a vector."""
CHUNK = 1 << 17
"""Bytes of a key stream that are made at once."""


@dataclass(frozen=True)
class SumTerms:
    """What is summed.

    Args:
        length: elements of a vector.
        scaled: of these the first so many are multiplied by the factor of an admission; the others are not.
        word: bits of an element, 32 or 64.
        cohort: the fewest vectors whose sum may be opened, at least 2.
        most: the largest factor of an admission, from 1 to `LARGEST_FACTOR`.
    """

    length: int
    scaled: int
    word: int
    cohort: int
    most: int = LARGEST_FACTOR

    def __post_init__(self) -> None:
        if self.length * self.word // 8 > LARGEST:
            raise AggregationError(f"vectors of {self.length:,} elements; up to {LARGEST >> 20} MiB are summed")
        if not 1 <= self.most <= LARGEST_FACTOR:
            raise AggregationError(f"factors up to {self.most}; from 1 to {LARGEST_FACTOR} can be agreed on")
        if not (1 <= self.scaled <= self.length and self.word in (32, 64) and self.cohort >= 2):
            raise AggregationError(
                f"vectors of {self.length} elements of {self.word} bits, {self.scaled} of them scaled, cohorts of {self.cohort}: "
                "at least one element of 32 or 64 bits, and cohorts of at least 2 are needed"
            )


def halve(vector: Vector) -> tuple[Vector, bytes]:
    """Split a vector into what one server gets, the vector minus a key stream, and what the other gets: 32 bytes that make it."""
    seed = os.urandom(SEED_BYTES)
    part = vector.copy()
    _add_stream(part, seed, factor=-1, scaled=len(part))
    return part, seed


def _add_stream(total: Vector, seed: bytes, *, factor: int, scaled: int) -> None:
    """Add a factor times the key stream of a seed, in place; the elements from `scaled` on get it once (or minus once)."""
    stream, buffer = KeyStream(derive(seed, "shared sum")), np.empty(CHUNK // 8, np.uint64)
    words = buffer.view(total.dtype)
    for start in range(0, len(total), len(words)):
        stream.fill(buffer)
        part = total[start : start + len(words)]
        _add(part, words[: len(part)], factor, scaled - start)


def _add(total: Vector, part: Vector, factor: int, scaled: int) -> None:
    """Add factor * part to the first `scaled` elements of a total, sign(factor) * part to the others; modulo 2^word."""
    if factor == 1:
        np.add(total, part, out=total)
    elif factor == -1:
        np.subtract(total, part, out=total)
    else:
        scaled = max(0, min(scaled, len(total)))
        total[:scaled] += part[:scaled] * total.dtype.type(factor)
        total[scaled:] += part[scaled:]


def new_ticket(key: bytes) -> bytes:
    """Make a ticket for one vector: a nonce and its HMAC-SHA256."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _mac(key, nonce).finalize()


def _mac(key: bytes, nonce: bytes) -> HMAC:
    mac = HMAC(key, SHA256())
    mac.update(nonce)
    return mac


class Half:
    """One server's half of a sum.

    A part is handed in with a ticket, waits until the aggregator admits it, and is in the sum then. The server of the vectors adds what is
    admitted at once; that of the seeds expands them when the sum is opened.

    Args:
        terms: what is summed.
        key: of the tickets, 32 bytes.
    """

    def __init__(self, terms: SumTerms, key: bytes) -> None:
        self.terms, self._key = terms, key
        self._waiting: dict[bytes, Vector | bytes] = {}
        self._used: set[bytes] = set()
        self._admitted: dict[bytes, int] = {}
        self._seeds: dict[bytes, bytes] = {}
        self._sum: Vector = np.zeros(terms.length, word_type(terms.word))

    def __repr__(self) -> str:
        return f"<Half of a sum, {len(self._admitted)} admitted>"

    def hold(self, ticket: bytes, part: Vector | bytes) -> None:
        """Take a part in; it does not count yet.

        Raises:
            AggregationError: a ticket that is forged or used, a part of another form, or too many that wait.
        """
        self._check_ticket(ticket)
        if isinstance(part, bytes):
            if len(part) != SEED_BYTES:
                raise AggregationError(f"a seed of {len(part)} bytes; {SEED_BYTES} are needed")
        elif part.shape != self._sum.shape or part.dtype != self._sum.dtype:
            raise AggregationError(f"a vector of {part.shape} {part.dtype}; {self._sum.shape} {self._sum.dtype} is needed")
        if len(self._waiting) >= WAITING:
            raise AggregationError(f"{WAITING} parts are waiting already; try again when they have been admitted")
        self._used.add(ticket)
        self._waiting[ticket] = part

    def _check_ticket(self, ticket: bytes) -> None:
        try:
            _mac(self._key, ticket[:NONCE_BYTES]).verify(ticket[NONCE_BYTES:])
        except InvalidSignature:
            raise AggregationError("a ticket that this aggregator has not given out") from None
        if ticket in self._used:
            raise AggregationError("a ticket that was used before: each is for one vector")

    def admit(self, ticket: bytes, factor: int) -> bool:
        """Make a part count, times a factor; False if there is no such part.

        Raises:
            AggregationError: the factor is not from 1 to the largest of the terms.
        """
        if not 1 <= factor <= self.terms.most:
            raise AggregationError(f"a factor of {factor}; from 1 to {self.terms.most} was agreed on")
        part = self._waiting.pop(ticket, None)
        if part is None:
            return False
        self._admitted[ticket] = factor
        if isinstance(part, bytes):
            self._seeds[ticket] = part
        else:
            _add(self._sum, part, factor, self.terms.scaled)
        return True

    def expel(self, ticket: bytes) -> None:
        """Take an admitted seed back, whose vector is not there."""
        if self._seeds.pop(ticket, None) is not None:
            del self._admitted[ticket]

    def digest(self) -> bytes:
        """Return a digest of who counts, and how much: both servers have to have the same.

        Raises:
            AggregationError: fewer than the cohort.
        """
        if len(self._admitted) < self.terms.cohort:
            raise AggregationError(f"{len(self._admitted)} vectors have been admitted, {self.terms.cohort} are needed: nothing is opened")
        hashed = hashlib.sha256()
        for ticket, factor in sorted(self._admitted.items()):
            hashed.update(ticket + factor.to_bytes(8, "big"))
        return hashed.digest()

    def opened(self) -> Vector:
        """Return this half of the sum, once; then a new sum begins. Both halves together are the sum."""
        self.digest()
        total = self._sum
        for ticket, seed in self._seeds.items():
            _add_stream(total, seed, factor=self._admitted[ticket], scaled=self.terms.scaled)
        self.discard()
        return total

    def discard(self) -> None:
        """Forget what was admitted; what waits goes on waiting."""
        self._admitted, self._seeds = {}, {}
        self._sum = np.zeros(self.terms.length, word_type(self.terms.word))


async def agreed(me: Party, half: Half) -> bytes:
    """Refuse to open a sum unless the other server sums the same vectors; return the digest of these.

    **Rounds**: 1. **Bytes**: 32 each way. **Leaks**: whether the two are the same.

    Raises:
        AggregationError: it sums others, or too few count.
    """
    digest = half.digest()
    words = np.frombuffer(digest, "<u8").astype(np.uint64)
    received = await exchange({me.other: words}, awaiting={me.other})
    if not np.array_equal(received[me.other], words):
        raise AggregationError("the two servers do not sum the same vectors: nothing is opened")
    return digest
