"""What the system at the other end of a connection asks of this one: its calls that are running here, and its windows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from actors.connection.credit import ReceiveWindow
from actors.connection.crossing import Crossing
from actors.connection.home import Write
from actors.connection.wire import Packet, encode
from actors.errors import ActorError, AuditUnwritable, Malformed, MessageRejected, RemoteError
from actors.guard.limited_log import LimitedLog
from actors.guard.words import trace
from actors.identity import Caller
from actors.messages.frames import Cancel, Credit, Failed, FailureReport, Frame, Invocation, OneWay, Reply
from actors.messages.portable import is_portable, to_wire
from actors.messages.schema import Message, messages_of
from actors.messages.values import Array
from actors.observing.notes import Notes
from actors.observing.observer import UNKNOWN, Observer
from actors.running.cell import Cell
from actors.running.directory import DIRECTORY, DIRECTORY_WINDOW, Directory
from actors.running.mailbox import Envelope
from actors.supervision import NEVER

log = logging.getLogger(__name__)


class Incoming:
    """The answering side of one connection. Each call gets exactly one answer, cancelled or not.

    Args:
        crossing: turns values into frames and back, and says which actors may be reached.
        write: takes the frames that go out.
        lines: takes what goes into the log of this system.
        observer: is told what comes of each message.

    Attributes:
        caller: who is at the other end, as far as that is known.
    """

    def __init__(self, crossing: Crossing, write: Write, lines: LimitedLog, observer: Observer) -> None:
        self._crossing = crossing
        self._log, self._observer = lines, observer
        self._write = write
        self._closed = False
        self.caller = Caller()
        self._windows = {DIRECTORY: ReceiveWindow("the directory", DIRECTORY_WINDOW)}
        self._running: dict[int, tuple[Cell, Envelope]] = {}
        self._directory = Cell(
            "the directory",
            Directory.__qualname__,
            lambda: Directory(crossing.reachable, self._admit),
            messages_of(Directory),
            capacity=DIRECTORY_WINDOW,
            restart=NEVER,
        )

    async def start(self) -> None:
        """Call it before anything is received."""
        await self._directory.start()

    def _admit(self, name: str, cell: Cell) -> int:
        return self._windows.setdefault(name, ReceiveWindow(cell.label, cell.mailbox.capacity)).size

    # What arrives.

    def on_call(self, frame: Invocation, arrays: list[Array]) -> None:
        """Run the handler of a call, now or when its turn comes."""
        window = self._arrived(frame.target)
        if frame.id in self._running:
            raise Malformed(f"call {frame.id} was begun twice")
        try:
            cell, message, arguments = self._opened(frame, arrays)
            notes = None if cell is self._directory else self._observer.begun(message.label)
        except ActorError as error:
            self._refused(frame, error)
            window.answered()
            self._put(Failed(frame.id, to_wire(error)))
            return
        envelope = _RemoteCall(self, frame.id, window, message, arguments, notes)
        self._running[frame.id] = (cell, envelope)
        cell.accept(envelope)

    def on_one_way(self, frame: OneWay, arrays: list[Array]) -> None:
        """Run the handler of a message without reply, now or when its turn comes."""
        window = self._arrived(frame.target)
        try:
            cell, message, arguments = self._opened(frame, arrays)
        except ActorError as error:
            self._refused(frame, error)
            self.one_way_ended(frame.target, frame.method, window, error)
            return
        cell.accept(_RemoteOneWay(self, frame.target, window, message, arguments))

    def on_cancel(self, frame: Cancel) -> None:
        """Cancel a call whose answer the other side does not want any more; if it is not running, its answer is on its way."""
        running = self._running.get(frame.id)
        if running is not None:
            cell, envelope = running
            cell.cancel(envelope)

    def _arrived(self, target: str) -> ReceiveWindow:
        window = self._windows.get(target)
        if window is None:
            raise Malformed(f"a message to {target[:200]!r}, which the other side never asked for")
        window.arrived()
        return window

    def _opened(self, frame: Invocation | OneWay, arrays: list[Array]) -> tuple[Cell, Message, tuple[Any, ...]]:
        cell = self._crossing.reachable(frame.target) if frame.target != DIRECTORY else self._directory
        message = cell.messages.get(frame.method)
        if message is None:
            raise MessageRejected(f"{cell.label} answers no message {frame.method[:200]!r}; it answers: {', '.join(cell.messages)}")
        if cell is not self._directory:
            self._crossing.check(self.caller, cell, message)
        return cell, message, self._crossing.decoded(message.arguments, frame.payload, arrays)

    def _refused(self, frame: Invocation | OneWay, error: ActorError) -> None:
        """Have a message observed that no handler has seen. Names that its sender has chosen are written down where they are known."""
        label = UNKNOWN
        with contextlib.suppress(ActorError):
            message = self._crossing.reachable(frame.target).messages.get(frame.method)
            label = UNKNOWN if message is None else message.label
        self._observer.refused(self.caller, label, error)

    # Ends of handlers.

    def returned(self, number: int, window: ReceiveWindow, message: Message, value: Any, notes: Notes | None) -> None:
        """Send the result of a handler, once it is written down that it is sent."""
        try:
            encoded = self._crossing.encoded(message.result, (value,), Reply, number)
        except ActorError as error:
            self.failed(number, window, message, error, notes)
            return
        try:
            self._observe(message, None, notes)
        except AuditUnwritable as error:
            self.failed(number, window, message, error, None)
            return
        if self._ended(number, window):
            encoded.detach()  # the next handler may change the arrays
            self._write(encoded, None)

    def failed(self, number: int, window: ReceiveWindow, message: Message, error: BaseException, notes: Notes | None) -> None:
        """Send the error of a handler that has raised or was cancelled."""
        try:
            self._observe(message, error, notes)
        except AuditUnwritable as unwritten:
            error = unwritten
        if self._ended(number, window):
            self._put(Failed(number, to_wire(error)))

    def _observe(self, message: Message, error: BaseException | None, notes: Notes | None) -> None:
        if notes is not None:
            self._observer.ended(self.caller, message.label, notes, error)

    @property
    def under_way(self) -> int:
        """Calls of the other side that are not answered yet."""
        return len(self._running)

    def one_way_ended(self, target: str, method: str, window: ReceiveWindow, error: BaseException | None) -> None:
        """Give credit back, and report the error, if any, of a handler that nobody waits for."""
        credit = window.ended()
        if self._closed:
            return
        if error is not None:
            self._put(FailureReport(target, method, to_wire(error)))
        if credit:
            self._put(Credit(target, credit))

    def one_way(self, message: Message, error: BaseException | None) -> None:
        """Have a message without reply counted."""
        self._observer.one_way(message.label, error)

    def note(self, message: Message, error: BaseException) -> None:
        """Log what the other side is not told: the text and the place of an error that is not portable. Not the arguments."""
        if not isinstance(error, RemoteError) and not is_portable(error):
            text = "%s failed; its caller is told the class of the error only: %s"
            self._log.write(log, logging.ERROR, f"failed {message.label}", text, message.label, trace(error))

    def _ended(self, number: int, window: ReceiveWindow) -> bool:
        del self._running[number]
        window.answered()
        return not self._closed

    def _put(self, frame: Frame) -> None:
        self._write(encode(Packet(frame, [])), None)

    # The end of the connection.

    async def settled(self) -> None:
        """Wait until all calls that are running here have been answered. Call it when the actors have ended."""
        tasks = [envelope.task for _, envelope in self._running.values() if envelope.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def lost(self) -> None:
        """Cancel the calls of the other side after the connection was lost; its messages without reply are handled all the same."""
        self._closed = True
        for cell, envelope in list(self._running.values()):
            cell.cancel(envelope)
        await self._directory.stop("its connection was lost")


class _RemoteCall(Envelope):
    """A call of the other side."""

    __slots__ = ("_incoming", "_number", "_window")

    def __init__(
        self, incoming: Incoming, number: int, window: ReceiveWindow, message: Message, arguments: tuple[Any, ...], notes: Notes | None
    ) -> None:
        super().__init__(message, arguments, incoming.caller)
        self._incoming, self._number, self._window, self.notes = incoming, number, window, notes

    def reply(self, value: Any) -> None:
        self._incoming.returned(self._number, self._window, self.message, value, self.notes)

    def fail(self, error: BaseException) -> None:
        self._incoming.note(self.message, error)
        self._incoming.failed(self._number, self._window, self.message, error, self.notes)


class _RemoteOneWay(Envelope):
    """A message without reply of the other side."""

    __slots__ = ("_incoming", "_target", "_window")

    def __init__(self, incoming: Incoming, target: str, window: ReceiveWindow, message: Message, arguments: tuple[Any, ...]) -> None:
        super().__init__(message, arguments, incoming.caller)
        self._incoming, self._target, self._window = incoming, target, window

    def reply(self, value: Any) -> None:
        self._incoming.one_way(self.message, None)
        self._incoming.one_way_ended(self._target, self.message.name, self._window, None)

    def fail(self, error: BaseException) -> None:
        self._incoming.note(self.message, error)
        self._incoming.one_way(self.message, error)
        self._incoming.one_way_ended(self._target, self.message.name, self._window, error)
