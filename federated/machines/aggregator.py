"""The aggregator as an actor, whom owners report to: who is here, and who may be.

What an owner sends is a reference to itself, which is reached over its connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from actors import ANYONE, Actor, NameTaken, caller, message
from actors.observing.figures import Figure, state
from actors.observing.log_lines import event
from actors.observing.notes import noted
from federated.errors import JoinRefused, OwnerDropped
from federated.machines.certificates import expiry, shown_name
from federated.machines.round_figures import RoundFigures
from federated.owners.owner import DataOwner
from protocols.authority.certified import certified

log = logging.getLogger(__name__)

NAME = "aggregator"
"""Of the actor at the aggregator."""

Tell = Callable[[str], None]
"""Is told in a line what happens."""


class Attendance:
    """Who is here.

    Args:
        names: of the owners that are expected.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._here: dict[str, DataOwner] = {}
        self._why = dict.fromkeys(names, "it has not joined yet")
        self._arrivals = {name: asyncio.Event() for name in names}
        self._anybody = asyncio.Event()

    def expects(self, name: str) -> bool:
        """Whether an owner has this name."""
        return name in self._why

    def take_in(self, name: str) -> None:
        """Expect one more."""
        self._why[name] = "it has not joined yet"
        self._arrivals[name] = asyncio.Event()

    def present(self) -> list[str]:
        """Return the names of those who are here."""
        return sorted(self._here)

    async def anybody(self) -> None:
        """Wait until somebody is here."""
        while not self._here:
            self._anybody.clear()
            await self._anybody.wait()

    def owner(self, name: str) -> DataOwner | None:
        """Return the owner of that name, if it is here."""
        return self._here.get(name)

    def arrive(self, name: str, owner: DataOwner) -> None:
        """Note that an owner is here; it replaces the one of that name that was."""
        self._here[name] = owner
        self._arrivals[name].set()
        self._anybody.set()

    def leave(self, name: str, owner: DataOwner, why: str) -> bool:
        """Note that an owner is not here any more; return False if it was replaced by another before."""
        if self._here.get(name) is not owner:
            return False
        del self._here[name]
        self._why[name] = why
        self._arrivals[name].clear()
        return True

    async def expect(self, name: str, *, within: float) -> DataOwner:
        """Return the owner of that name, as soon as it is here.

        Args:
            name: of the owner.
            within: seconds.

        Raises:
            OwnerDropped: it has not come.
        """
        try:
            async with asyncio.timeout(within):
                while name not in self._here:  # it may be gone again before this runs
                    await self._arrivals[name].wait()
        except TimeoutError:
            raise OwnerDropped(f"{name} is away: {self._why[name]}") from None
        return self._here[name]


@dataclass(frozen=True)
class AggregatorStatus:
    """What an aggregator tells about itself.

    Args:
        played: rounds that are over.
        here: name of each owner -> whether it has joined. Owners that are dialed are not in here.
        until: name of an owner that has joined -> when its certificate expires, in seconds since 1970. Without TLS nobody is in here.
    """

    played: int
    here: dict[str, bool]
    until: dict[str, float] = field(default_factory=dict)


class Aggregator(Actor):
    """Takes owners in.

    **Leaks** to whoever can connect: names of owners, which of them are here, and the number of rounds.

    Args:
        attendance: the book.
        names: of the owners in it.
        certified: an owner has to show a certificate with its name. Otherwise anybody who can connect may say any name that is free.
        members: returns why an owner that is not among `names` may not join now; empty: it may, if the authority has written that role into
            its certificate.
        played: how many rounds are over.
        tell: what happens.
        rounds: what came of rounds, for metrics.
    """

    def __init__(
        self,
        attendance: Attendance,
        names: Collection[str],
        *,
        certified: bool,
        played: Callable[[], int],
        tell: Tell,
        members: Callable[[], str] = lambda: "",
        rounds: RoundFigures | None = None,
    ) -> None:
        self._attendance, self._names, self._certified, self._members = attendance, names, certified, members
        self._until: dict[str, float] = {}
        self._played, self._tell = played, tell
        self._rounds = rounds or RoundFigures()
        self._watching: set[asyncio.Task[None]] = set()

    @message(by="owner")
    async def join(self, name: str, owner: DataOwner) -> None:
        """Take an owner in until its connection ends.

        Args:
            name: that the aggregator knows it by, and that is the common name in its certificate.
            owner: of a system that does not listen, so that it is reached over this very connection.

        Raises:
            JoinRefused: nobody of that name is expected, or the certificate of the connection is somebody else's.
            NameTaken: without certificates: an owner of that name is here.
            MessageRejected: the reference leads elsewhere.
        """
        noted(owner=name)
        shown = self.system.certificate(owner)
        if self._certified:
            self._check(name, shown)
        elif not self._attendance.expects(name):
            raise JoinRefused(f"no owner {name[:100]!r} is expected here")
        elif self._attendance.owner(name) is not None:
            raise NameTaken(f"an owner {name!r} is here already")
        if not self._attendance.expects(name):
            self._attendance.take_in(name)
        if shown is not None:
            self._until[name] = expiry(shown)
        self._attendance.arrive(name, owner)
        self._tell(f"{name} has joined")
        task = asyncio.create_task(self._watch(name, owner))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    def _check(self, name: str, certificate: bytes | None) -> None:
        """Refuse an owner that is neither on the list nor, by its certificate, a member."""
        shown, said = "" if certificate is None else shown_name(certificate), certified(certificate)
        expected = self._attendance.expects(name)
        why = ""
        if not expected and said is None:
            why = f"no owner {name[:100]!r} is expected here, and the certificate of {shown!r} says no role"
        elif shown != name:
            why = f"the certificate of this connection is that of {shown!r}, not of {name[:100]!r}"
        elif said is not None and said.role != "owner":
            why = f"the certificate of {name!r} is for the role {said}: only an owner joins"
        elif not expected and (reason := self._members()):
            why = f"no owner {name!r} is on the list here, and {reason}"
        if why:
            self._tell(f"refused: {caller().placed}, who wanted to join as {name[:100]!r}: {why}")
            raise JoinRefused(why)

    async def _watch(self, name: str, owner: DataOwner) -> None:
        ended = await self.system.watch(owner)
        if self._attendance.leave(name, owner, ended.reason):
            event(log, logging.INFO, "owner left", owner=name, reason=ended.reason)
            self._tell(f"{name} has left: {ended.reason}")

    @message(by=ANYONE)
    async def standing(self) -> AggregatorStatus:
        """How far the federation is, and who is here."""
        names = dict.fromkeys((*self._names, *self._attendance.present()))
        here = {name: self._attendance.owner(name) is not None for name in names}
        return AggregatorStatus(
            self._played(), here, {name: self._until[name] for name, there in here.items() if there and name in self._until}
        )

    async def observed(self) -> list[Figure]:
        """Return what it shows in metrics; see `actors.observing.figures`."""
        here = len(self._attendance.present())
        return [
            state("owners_joined", "owners that have joined and are here", here),
            state("owners_expected", "owners on the list", len(self._names)),
            state("federated_rounds_over", "rounds that are over, those before the start included", self._played()),
            *self._rounds.figures(),
        ]

    async def stopped(self) -> None:
        """End the watching."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
