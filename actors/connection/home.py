"""What a connection needs from the system at its own end, and from whoever writes its frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from actors.connection.wire import Encoded
from actors.guard.limited_log import LimitedLog
from actors.identity import Caller
from actors.identity.proofs import Identity
from actors.messages.reference import ActorRef
from actors.messages.schema import Message
from actors.observing.observer import Observer
from actors.running.cell import Cell
from actors.running.memory import Memory
from actors.running.names import Names

Write = Callable[[Encoded, "asyncio.Future[None] | None"], None]
"""Hands a frame over to be written in order; never waits. The future, if given, is done once its buffers are not needed any more."""


class Home(Protocol):
    """A system, as its connections see it."""

    @property
    def listens(self) -> bool:
        """Whether anybody may connect, and so may reach all its actors."""
        ...

    @property
    def advertised(self) -> str:
        """The address that others reach it at; empty if there is none."""
        ...

    @property
    def timeout(self) -> float | None:
        """Default deadline of a call, in seconds."""
        ...

    @property
    def log(self) -> LimitedLog:
        """Takes the log lines that others can cause."""
        ...

    @property
    def observer(self) -> Observer:
        """Is told what comes of messages from elsewhere."""
        ...

    @property
    def names(self) -> Names:
        """Its own actors."""
        ...

    @property
    def memory(self) -> Memory:
        """The transport to its own actors."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Who this system is on loopback; None if it does not listen there."""
        ...

    @property
    def for_user(self) -> bool:
        """Whether it shows on loopback that it runs for its user."""
        ...

    @property
    def refer(self) -> bool:
        """Whether references from the other side may lead to systems elsewhere."""
        ...

    def check(self, sender: Caller, cell: Cell, message: Message) -> None:
        """Check that `sender` may send a message to an actor; raise `NotAllowed` if not."""
        ...

    def cell(self, name: str) -> Cell:
        """Return the actor of a name; raise `ActorNotFound` or `ActorStopped`."""
        ...

    def reference(self, address: str, name: str) -> ActorRef:
        """Return a reference to an actor of the system at `address`, empty for this one."""
        ...

    def report(self, what: str, error: BaseException) -> None:
        """Report that a message without reply has failed."""
        ...
