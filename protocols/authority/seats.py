"""Who does what for one name: two of the three workers evaluate, the third deals randomness."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

THIRD = 2
"""The number of the third party among the parties of a computation; the servers are 0 and 1."""


@dataclass(frozen=True)
class Seats:
    """The parties of one computation, as places 0 to 2 in the list of a cluster's workers.

    Attributes:
        servers: who evaluates.
        third: who deals.
        equals: whether the three are equals, so that the third is the helper of this name; else it is the crypto provider of all.
    """

    servers: tuple[int, int]
    third: int
    equals: bool

    @property
    def helper(self) -> int | None:
        """The place of the helper among equals; None where a crypto provider deals."""
        return self.third if self.equals else None

    @property
    def all(self) -> tuple[int, int, int]:
        """The places of server 0, server 1, and who deals."""
        return *self.servers, self.third

    def party(self, place: int) -> int:
        """Return which party the worker at a place is: 0 or 1 for a server, 2 for the third."""
        return self.all.index(place)


def helper_of(name: str) -> int:
    """Return the place, 0 to 2, of the worker that helps with what has this name: SHA-256 modulo 3. Public."""
    return int.from_bytes(sha256(name.encode()).digest(), "big") % 3


def seats(equals: bool, name: str) -> Seats:
    """Return who does what for a name. Among equals the helper follows from it, and the two after it, in a circle, are servers 0 and 1."""
    if not equals:
        return Seats((0, 1), THIRD, False)
    helper = helper_of(name)
    return Seats(((helper + 1) % 3, (helper + 2) % 3), helper, True)
