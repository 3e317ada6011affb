"""The messages of one actor that have not ended: running, waiting for their turn, and waiting for room.

At most `capacity` messages are running or wait for their turn. More wait for room, in order, and so do their senders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import Task
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from actors.identity import LOCAL, Caller

if TYPE_CHECKING:
    from actors.messages.schema import Message
    from actors.observing.notes import Notes


class Envelope(ABC):
    """A message on its way through a mailbox, and the way back to its sender.

    Attributes:
        message, arguments: what to call with what.
        caller: who has sent it.
        task: in which the handler runs, if it does.
        cancelled: the sender does not want it any more.
        notes: what is noted about it; None: nobody observes it.
    """

    __slots__ = ("arguments", "begun", "caller", "cancelled", "message", "notes", "task")

    def __init__(self, message: Message, arguments: tuple[Any, ...], caller: Caller = LOCAL) -> None:
        self.message = message
        self.arguments = arguments
        self.caller = caller
        self.task: Task[None] | None = None
        self.begun = False
        self.cancelled = False
        self.notes: Notes | None = None

    def admitted(self) -> None:  # noqa: B027 (most senders need not know)
        """There is room for it; the sender need not wait any longer."""

    @abstractmethod
    def reply(self, value: Any) -> None:
        """Give the sender `value`, the result of the handler."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """Give the sender `error`, which the handler raised, or because of which it never ran."""


class Mailbox:
    """Keeps count and order; runs nothing.

    Attributes:
        in_turn: admitted messages that wait for their turn.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"mailbox={capacity}: a mailbox holds at least one message")
        self.capacity = capacity
        self._load = 0
        self.in_turn: deque[Envelope] = deque()
        self._room: deque[Envelope] = deque()

    @property
    def size(self) -> int:
        """Messages that run, or wait for their turn or for room."""
        return self._load + len(self._room)

    def put(self, envelope: Envelope) -> bool:
        """Take a message; return True if it was admitted, False if it waits for room."""
        if self._load >= self.capacity or self._room:
            self._room.append(envelope)
            return False
        self._load += 1
        return True

    def wait_for_turn(self, envelope: Envelope) -> None:
        """Append an admitted message that cannot run yet."""
        self.in_turn.append(envelope)

    def next_in_turn(self) -> Envelope | None:
        """Take out the message that may run now."""
        return self.in_turn.popleft() if self.in_turn else None

    def all_in_turn(self) -> list[Envelope]:
        """Take out all admitted messages that have not begun; they stay admitted."""
        waiting = list(self.in_turn)
        self.in_turn.clear()
        return waiting

    def ended(self) -> Envelope | None:
        """Count an admitted message that has ended; return the one that is admitted in its place."""
        self._load -= 1
        if self._room and self._load < self.capacity:
            self._load += 1
            return self._room.popleft()
        return None

    def discard(self, envelope: Envelope) -> bool:
        """Remove a message that has not begun; return True if it had been admitted, so that it must be `ended`."""
        if envelope in self._room:
            self._room.remove(envelope)
            return False
        if envelope in self.in_turn:
            self.in_turn.remove(envelope)
            return True
        return False

    def drain(self) -> Iterator[Envelope]:
        """Take out every message that has not begun."""
        while self.in_turn:
            self._load -= 1
            yield self.in_turn.popleft()
        while self._room:
            yield self._room.popleft()
