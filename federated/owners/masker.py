"""The owner's side of secure aggregation: what it has learned leaves it masked, and it answers no question that would take the mask off.

What it was asked to do is in the terms that it signs, so that nobody is summed with owners who were asked something else.

The steps are those of `protocols.secure_aggregation.owner`; before them the owner trains, so that owners who do not come that far cost
the others nothing. An owner keeps the keys of a session in memory only: after a crash it cannot answer for a session that it was in, so
nobody can get from it a share of one kind before the crash and of the other kind after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federated.consent.admission import Policy
from federated.consent.served import Served
from federated.errors import UpdateHeldBack
from federated.metrics.limbs import LIMBS
from federated.owners.hiding import Hiding
from federated.tasks.update import Bound, Task, Update
from protocols.errors import AggregationError
from protocols.quantisation import Vector
from protocols.secure_aggregation import AggregationOwner, AggregationTerms
from protocols.secure_aggregation.graph import Nonces
from protocols.secure_aggregation.session import (
    SMALLEST_COHORT,
    Advertisement,
    Confirmation,
    MaskedVector,
    Opened,
    Shares,
    usual_cohort,
    usual_degree,
)

AT_ONCE = 4
"""Updates and sessions that an owner keeps; of more the oldest is forgotten."""


@dataclass(frozen=True)
class Prepared:
    """An owner has trained and keeps what it has learned.

    Args:
        ticket: what it calls its update, 16 bytes.
        identity: its Ed25519 public key, 32 bytes.
        metrics: names of its metrics, in the order in which they are in the vector.
        evaluates: whether it has evaluation data.
        commitment: to the nonce of the first session, 32 bytes; see `protocols.secure_aggregation.graph`.
        states: how many values the states of its metrics have, which are behind the metrics in the vector.
    """

    ticket: bytes
    identity: bytes
    metrics: tuple[str, ...]
    evaluates: bool
    commitment: bytes = b""
    states: int = 0


@dataclass(frozen=True, repr=False)
class _Kept:
    """An update that waits to be masked, and what belongs to it."""

    update: Update
    hiding: Hiding
    bound: Bound | None
    agreed: bytes
    nonces: Nonces


class Masker(Protocol):
    """The steps of an owner, wherever it is. Each is done once in a session, in this order."""

    async def prepare(self, task: Task, hiding: Hiding) -> Prepared:
        """Train, and keep the update."""

    async def advertise(self, ticket: bytes, terms: AggregationTerms) -> Advertisement:
        """Begin a session for a prepared update."""

    async def share(self, session: bytes, advertisements: list[Advertisement], nonces: tuple[bytes, ...] = ()) -> Shares:
        """Share the secrets of the session with the neighbours."""

    async def mask(self, session: bytes, sealed: dict[int, bytes]) -> MaskedVector:
        """Return the masked update."""

    async def confirm(self, session: bytes, survivors: list[int]) -> Confirmation:
        """Sign whose sum it is."""

    async def unmask(self, session: bytes, confirmations: list[Confirmation]) -> Opened:
        """For each neighbour a share of its own mask or of its mask key, never both."""


class OwnMasker:
    """The masker of an owner in this process.

    Args:
        train: makes the update.
        identity: long-term key; None: a new one for as long as this object lives.
        roster: public keys (32 bytes) of those whom this owner takes part with; None: whomever the aggregator names. Only with a roster
            does the protocol withstand an aggregator that makes owners up; without one it has to be honest about who takes part, and what
            they are asked. With one each round of a run is served once, what others were asked is compared, and the degree of a session
            has to be the usual one at least, see `usual_degree`.
        least: the smallest cohort whose sum it helps to open, at least 3; None: two thirds of the roster, or 3 without one.
        policy: its least noise is compared with that of the cohort that is signed.
        served: the record of the rounds; None: one in memory.
    """

    def __init__(
        self,
        train: Callable[[Task], Awaitable[Update]],
        *,
        identity: Ed25519PrivateKey | None = None,
        roster: Collection[bytes] | None = None,
        least: int | None = None,
        policy: Policy | None = None,
        served: Served | None = None,
    ) -> None:
        self._train = train
        self._identity = identity or Ed25519PrivateKey.generate()
        self._roster = None if roster is None else frozenset(roster) | {self.public_identity}
        usual = SMALLEST_COHORT if self._roster is None else usual_cohort(len(self._roster))
        self._least = usual if least is None else max(least, SMALLEST_COHORT)
        self._policy, self._served = policy or Policy(), served or Served()
        self._updates: dict[bytes, _Kept] = {}
        self._sessions: dict[bytes, tuple[AggregationOwner, bytes]] = {}
        self._used: set[bytes] = set()

    @property
    def public_identity(self) -> bytes:
        """The Ed25519 public key, 32 bytes: what rosters list."""
        return self._identity.public_key().public_bytes_raw()

    async def prepare(self, task: Task, hiding: Hiding) -> Prepared:
        """See `Masker.prepare`.

        Raises:
            AggregationError: with a roster: the round of this run was served before. Two sums that differ by one owner would show it.
            UpdateHeldBack: a value is too large or not finite, or there are too many examples. It says nothing of how large they are.
        """
        if self._roster is not None and not self._served.once(task.run, task.round):
            raise AggregationError(f"round {task.round} of this run was served before: an owner serves each once")
        agreed = await asyncio.to_thread(agreement, task, hiding)  # before training: what is asked, not what became of it
        update = await self._train(task)
        hiding.check(update)
        ticket, nonces = os.urandom(16), Nonces()
        _keep(self._updates, ticket, _Kept(update, hiding, task.training.bound, agreed, nonces))
        return Prepared(ticket, self.public_identity, tuple(update.metrics), update.evaluates, nonces.commitment, update.states.size)

    async def advertise(self, ticket: bytes, terms: AggregationTerms) -> Advertisement:
        """See `Masker.advertise`.

        Raises:
            AggregationError: unknown ticket, or terms that this owner does not agree to.
        """
        kept = self._update(ticket)
        self._agree(terms, kept)
        owner = AggregationOwner(terms, self._identity, kept.nonces)
        self._used.add(terms.identifier)
        _keep(self._sessions, terms.identifier, (owner, ticket))
        return owner.advertise()

    def _agree(self, terms: AggregationTerms, kept: _Kept) -> None:
        update, values = kept.update, sum(array.size for array in kept.update.delta)
        length = values + len(update.metrics) + LIMBS * update.states.size + 1
        if terms.identifier in self._used:
            raise AggregationError("this session has been held before: each has terms of its own")
        if terms.task != kept.agreed and (terms.task or self._roster is not None):
            raise AggregationError(
                "the session is about another task than this owner was given: owners would be summed that did other things"
            )
        if terms.cohort < self._least:
            raise AggregationError(f"a cohort of {terms.cohort}: this owner hides among at least {self._least}")
        if self._roster is not None and terms.degree < usual_degree(len(terms.roster)):
            raise AggregationError(
                f"degree {terms.degree} among {len(terms.roster)} owners: this owner masks with at least {usual_degree(len(terms.roster))}"
            )
        try:
            self._policy.check_share(kept.bound, values, terms.cohort)
        except UpdateHeldBack as error:
            raise AggregationError(str(error)) from None
        if terms.length != length or terms.word != kept.hiding.quantisation(len(terms.roster)).word:
            raise AggregationError(f"vectors of {terms.length} elements of {terms.word} bits do not fit this owner's {length}")
        strangers = set() if self._roster is None else set(terms.roster) - self._roster
        if strangers:
            raise AggregationError(f"{len(strangers)} of {len(terms.roster)} owners of the session are not on this owner's roster")

    async def share(self, session: bytes, advertisements: list[Advertisement], nonces: tuple[bytes, ...] = ()) -> Shares:
        """See `Masker.share`."""
        owner, _ = self._session(session)
        return await asyncio.to_thread(owner.share, advertisements, nonces)

    async def mask(self, session: bytes, sealed: dict[int, bytes]) -> MaskedVector:
        """See `Masker.mask`. An update is masked once: two sums that differ by one owner would show it.

        Raises:
            AggregationError: it was masked before, or shares do not fit.
        """
        owner, ticket = self._session(session)
        kept = self._update(ticket)
        del self._updates[ticket]
        return await asyncio.to_thread(lambda: owner.mask(sealed, encoded(kept.update, kept.hiding, len(owner.terms.roster))))

    async def confirm(self, session: bytes, survivors: list[int]) -> Confirmation:
        """See `Masker.confirm`."""
        owner, _ = self._session(session)
        return owner.confirm(survivors)

    async def unmask(self, session: bytes, confirmations: list[Confirmation]) -> Opened:
        """See `Masker.unmask`."""
        owner, _ = self._session(session)
        opened = await asyncio.to_thread(owner.unmask, confirmations)
        self._sessions.pop(session, None)
        return opened

    def _update(self, ticket: bytes) -> _Kept:
        if ticket not in self._updates:
            raise AggregationError("no update of that name is kept here: it was masked, or forgotten for newer ones")
        return self._updates[ticket]

    def _session(self, session: bytes) -> tuple[AggregationOwner, bytes]:
        if session not in self._sessions:
            raise AggregationError("this owner is in no such session (any more)")
        return self._sessions[session]


def agreement(task: Task, hiding: Hiding) -> bytes:
    """Return a digest of what all owners of a session have to have been given: the task, and how updates are made integers."""
    fields = f"confide agreement {hiding.clip.hex()} {hiding.most_examples} {hiding.headroom}"
    return hashlib.sha256(task.digest + fields.encode()).digest()


def encoded(update: Update, hiding: Hiding, owners: int) -> Vector:
    """Encode what is masked: the update and the metrics, times the number of examples, the states of the metrics, and that number."""
    states = hiding.split(update.states, update.examples, owners)
    return hiding.quantisation(owners).encode([*update.delta, hiding.metrics(update), *states], update.examples)


def _keep(kept: dict[bytes, Any], name: bytes, value: Any) -> None:
    kept[name] = value
    while len(kept) > AT_ONCE:
        del kept[next(iter(kept))]
