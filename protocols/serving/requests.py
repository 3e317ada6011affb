"""The provider's account of the requests for one model: how many may be made, which are under way, which were answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from actors import Caller
from protocols.errors import Busy, QuotaSpent
from protocols.serving.ticket import Reveal, Ticket, identifier
from protocols.serving.turns import RETRY, Client, client_of


@dataclass
class RequestPart:
    """One ticket of a request: how it ended at each server, as far as known."""

    ticket: Ticket
    ended: dict[int, bool] = field(default_factory=dict)
    """For each server that is done with it, whether that server has released its share."""
    expiry: asyncio.TimerHandle | None = None

    @property
    def settled(self) -> bool:
        """Both servers have said how it ended."""
        return len(self.ended) == 2

    @property
    def counts(self) -> bool:
        """A server has released its share, or says so. If only the word of both counted, one alone could lift the quota."""
        return any(self.ended.values())

    def end(self, party: int, released: bool) -> None:
        """Note that a server is done with it. That it has released its share is never taken back."""
        self.ended[party] = released or self.ended.get(party, False)


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
    parts: list[RequestPart] = field(default_factory=list)
    waiting: bool = False
    charged: int = 0
    """Examples that were counted for it before its tickets left, of a model that stays."""
    touched: float = 0.0
    """When something last happened with it, in the time of the loop."""

    @property
    def owner(self) -> Client:
        """Whose it is."""
        return client_of(self.sender)

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
        return any(part.counts for part in self.parts)

    @property
    def counted(self) -> int:
        """The examples of its parts that count."""
        return sum(part.ticket.examples for part in self.parts if part.counts)

    def give_up(self) -> None:
        """Nobody waits for the examples that were not granted yet."""
        self.examples = self.granted


class Requests:
    """The requests of one model. What may be asked is what was allowed less what was answered and what is promised.

    Args:
        name: of the model.
        answered: requests that count from before, of a model that outlives its workers' processes.
        examples: of them.

    Attributes:
        answered: requests that were.
        examples: of them, those that were answered.
        changed: notified when one ends, or more are allowed.
        closed: called with each that ends.
    """

    def __init__(self, name: str, answered: int = 0, examples: int = 0) -> None:
        self._name = name
        self._allowed = 0
        self._most: int | None = None
        self._open: dict[bytes, Request] = {}
        self._held: Counter[Client] = Counter()
        self.answered = answered
        self.examples = examples
        self.changed = asyncio.Condition()
        self.closed: Callable[[Request], None] = lambda _: None

    @property
    def left(self) -> int:
        """How many more requests may be begun now."""
        left = self._allowed - self.answered - len(self._open)
        return left if self._most is None or self._spent < self._most else min(left, 0)

    @property
    def examples_left(self) -> int | None:
        """Examples that may still be asked for; None: any number."""
        return None if self._most is None else max(0, self._most - self._spent)

    @property
    def under_way(self) -> int:
        """How many are under way."""
        return len(self._open)

    @property
    def _spent(self) -> int:
        """Examples that were answered, those of requests under way included."""
        return self.examples + sum(request.counted for request in self._open.values())

    @property
    def open_ones(self) -> list[Request]:
        """Those under way, oldest first."""
        return list(self._open.values())

    def held(self, client: Client) -> int:
        """How many of a client are under way."""
        return self._held[client]

    def allow(self, total: int, examples: int | None = None) -> None:
        """So many requests in all, and examples, those that were answered or are under way included; None: any number of examples."""
        self._allowed, self._most = total, examples

    async def tell(self) -> None:
        """Whoever waits for a change looks again."""
        async with self.changed:
            self.changed.notify_all()

    def room(self, examples: int) -> bool:
        """Whether a request for so many examples may begin now; if not, it may be possible later, if some under way end unanswered.

        Raises:
            QuotaSpent: it never will be, unless the owner allows more.
        """
        under_way = self._open.values()
        if self.answered + sum(request.answered for request in under_way) >= self._allowed:
            raise QuotaSpent(
                f"model {self._name!r} has been asked as often as its owner allowed ({self._allowed} requests); ask the owner to serve more"
            )
        promised = 0
        if self._most is not None:
            left = max(0, self._most - self._spent)
            if examples > left:
                raise QuotaSpent(
                    f"{examples} examples were asked for; {left} of the {self._most} examples that the owner of model {self._name!r}"
                    " allowed are left; ask for fewer, or the owner to serve more"
                )
            promised = self.examples + sum(request.examples for request in under_way)
        return self.left > 0 and (self._most is None or promised + examples <= self._most)

    def open(self, examples: int, reveal: Reveal, client: str = "", sender: Caller | None = None) -> Request:
        """Begin a request.

        Args:
            examples: how many.
            reveal: the kind of answer.
            client: whose budget pays, where answers are counted for each client.
            sender: who asks.

        Raises:
            QuotaSpent: the owner allowed no more.
            Busy: what is left is promised to others, who have not been answered yet.
        """
        if not self.room(examples):
            raise Busy(f"what is left of the quota of model {self._name!r} is promised to requests that are under way", RETRY)
        request = Request(examples, reveal, client, sender=sender)
        self._open[request.identifier] = request
        self._held[request.owner] += 1
        return request

    def get(self, identifier: bytes) -> Request | None:
        """Return a request under way."""
        return self._open.get(identifier)

    async def close(self, request: Request) -> None:
        """End a request, once."""
        async with self.changed:
            if self._open.pop(request.identifier, None) is None:
                return
            self._held[request.owner] -= 1
            if not self._held[request.owner]:
                del self._held[request.owner]
            self.answered += request.answered
            self.examples += request.counted
            self.closed(request)
            self.changed.notify_all()
