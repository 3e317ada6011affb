"""References within one process: messages are checked and copied as a network would, and the very errors are raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.errors import MessageRejected
from actors.messages.deadline import Expired, within
from actors.running.cell import Cell
from actors.running.mailbox import Envelope

if TYPE_CHECKING:
    from actors.messages.schema import Message


class Memory:
    """The transport to the actors of this system.

    Args:
        find: the cell of a name; raises `ActorNotFound` or `ActorStopped`.
        report: is told of messages without reply that failed: what it was, and the error.
        timeout: default deadline in seconds.
    """

    def __init__(self, find: Callable[[str], Cell], report: Callable[[str, BaseException], None], *, timeout: float | None) -> None:
        self.address = ""
        self.timeout = timeout
        self._find = find
        self._report = report

    async def call(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """See `Transport.call`."""
        cell = self._find(target)
        envelope = _LocalCall(_checked(cell, message), message.arguments.transfer(arguments))
        cell.accept(envelope)
        try:
            return await within(timeout, envelope.result)
        except (asyncio.CancelledError, Expired):
            cell.cancel(envelope)
            raise

    async def send(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> None:
        """See `Transport.send`."""
        cell = self._find(target)
        envelope = _LocalOneWay(_checked(cell, message), message.arguments.transfer(arguments), cell.label, self._report)
        cell.accept(envelope)
        if envelope.settled:
            return
        envelope.room = asyncio.get_running_loop().create_future()
        try:
            await within(timeout, envelope.room)
        except (asyncio.CancelledError, Expired):
            if not envelope.settled:
                envelope.wanted = False
                cell.cancel(envelope)
            raise

    async def watch(self, target: str) -> str:
        """See `Transport.watch`."""
        return await asyncio.shield(self._find(target).ended)

    async def stop(self, target: str) -> None:
        """See `Transport.stop`."""
        await self._find(target).stop("it was stopped")


def _checked(cell: Cell, message: Message) -> Message:
    """Return the message as the actor's own class has it, which may be a subclass of that of the reference."""
    found = cell.messages.get(message.name)
    if found is None:
        raise MessageRejected(f"{cell.label} answers no message {message.name!r}; it answers: {', '.join(cell.messages)}")
    return found


class _LocalCall(Envelope):
    """A call from within this process."""

    __slots__ = ("result",)

    def __init__(self, message: Message, arguments: tuple[Any, ...]) -> None:
        super().__init__(message, arguments)
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def reply(self, value: Any) -> None:
        if self.result.done():
            return
        try:
            self.result.set_result(self.message.result.transfer((value,))[0])
        except MessageRejected as error:
            self.result.set_exception(error)

    def fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class _LocalOneWay(Envelope):
    """A message without reply from within this process. It is settled once it was admitted or failed."""

    __slots__ = ("_actor", "_report", "room", "settled", "wanted")

    def __init__(self, message: Message, arguments: tuple[Any, ...], actor: str, report: Callable[[str, BaseException], None]) -> None:
        super().__init__(message, arguments)
        self.settled = False
        self.wanted = True
        self.room: asyncio.Future[None] | None = None
        self._actor = actor
        self._report = report

    def admitted(self) -> None:
        self._settle()

    def reply(self, value: Any) -> None:
        self._settle()

    def fail(self, error: BaseException) -> None:
        self._settle()
        if self.wanted:
            self._report(f"{self.message.label} of {self._actor}", error)

    def _settle(self) -> None:
        self.settled = True
        if self.room is not None and not self.room.done():
            self.room.set_result(None)
