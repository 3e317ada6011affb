"""The provider's account of the requests for one model: how many may be made, which are under way, which were answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from actors import Caller
from protocols.errors import QuotaSpent
from protocols.ticket import Reveal, Ticket, identifier


@dataclass
class Part:
    """One ticket of a request: how it ended at each server, as far as known."""

    ticket: Ticket
    ended: dict[int, bool] = field(default_factory=dict)
    expiry: asyncio.TimerHandle | None = None

    @property
    def settled(self) -> bool:
        """Both servers have said how it ended."""
        return len(self.ended) == 2

    @property
    def answered(self) -> bool:
        """Both servers have released their share."""
        return self.settled and all(self.ended.values())


@dataclass
class Request:
    """A request of one client: `examples` in all, cut into parts as randomness becomes ready."""

    examples: int
    reveal: Reveal
    client: str = ""
    holders: tuple[bytes, bytes] = (b"", b"")
    sender: Caller | None = None
    identifier: bytes = field(default_factory=identifier)
    granted: int = 0
    parts: list[Part] = field(default_factory=list)
    waiting: bool = False

    @property
    def idle(self) -> bool:
        """Everything that was granted has ended at both servers."""
        return all(part.settled for part in self.parts)

    @property
    def settled(self) -> bool:
        """It is idle, and nothing is left to grant."""
        return self.idle and not self.waiting and self.granted >= self.examples

    @property
    def answered(self) -> bool:
        """At least a part of it was answered, so that it counts."""
        return any(part.answered for part in self.parts)

    def give_up(self) -> None:
        """Nobody waits for the examples that were not granted yet."""
        self.examples = self.granted


class Requests:
    """The requests of one model. `allowed` counts those that were answered or are under way."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._allowed = 0
        self._open: dict[bytes, Request] = {}
        self.answered = 0
        self.changed = asyncio.Condition()

    @property
    def left(self) -> int:
        """How many more requests may be made."""
        return self._allowed - self.answered - len(self._open)

    def allow(self, total: int) -> None:
        """So many in all, those that were answered or are under way included."""
        self._allowed = total

    def open(self, examples: int, reveal: Reveal, client: str = "") -> Request:
        """Begins a request; `client` is who asks, where that is counted.

        Raises:
            QuotaSpent: the owner allowed no more.
        """
        if self.left < 1:
            raise QuotaSpent(
                f"model {self._name!r} has been asked as often as its owner allowed ({self._allowed} requests); ask the owner to serve more"
            )
        request = Request(examples, reveal, client)
        self._open[request.identifier] = request
        return request

    def get(self, identifier: bytes) -> Request | None:
        """A request under way."""
        return self._open.get(identifier)

    async def close(self, request: Request) -> None:
        """Ends a request."""
        async with self.changed:
            self._open.pop(request.identifier, None)
            self.answered += request.answered
            self.changed.notify_all()
