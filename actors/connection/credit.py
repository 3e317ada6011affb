"""How many messages may be under way to one actor over one connection. Both sides of the count; no event loop.

The receiver grants a window, the size of the actor's mailbox, when it is asked for the actor. The sender takes one credit for each message.
It gets one back with the answer of each call, and several at once for messages without reply. So a full mailbox holds up the senders
to that actor, while everything else on the connection goes on.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from actors.errors import Overrun

T = TypeVar("T")


class SendWindow(Generic[T]):
    """The sender's side for one actor. Messages leave in the order in which they were submitted."""

    def __init__(self, free: int = 0) -> None:
        self._free = free
        self._waiting: deque[T] = deque()

    def submit(self, message: T) -> bool:
        """Return whether `message` may be sent now; otherwise keep it until there is credit."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        self._waiting.append(message)
        return False

    def grant(self, count: int) -> list[T]:
        """Add credit; return the messages that may be sent now."""
        self._free += count
        released = []
        while self._free and self._waiting:
            self._free -= 1
            released.append(self._waiting.popleft())
        return released

    def discard(self, message: T) -> bool:
        """Remove a message that is not wanted any more; return False if it is not waiting."""
        try:
            self._waiting.remove(message)
        except ValueError:
            return False
        return True

    def drain(self) -> list[T]:
        """Remove and return all messages that are waiting."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting


class ReceiveWindow:
    """The receiver's side for one actor.

    Args:
        label: of the actor.
        size: how many messages may be under way.
    """

    def __init__(self, label: str, size: int) -> None:
        self.size = size
        self._label = label
        self._under_way = 0
        self._owed = 0
        self._batch = max(1, size // 4)

    def arrived(self) -> None:
        """Count a message that has arrived.

        Raises:
            Overrun: it should not have been sent.
        """
        if self._under_way == self.size:
            raise Overrun(f"more than the {self.size} messages that were allowed are under way to {self._label}")
        self._under_way += 1

    def answered(self) -> None:
        """Count a call that has ended; its answer gives the credit back."""
        self._under_way -= 1

    def ended(self) -> int:
        """Count a message without reply that has ended; return the credit to give back now, 0 for later."""
        self._owed += 1
        if self._owed < self._batch:
            return 0
        owed, self._owed = self._owed, 0
        self._under_way -= owed
        return owed
