"""What one server has answered of one model, and is answering: it counts for itself, and nobody's word takes anything back.

A request counts as soon as this server has released its share for one of its parts, and examples part by part. What fails before that does
not count. A server cannot know whether the other one released its share, too; it does not ask, because whoever could answer "it did not"
could lift the quota.
"""

from __future__ import annotations

from protocols.errors import QuotaSpent
from protocols.serving.ticket import Ticket

REMEMBERED = 1 << 16
"""How many requests are known that were answered in part: a part that comes after so many others counts as a request of its own."""


class Quota:
    """Requests and examples of one model at one server.

    Args:
        name: of the model.
        requests: that were answered before this process, of a model that outlives it.
        examples: of them.
    """

    def __init__(self, name: str, requests: int = 0, examples: int = 0) -> None:
        self._name, self._answered = name, requests
        self._requests, self._examples = 0, None  # type: int, int | None
        self._released: dict[bytes, None] = {}
        self._running: dict[bytes, list[int]] = {}
        self._counted = examples

    def allow(self, requests: int, examples: int | None = None) -> None:
        """So many in all since the model was shared; None: any number of examples."""
        self._requests, self._examples = requests, examples

    @property
    def left(self) -> tuple[int, int | None]:
        """Requests and examples that may still be begun; None: any number of examples."""
        examples = None if self._examples is None else max(0, self._examples - self._counted)
        return max(0, self._requests - len(self._released | self._running.keys())), examples

    @property
    def begun(self) -> tuple[int, int]:
        """Requests and examples that were answered or are under way."""
        return self._answered + self._unanswered, self._counted

    @property
    def running(self) -> int:
        """Requests that this server works on now."""
        return len(self._running)

    @property
    def _unanswered(self) -> int:
        """Requests under way of which no part was answered."""
        return sum(request not in self._released for request in self._running)

    def check(self, ticket: Ticket) -> None:
        """Refuse a ticket that is more than is left beside what was answered and what is under way.

        Raises:
            QuotaSpent: it is; the message says how much is left.
        """
        known = ticket.request in self._released or ticket.request in self._running
        if not known and self._answered + self._unanswered >= self._requests:
            raise QuotaSpent(f"model {self._name!r} has been asked as often as its owner allowed")
        if self._examples is not None and self._counted + ticket.examples > self._examples:
            left = max(0, self._examples - self._counted)
            raise QuotaSpent(
                f"{ticket.examples} examples were asked for; {left} of the {self._examples} examples that the owner of model"
                f" {self._name!r} allowed are left"
            )

    def begin(self, ticket: Ticket) -> None:
        """Count a part of a request as under way. For each there is one `end`.

        Raises:
            QuotaSpent: see `check`; nothing was counted.
        """
        self.check(ticket)
        self._running.setdefault(ticket.request, []).append(ticket.part)
        self._counted += ticket.examples

    def end(self, ticket: Ticket, released: bool) -> None:
        """End a part that had begun: this server releases its share of the answer now, or never will."""
        parts = self._running[ticket.request]
        parts.remove(ticket.part)
        if not parts:
            del self._running[ticket.request]
        if released and ticket.request not in self._released:
            self._answered += 1
            self._released[ticket.request] = None
            if len(self._released) > REMEMBERED:
                del self._released[next(iter(self._released))]
        if not released:
            self._counted -= ticket.examples

    def under_way(self, request: bytes) -> list[int]:
        """Return the parts of a request that this server works on now."""
        return list(self._running.get(request, []))
