"""One connection as two systems see it: calls under way in both directions, credit, cancels, references. It knows no socket.

Frames come in through `receive`; frames go out through the `write` it is given, which never waits. Whoever owns the connection says when
it is `lost`. Every call gets exactly one answer, so its entry lives from the call to the answer even if nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from actors.cell import Cell
from actors.credit import ReceiveWindow, SendWindow
from actors.deadline import Expired, within
from actors.directory import DIRECTORY, DIRECTORY_WINDOW, Directory, Found
from actors.errors import ActorError, ActorNotFound, ConnectionLost, Malformed, MessageRejected, OneWayFailed, TooLarge
from actors.mailbox import Envelope
from actors.memory import Memory
from actors.portable import from_wire, to_wire
from actors.reference import ActorRef
from actors.schema import Form, Message, messages_of
from actors.supervision import NEVER
from actors.values import Array, Packed
from actors.wire import (
    Call,
    Cancel,
    Credit,
    Encoded,
    Failed,
    Frame,
    Hello,
    OneWay,
    Packet,
    Payload,
    Reply,
    Report,
    encode,
    payload,
)

SMALL = 64 << 10
"""Bytes up to which a message is copied when it is sent, so that nobody waits until it has been written."""


class Home(Protocol):
    """What a connection needs from its own system."""

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
        """Default deadline."""
        ...

    @property
    def memory(self) -> Memory:
        """The transport to its own actors."""
        ...

    def cell(self, name: str) -> Cell:
        """The actor of a name."""
        ...

    def reference(self, address: str, name: str) -> ActorRef:
        """A reference to an actor of the system at `address`, empty for this one."""
        ...

    def report(self, what: str, error: BaseException) -> None:
        """A message without reply failed."""
        ...


Write = Callable[[Encoded, "asyncio.Future[None] | None"], None]
"""Hands a frame over to be written in order. The future, if given, is done once its buffers are not needed any more."""


class _Sent:
    """A message on its way to the other side. `done` is its result, or the moment in which its sender may go on."""

    __slots__ = ("done", "encoded", "message", "number", "target", "window")

    def __init__(self, target: str, message: Message, window: SendWindow[_Sent], encoded: Encoded, number: int | None = None) -> None:
        self.target = target
        self.message = message
        self.window = window
        self.encoded = encoded
        self.number = number
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Peer:
    """The transport to the system at the other end of one connection.

    Args:
        home: the system at this end.
        write: takes the frames that go out.
        address: of the other system if it was dialed, otherwise empty.
        label: what errors call it.
    """

    def __init__(self, home: Home, write: Write, *, address: str, label: str) -> None:
        self.address = address
        self.label = label
        self.timeout = home.timeout
        self.limit = 0
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: ConnectionLost | None = None
        self._home = home
        self._write = write
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Sent] = {}
        self._windows: dict[str, SendWindow[_Sent]] = {DIRECTORY: SendWindow(DIRECTORY_WINDOW)}
        self._found: dict[str, asyncio.Task[Found]] = {}
        self._received = {DIRECTORY: ReceiveWindow("the directory", DIRECTORY_WINDOW)}
        self._running: dict[int, tuple[Cell, Envelope]] = {}
        self._exported: set[str] = set()
        self._uncredited: dict[str, int] = {}
        self._directory = Cell(
            "the directory", "Directory", self._build_directory, messages_of(Directory), capacity=DIRECTORY_WINDOW, restart=NEVER
        )

    def _build_directory(self) -> Directory:
        return Directory(self._reachable, self._admit)

    async def start(self) -> None:
        """Lets messages in; call it before the first frame is received."""
        await self._directory.start()

    # Sending: what references use.

    async def call(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """See `Transport.call`."""
        number = next(self._numbers)
        window = self._window(target)
        encoded = self._encoded(message.arguments, arguments, Call, number, target, message.name)
        sent = _Sent(target, message, window, encoded, number)
        self._calls[number] = sent
        if window.submit(sent):
            self._write(sent.encoded, None)
        try:
            return await within(timeout, sent.done)
        except (asyncio.CancelledError, Expired):
            self._abandon(sent, number)
            raise

    async def send(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> None:
        """See `Transport.send`."""
        window = self._window(target)
        encoded = self._encoded(message.arguments, arguments, OneWay, target, message.name)
        sent = _Sent(target, message, window, encoded)
        if window.submit(sent):
            self._write_one_way(sent)
        try:
            await within(timeout, sent.done)
        except (asyncio.CancelledError, Expired):
            window.discard(sent)
            encoded.detach()  # the caller may change the arrays now
            raise

    async def watch(self, target: str) -> str:
        """See `Transport.watch`."""
        reason: str = await self.call(DIRECTORY, messages_of(Directory)["watch"], (target,), None)
        return reason

    async def stop(self, target: str) -> None:
        """See `Transport.stop`."""
        raise MessageRejected(
            f"{target!r} at {self.label} can be stopped by its own system only; give it a message that makes it stop itself"
        )

    async def find(self, target: str) -> Found:
        """Asks for an actor.

        Raises:
            ActorNotFound, ActorStopped: it is not there.
        """
        if target not in self._windows:
            self._window(target)
            return await asyncio.shield(self._found[target])
        found: Found = await self.call(DIRECTORY, messages_of(Directory)["find"], (target,), None)
        return found

    def _window(self, target: str) -> SendWindow[_Sent]:
        """The window of an actor. It is asked for when the first message to the actor is sent; messages wait in it meanwhile."""
        if self.closed is not None:
            raise _again(self.closed)
        if target not in self._windows:
            self._windows[target] = SendWindow()
            self._found[target] = asyncio.create_task(self._ask(target))
            self._found[target].add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._windows[target]

    async def _ask(self, target: str) -> Found:
        window = self._windows[target]
        try:
            found: Found = await self.call(DIRECTORY, messages_of(Directory)["find"], (target,), None)
        except ActorError as error:
            self._windows.pop(target, None)
            self._fail(window.drain(), error)
            raise
        self._release(window.grant(found.window))
        return found

    def _encoded(self, form: Form, values: tuple[Any, ...], kind: Callable[..., Frame], *fields: Any) -> Encoded:
        packed = form.pack(values)
        refs = [self._export(ref) for ref in packed.refs]
        try:
            encoded = encode(Packet(kind(*fields, payload(packed.body, packed.arrays, refs)), packed.arrays))
        except TooLarge as error:
            raise MessageRejected(f"{form.label}: {error}") from None
        if encoded.size > self.limit:
            raise MessageRejected(f"{form.label}: a message of {encoded.size} bytes; {self.label} takes at most {self.limit}")
        return encoded.joined() if encoded.size <= SMALL else encoded

    def _release(self, sent: Iterable[_Sent]) -> None:
        for one in sent:
            if one.number is None:
                self._write_one_way(one)
            else:
                self._write(one.encoded, None)

    def _write_one_way(self, sent: _Sent) -> None:
        self._uncredited[sent.target] = self._uncredited.get(sent.target, 0) + 1
        if sent.encoded.buffers:
            self._write(sent.encoded, sent.done)
        else:
            self._write(sent.encoded, None)
            sent.done.set_result(None)

    def _abandon(self, sent: _Sent, number: int) -> None:
        if sent.window.discard(sent):
            self._calls.pop(number, None)
        elif number in self._calls:
            sent.encoded.detach()  # the caller may change the arrays now
            self._put(Cancel(number))

    def _put(self, frame: Frame) -> None:
        self._write(encode(Packet(frame, [])), None)

    # References.

    def _export(self, ref: ActorRef) -> tuple[str, str]:
        """How a reference is written to the other side."""
        transport = ref._transport
        if transport is self._home.memory:
            self._exported.add(ref._name)
            return self._home.advertised, ref._name
        if transport is self or (self.address and transport.address == self.address):
            return ".", ref._name
        if not transport.address:
            raise MessageRejected(
                f"{ref} lives in a system that does not listen; it can be reached over its own connection only, and not be passed on to "
                f"{self.label}. Let its system listen"
            )
        return transport.address, ref._name

    def _import(self, address: str, name: str) -> ActorRef:
        if address == "":
            return ActorRef(self, name)
        return self._home.reference("" if address == "." else address, name)

    def _reachable(self, name: str) -> Cell:
        """The actor of a name, as far as the other side may know of it."""
        if not (self._home.listens or name in self._exported):
            raise ActorNotFound(f"no actor named {name!r} can be reached over this connection")
        return self._home.cell(name)

    def _admit(self, name: str, cell: Cell) -> int:
        return self._received.setdefault(name, ReceiveWindow(cell.label, cell.mailbox.capacity)).size

    # Receiving.

    def receive(self, packet: Packet) -> None:
        """Takes one frame of the other side.

        Raises:
            WireError: the other side breaks the rules; the connection must be closed.
        """
        _RECEIVERS[type(packet.frame)](self, packet.frame, packet.arrays)

    def _on_hello(self, frame: Hello, arrays: list[Array]) -> None:
        self.limit = frame.limit
        if not self.greeted.done():
            self.greeted.set_result(None)

    def _on_call(self, frame: Call, arrays: list[Array]) -> None:
        window = self._arrived(frame.target)
        if frame.id in self._running:
            raise Malformed(f"call {frame.id} was begun twice")
        try:
            cell, message, arguments = self._opened(frame, arrays)
        except ActorError as error:
            window.answered()
            self._put(Failed(frame.id, to_wire(error)))
            return
        envelope = _Incoming(self, frame.id, window, message, arguments)
        self._running[frame.id] = (cell, envelope)
        cell.accept(envelope)

    def _on_one_way(self, frame: OneWay, arrays: list[Array]) -> None:
        window = self._arrived(frame.target)
        try:
            cell, message, arguments = self._opened(frame, arrays)
        except ActorError as error:
            self._one_way_ended(frame.target, frame.method, window, error)
            return
        cell.accept(_IncomingOneWay(self, frame.target, window, message, arguments))

    def _arrived(self, target: str) -> ReceiveWindow:
        window = self._received.get(target)
        if window is None:
            raise Malformed(f"a message to {target[:200]!r}, which the other side never asked for")
        window.arrived()
        return window

    def _opened(self, frame: Call | OneWay, arrays: list[Array]) -> tuple[Cell, Message, tuple[Any, ...]]:
        cell = self._reachable(frame.target) if frame.target else self._directory
        message = cell.messages.get(frame.method)
        if message is None:
            raise MessageRejected(f"{cell.label} answers no message {frame.method[:200]!r}; it answers: {', '.join(cell.messages)}")
        return cell, message, self._unpacked(message.arguments, frame.payload, arrays)

    def _unpacked(self, form: Form, value: Payload, arrays: list[Array]) -> tuple[Any, ...]:
        refs = [self._import(*ref) for ref in value.refs]
        return form.unpack(Packed(value.body, arrays, refs))

    def _on_reply(self, frame: Reply, arrays: list[Array]) -> None:
        sent = self._settled(frame.id)
        if sent.done.done():
            return
        try:
            sent.done.set_result(self._unpacked(sent.message.result, frame.payload, arrays)[0])
        except ActorError as error:
            sent.done.set_exception(error)

    def _on_failed(self, frame: Failed, arrays: list[Array]) -> None:
        sent = self._settled(frame.id)
        if not sent.done.done():
            sent.done.set_exception(from_wire(frame.failure, f"{sent.message.label} at {self.label}"))

    def _settled(self, number: int) -> _Sent:
        sent = self._calls.pop(number, None)
        if sent is None:
            raise Malformed(f"an answer to call {number}, which is not under way")
        self._release(sent.window.grant(1))
        return sent

    def _on_cancel(self, frame: Cancel, arrays: list[Array]) -> None:
        running = self._running.get(frame.id)
        if running is not None:  # otherwise the answer is on its way
            cell, envelope = running
            cell.cancel(envelope)

    def _on_credit(self, frame: Credit, arrays: list[Array]) -> None:
        under_way = self._uncredited.get(frame.target, 0)
        if not 0 < frame.count <= under_way:
            raise Malformed(f"credit for {frame.count} messages to {frame.target[:200]!r}; {under_way} are under way")
        self._uncredited[frame.target] = under_way - frame.count
        self._release(self._windows[frame.target].grant(frame.count))

    def _on_report(self, frame: Report, arrays: list[Array]) -> None:
        what = f"{frame.method[:200]} of {frame.target[:200]} at {self.label}"
        self._home.report(what, from_wire(frame.failure, what))

    # Ends of handlers.

    def answer(self, number: int, window: ReceiveWindow, message: Message, value: Any) -> None:
        """A handler returned."""
        try:
            encoded = self._encoded(message.result, (value,), Reply, number)
        except ActorError as error:
            self.answer_failed(number, window, error)
            return
        if self._ended(number, window):
            encoded.detach()  # the next handler may change the arrays
            self._write(encoded, None)

    def answer_failed(self, number: int, window: ReceiveWindow, error: BaseException) -> None:
        """A handler raised."""
        if self._ended(number, window):
            self._put(Failed(number, to_wire(error)))

    def _ended(self, number: int, window: ReceiveWindow) -> bool:
        del self._running[number]
        window.answered()
        return self.closed is None

    def _one_way_ended(self, target: str, method: str, window: ReceiveWindow, error: BaseException | None) -> None:
        credit = window.ended()
        if self.closed is not None:
            return
        if error is not None:
            self._put(Report(target, method, to_wire(error)))
        if credit:
            self._put(Credit(target, credit))

    # The end of the connection.

    async def answered(self) -> None:
        """Waits until all that the other side has asked for is answered. Call it when the actors have ended."""
        tasks = [envelope.task for _, envelope in self._running.values() if envelope.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def lost(self, why: str, *, orderly: bool) -> None:
        """The connection has ended: everything under way over it fails, and what it asked for is cancelled."""
        if self.closed is not None:
            return
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
        error = self.closed = ConnectionLost(self.label, now, why)
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()
        self._fail(list(self._calls.values()), error)
        for window in self._windows.values():
            self._fail(window.drain(), error)
        for cell, envelope in list(self._running.values()):
            cell.cancel(envelope)
        if not orderly:
            self._report_uncertain(error)
        await self._directory.stop("its connection was lost")

    def _fail(self, sent: Iterable[_Sent], error: ActorError) -> None:
        for one in sent:
            if one.number is not None:
                self._calls.pop(one.number, None)
            if not one.done.done():
                one.done.set_exception(_again(error))

    def _report_uncertain(self, error: ConnectionLost) -> None:
        for target, count in self._uncredited.items():
            if count:
                self._home.report(f"{count} messages without reply to {target} at {self.label}, delivered or not,", error)


class _Incoming(Envelope):
    """A call of the other side."""

    __slots__ = ("_number", "_peer", "_window")

    def __init__(self, peer: Peer, number: int, window: ReceiveWindow, message: Message, arguments: tuple[Any, ...]) -> None:
        super().__init__(message, arguments)
        self._peer, self._number, self._window = peer, number, window

    def reply(self, value: Any) -> None:
        self._peer.answer(self._number, self._window, self.message, value)

    def fail(self, error: BaseException) -> None:
        self._peer.answer_failed(self._number, self._window, error)


class _IncomingOneWay(Envelope):
    """A message without reply of the other side."""

    __slots__ = ("_peer", "_target", "_window")

    def __init__(self, peer: Peer, target: str, window: ReceiveWindow, message: Message, arguments: tuple[Any, ...]) -> None:
        super().__init__(message, arguments)
        self._peer, self._target, self._window = peer, target, window

    def reply(self, value: Any) -> None:
        self._peer._one_way_ended(self._target, self.message.name, self._window, None)

    def fail(self, error: BaseException) -> None:
        self._peer._one_way_ended(self._target, self.message.name, self._window, error)


def _again(error: ActorError) -> ActorError:
    """The same error for one more caller: each adds its own traceback."""
    return type(error)(*error.args)


def one_way_failed(what: str, error: BaseException) -> OneWayFailed:
    """The error that `on_error` is given."""
    failed = OneWayFailed(f"{what} failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


_RECEIVERS: dict[type[Frame], Callable[[Peer, Any, list[Array]], None]] = {
    Hello: Peer._on_hello,
    Call: Peer._on_call,
    OneWay: Peer._on_one_way,
    Reply: Peer._on_reply,
    Failed: Peer._on_failed,
    Cancel: Peer._on_cancel,
    Credit: Peer._on_credit,
    Report: Peer._on_report,
}
