"""Names that owners have claimed at a server for models that have not arrived."""

from __future__ import annotations

import asyncio

from actors import caller
from protocols.authority.rights import Claim
from protocols.errors import NameTaken, TooLarge

WITHIN = 60.0
"""Seconds within which a model arrives after its name was claimed."""
MOST = 1000
"""How many names may be claimed at once."""
CLAIMS_OF_ONE = 100
"""How many of them by one owner."""


class PendingClaims:
    """Claims by name, each until its model arrives, its owner takes it back, or time is up."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._renewed: dict[str, Claim] = {}

    def add(self, name: str, digest: bytes) -> None:
        """Claim a name for who sent the message that is being handled. `digest` is that of its right at this server.

        Raises:
            NameTaken: somebody has claimed it.
            TooLarge: too many names are claimed, in all or by this owner.
            NotOwner: this is no digest.
        """
        if name in self._claims:
            raise NameTaken(f"a model named {name!r} is being shared here already; choose another name")
        if len(self._claims) >= MOST:
            raise TooLarge(f"{MOST} names are claimed here for models that have not arrived; try again in {WITHIN:g} s")
        if sum(claim.holder == caller().common_name for claim in self._claims.values()) >= CLAIMS_OF_ONE:
            raise TooLarge(f"this owner has claimed {CLAIMS_OF_ONE} names without a model; try again in {WITHIN:g} s")
        claim = self._claims[name] = Claim.of_caller(digest)
        asyncio.get_running_loop().call_later(WITHIN, self._expire, name, claim)

    def put(self, name: str, claim: Claim) -> None:
        """Keep a claim to a name whose model has gone, and another one is to come."""
        self._claims[name] = self._renewed[name] = claim
        asyncio.get_running_loop().call_later(WITHIN, self._expire, name, claim)

    @property
    def renewed(self) -> frozenset[str]:
        """The names whose model has gone, and another one is to come: until `arrived`."""
        return frozenset(self._renewed)

    def arrived(self, name: str) -> None:
        """No model is to come any more: it is here, or cannot be."""
        self._renewed.pop(name, None)

    def _expire(self, name: str, claim: Claim) -> None:
        if self._claims.get(name) is claim:
            del self._claims[name]
        if self._renewed.get(name) is claim:
            del self._renewed[name]

    def take(self, name: str) -> Claim | None:
        """Return the claim to a name whose model has arrived; None if nobody has claimed it."""
        return self._claims.pop(name, None)

    def give_back(self, name: str, right: bytes) -> bool:
        """Let go of a claim, for who made it; False if there is none that the right is to."""
        claim = self._claims.get(name)
        if claim is None or not claim.allows(right):
            return False
        del self._claims[name]
        self.arrived(name)
        return True
