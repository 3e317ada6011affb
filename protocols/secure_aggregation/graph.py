"""Who masks with whom: a k-regular ring whose order nobody can choose (Bell et al., CCS 2020, section 3).

With up to `session.COMPLETE` owners everybody masks with everybody, and there is nothing to choose. Among more, the order follows from
nonces of all owners. Each has committed to its nonce before the terms of the session were known, and reveals it only for terms that have
its commitment: so whoever makes the terms knows no order while it makes them, and a single honest owner suffices. All have to reveal:
otherwise who may leave nonces out could try orders. What is left to a dishonest server is to give a session up and to begin another, and
an owner begins `ATTEMPTS` with one update at most.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache

from protocols.errors import AggregationError
from protocols.secure_aggregation.session import AggregationTerms

ATTEMPTS = 8
"""Sessions that an owner begins with one update."""
NONCE_BYTES = 32


def commitment(nonce: bytes) -> bytes:
    """Return what says nothing of a nonce, and fixes it: 32 bytes."""
    return hashlib.sha256(b"confide nonce" + nonce).digest()


class Nonces:
    """An owner's nonces for one update. Each is the commitment to the next, so that a session that has failed needs no new ones."""

    def __init__(self) -> None:
        self._chain = [os.urandom(NONCE_BYTES)]
        for _ in range(ATTEMPTS):
            self._chain.append(commitment(self._chain[-1]))

    def __repr__(self) -> str:
        return f"<Nonces, {len(self._chain) - 1} left>"

    @property
    def commitment(self) -> bytes:
        """To the nonce that is revealed next."""
        return self._chain[-1]

    def reveal(self) -> bytes:
        """Return the nonce of the session that begins.

        Raises:
            AggregationError: this update has been in as many sessions as it may be in.
        """
        if len(self._chain) == 1:
            raise AggregationError(f"{ATTEMPTS} sessions have been begun with this update, and none was held: it is given to no more")
        self._chain.pop()
        return self._chain[-1]


class Graph:
    """Who masks with whom in one session.

    Args:
        terms: of the session.
        nonces: of all owners in the order of the roster; none are needed if everybody masks with everybody.

    Raises:
        AggregationError: a nonce is missing, or is another than the owner has committed to.
    """

    def __init__(self, terms: AggregationTerms, nonces: Sequence[bytes] = ()) -> None:
        self._terms, self._owners, self._reach = terms, len(terms.roster), terms.degree // 2
        self._order: list[int] | None = None
        if terms.complete:
            return
        if not _open(tuple(nonces), terms.commitments):
            raise AggregationError("the nonces are not those that the owners have committed to: nobody can say who masks with whom")
        self._order = _order(terms.identifier, terms.roster, tuple(nonces))
        self._places = {u: place for place, u in enumerate(self._order)}

    def neighbours(self, u: int) -> list[int]:
        """Return whom owner u shares with and masks with, itself not included, in increasing order."""
        if self._order is None:
            return self._terms.neighbours(u)
        at = self._places[u]
        return sorted(self._order[(at + step) % self._owners] for step in range(-self._reach, self._reach + 1) if step)


@lru_cache(maxsize=8)
def _open(nonces: tuple[bytes, ...], commitments: tuple[bytes, ...]) -> bool:
    return tuple(map(commitment, nonces)) == commitments


@lru_cache(maxsize=8)
def _order(session: bytes, roster: tuple[bytes, ...], nonces: tuple[bytes, ...]) -> list[int]:
    """Return the ring: owners in an order that is a function of all nonces. Kept, for owners of a simulation are many."""
    beacon = hashlib.sha256(b"confide graph" + session + b"".join(nonces)).digest()
    places = [hashlib.sha256(beacon + key).digest() for key in roster]
    return sorted(range(len(roster)), key=lambda u: places[u])
