"""The cluster that a worker belongs to, and who may send it what.

A worker takes part in computations with two others, which it knows from `cluster.toml`, or, on loopback, from whoever of its own user has
started it (`enrolment.py`). It knows where they are and how they show who they are, and believes no message about either.

| who calls | is known by | has the roles |
|---|---|---|
| one of the other two | its certificate; on loopback its key | server, other server, third party: which for a name, `seats` says |
| a node of the cluster file | its certificate | what its role there says, and its certificate does not deny |
| another member | its certificate, in which the authority has written a role | owner, client: what that role says |
| a process of the same user | its key, on loopback without certificates | administrator, owner, aggregator, client |
| whoever else can connect | nothing | client; in a strict cluster none |

Adversary: whoever can connect, and each worker towards the other two. With `allow_plaintext` between machines nobody can be known: then
everybody is believed, which the cluster file has to ask for by name.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from actors import Caller, NotAllowed, caller
from actors.guard.limited_log import LimitedLog
from actors.observing.notes import noted
from protocols.authority import certified
from protocols.authority.certified import Certified
from protocols.authority.seats import Seats, seats
from protocols.errors import ClusterError

log = logging.getLogger(__name__)

SERVER, OTHER_SERVER, THIRD_PARTY = "a server", "the other server", "the third party"
OWNER, AGGREGATOR, CLIENT, ADMINISTRATOR = "an owner", "an aggregator", "a client", "the administrator"

WORKERS = frozenset({SERVER, OTHER_SERVER, THIRD_PARTY})
PEOPLE = frozenset({OWNER, AGGREGATOR, CLIENT, ADMINISTRATOR})


_OF_NODES = {"share": frozenset({OWNER}), "ask": frozenset({CLIENT}), "watch": frozenset[str]()}


def rights(role: str, may: Collection[str] = ()) -> frozenset[str]:
    """Return what the holder of a role of cluster.toml may be towards a worker. Workers are known by their places, not by this.

    Args:
        role: as it is written there, or in a certificate.
        may: of a client: "share", "ask"; "watch" is for metrics, and gives no right to any message.
    """
    if role == "owner":
        return frozenset({OWNER, CLIENT})
    if role == "aggregator":
        return frozenset({AGGREGATOR, CLIENT})
    return frozenset().union(*(_OF_NODES[one] for one in may)) if role == "client" else frozenset()


def rights_of_member(said: Certified | None) -> frozenset[str]:
    """Return what a certificate alone makes its holder, whom no cluster file names: an owner or a client. All other parts are pinned."""
    return rights(said.role, said.may) if said is not None and said.role in ("owner", "client") else frozenset()


@dataclass(frozen=True)
class Member:
    """One of the three workers.

    Attributes:
        address: url of the node, as the others reach it.
        name: the common name in its certificate; empty on loopback without certificates.
    """

    address: str
    name: str = ""


@dataclass(frozen=True)
class Trio:
    """Three workers that belong together, in the order of their cluster, and which of them this one is.

    Attributes:
        members: the three.
        place: of this worker, 0 to 2.
        equals: whether they are equals, or the last is the crypto provider; None if it is for the owner to say (on loopback).
    """

    members: tuple[Member, Member, Member]
    place: int
    equals: bool | None = None


class Membership:
    """Whose a worker is. Shared by all actors of a worker.

    Args:
        trio: the cluster; None: this worker belongs to none (yet), and takes part in nothing.
        people: common name in a certificate -> the roles of its holder. Others have the role that is written in their certificates, if they
            are owners or clients there; otherwise they may ask only.
        models: name of a model -> the common name of the only one who may share it. Others are free for every owner.
        believe: everybody is what they say: for plaintext between machines.
        strict: a certificate without a role, or with one that says otherwise, gives nothing. Otherwise whoever can connect may ask.
    """

    def __init__(
        self,
        trio: Trio | None = None,
        *,
        people: Mapping[str, frozenset[str]] | None = None,
        models: Mapping[str, str] | None = None,
        believe: bool = False,
        strict: bool = False,
    ) -> None:
        self._trio = trio
        self._people, self._models, self.believe = dict(people or {}), dict(models or {}), believe
        self._strict = strict
        self._log = LimitedLog()
        self._places: WeakKeyDictionary[Caller, int] = WeakKeyDictionary()
        self._held: WeakKeyDictionary[Caller, frozenset[str]] = WeakKeyDictionary()

    # Whose it is.

    @property
    def trio(self) -> Trio:
        """The cluster.

        Raises:
            ClusterError: there is none.
        """
        if self._trio is None:
            raise ClusterError(
                "this worker belongs to no cluster, and computes with nobody: start it with --for cluster.toml or confide run; on loopback"
                " use it in the Cluster of a process of its own user"
            )
        return self._trio

    @property
    def enrolled(self) -> bool:
        """Whether it belongs to a cluster by now."""
        return self._trio is not None

    def enrol(self, trio: Trio) -> None:
        """Belong to a cluster from now on. Once: what has been agreed on stays.

        Raises:
            ClusterError: this worker belongs to another one.
        """
        if self._trio is None:
            self._trio = trio
            self._places.clear()
        elif (self._trio.members, self._trio.place) != (trio.members, trio.place):
            there = ", ".join(member.address for member in self._trio.members)
            raise ClusterError(
                f"this worker belongs to the cluster {there}, in this order, as long as it runs: name the three in the same order, or"
                " start other workers for another cluster"
            )

    @property
    def place(self) -> int:
        """Of this worker."""
        return self.trio.place

    def address(self, place: int) -> str:
        """Return the url of the worker at a place."""
        return self.trio.members[place].address

    @property
    def names(self) -> dict[str, str]:
        """Url of each member -> the common name that its certificate must have."""
        members: Sequence[Member] = () if self._trio is None else self._trio.members
        return {member.address: member.name for member in members if member.name}

    def seats(self, equals: bool, name: str) -> Seats:
        """Return who does what for a name in this cluster.

        Args:
            equals: what the caller takes the cluster for.
            name: of the model.

        Raises:
            ClusterError: this worker belongs to no cluster, or to one of the other form.
        """
        if name:
            noted(model=name)  # whatever is done with a model or a training begins here
        if self.trio.equals is not None and self.trio.equals != equals:
            form = "three equals" if self.trio.equals else "two servers and a crypto provider"
            raise ClusterError(f"the cluster of this worker consists of {form}: use it as such")
        return seats(equals, name)

    # Who calls.

    def roles(self, sender: Caller) -> frozenset[str]:
        """Return the roles of whoever has sent a message: for `ActorSystem(roles=...)`."""
        if self.believe:
            return WORKERS | PEOPLE
        if self.place_of(sender) >= 0:
            return WORKERS
        if sender.same_user:
            return PEOPLE
        held = self._held.get(sender)
        if held is None:
            held = self._held[sender] = self._rights(sender) | (frozenset() if self._strict else {CLIENT})
        return held

    def _rights(self, sender: Caller) -> frozenset[str]:
        """Return what the file and the certificate say; if both say something, what they agree on."""
        if not sender.common_name:
            return frozenset()
        said, listed = certified.certified(sender.certificate), self._people.get(sender.common_name)
        if listed is None:
            return rights_of_member(said)
        if said is None and self._strict:
            return frozenset()
        return listed if said is None else listed & rights(said.role, said.may)

    def place_of(self, sender: Caller) -> int:
        """Return the place of the worker that has sent a message; -1 if it is none of the other two."""
        place = self._places.get(sender)
        if place is None:
            place = self._places[sender] = self._found(sender)
        return place

    def _found(self, sender: Caller) -> int:
        members: Sequence[Member] = () if self._trio is None else self._trio.members
        said = certified.certified(sender.certificate)
        if (said is None and self._strict) or (said is not None and said.role not in certified.WORKERS):
            return -1
        for place, member in enumerate(members):
            shown = sender.common_name == member.name if member.name else bool(sender.address) and sender.address == member.address
            if shown and place != self.place:
                return place
        return -1

    def require(self, place: int, what: str) -> None:
        """Refuse the message that is being handled unless the worker at a place has sent it.

        Args:
            place: 0 to 2.
            what: was asked for, in the log.

        Raises:
            NotAllowed: somebody else has sent it.
        """
        sender = caller()
        if self.believe or sender.local or self.place_of(sender) == place:
            return
        self._log.write(log, logging.WARNING, f"refused {what}", "refused: %s sent by %s", what, sender.placed)
        raise NotAllowed(f"{what} is for the worker at place {place} of this cluster alone; you are {sender}")

    def check_name(self, name: str) -> None:
        """Refuse to share a model under a name that belongs to somebody else.

        Raises:
            NotAllowed: the cluster file says who may share it, and that is not who has sent the message.
        """
        owner = self._models.get(name)
        sender = caller()
        if owner is not None and owner != sender.common_name and not self.believe:
            self._log.write(
                log, logging.WARNING, "refused name", "refused: a model under the name %r, sent by %s", name[:100], sender.placed
            )
            raise NotAllowed(f"the name {name!r} is for the models of {owner!r} alone; you are {sender}")
