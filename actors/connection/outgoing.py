"""What this system asks of the one at the other end of a connection: calls under way, and the windows they wait for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from actors.connection.credit import SendWindow
from actors.connection.crossing import Crossing
from actors.connection.home import Write
from actors.connection.wire import Encoded, Packet, encode
from actors.errors import ActorError, ConnectionLost, Malformed, MessageRejected
from actors.guard.words import NAME_LIMIT, shown
from actors.messages.deadline import Expired, within
from actors.messages.frames import Cancel, Credit, Failed, FailureReport, Invocation, OneWay, Reply
from actors.messages.portable import from_wire
from actors.messages.schema import Message, messages_of
from actors.messages.values import Array
from actors.running.directory import DIRECTORY, DIRECTORY_WINDOW, Directory, Found


class _Sent:
    """A message on its way. `done` is the result of a call (which has a `number`), or the moment in which its sender may go on."""

    __slots__ = ("done", "encoded", "message", "number", "target", "window")

    def __init__(self, target: str, message: Message, window: SendWindow[_Sent], encoded: Encoded, number: int | None = None) -> None:
        self.target = target
        self.message = message
        self.window = window
        self.encoded = encoded
        self.number = number
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Outgoing:
    """The calling side of one connection. Each call's entry lives until its answer, even if nobody waits for it any more.

    Args:
        crossing: turns values into frames and back.
        write: takes the frames that go out.
        report: is told of messages without reply that failed.
        label: what errors call the other end.
    """

    def __init__(self, crossing: Crossing, write: Write, report: Callable[[str, BaseException], None], label: str) -> None:
        self._crossing = crossing
        self._write = write
        self._report = report
        self._label = label
        self._closed: ConnectionLost | None = None
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Sent] = {}
        self._windows: dict[str, SendWindow[_Sent]] = {DIRECTORY: SendWindow(DIRECTORY_WINDOW)}
        self._asking: dict[str, asyncio.Task[Found]] = {}
        self._uncredited: dict[str, int] = {}
        self._reported: dict[str, int] = {}  # of the uncredited ones, by actor
        self._one_way: set[tuple[str, str]] = set()  # actors and messages that were sent without reply

    async def call(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """See `Transport.call`."""
        number = next(self._numbers)
        window = self._window(target)
        encoded = self._crossing.encoded(message.arguments, arguments, Invocation, number, target, message.name)
        sent = self._calls[number] = _Sent(target, message, window, encoded, number)
        if window.submit(sent):
            self._write(encoded, None)
        try:
            return await within(timeout, sent.done)
        except (asyncio.CancelledError, Expired):
            self._abandon(sent, number)
            raise

    async def send(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> None:
        """See `Transport.send`."""
        window = self._window(target)
        encoded = self._crossing.encoded(message.arguments, arguments, OneWay, target, message.name)
        sent = _Sent(target, message, window, encoded)
        if window.submit(sent):
            self._write_one_way(sent)
        try:
            await within(timeout, sent.done)
        except (asyncio.CancelledError, Expired):
            window.discard(sent)
            encoded.detach()  # the caller may change the arrays now
            raise

    async def find(self, target: str) -> Found:
        """Ask for an actor.

        Raises:
            ActorNotFound, ActorStopped: it is not there.
        """
        if target not in self._windows:
            self._window(target)
            return await asyncio.shield(self._asking[target])
        return await self._found(target)

    async def watch(self, target: str) -> str:
        """See `Transport.watch`."""
        reason: str = await self._ask_directory("watch", target)
        return shown(reason)

    async def _found(self, target: str) -> Found:
        """Ask the other side for an actor; return its description, fit to be shown.

        Raises:
            MessageRejected: no window that an actor can have.
        """
        found: Found = await self._ask_directory("find", target)
        if found.window < 1:
            raise MessageRejected(f"{self._label} gave a window of {found.window} messages for {target!r}; at least 1 is needed")
        return Found(shown(found.class_name, NAME_LIMIT), [shown(name, NAME_LIMIT) for name in found.messages], found.window)

    async def _ask_directory(self, what: str, target: str) -> Any:
        return await self.call(DIRECTORY, messages_of(Directory)[what], (target,), None)

    # Windows.

    def _window(self, target: str) -> SendWindow[_Sent]:
        """Return the window of an actor. It is asked for when the first message to the actor is sent; messages wait in it meanwhile."""
        if self._closed is not None:
            raise _again(self._closed)
        if target not in self._windows:
            self._windows[target] = SendWindow()
            self._asking[target] = asyncio.create_task(self._open_window(target))
            self._asking[target].add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._windows[target]

    async def _open_window(self, target: str) -> Found:
        window = self._windows[target]
        try:
            found = await self._found(target)
        except ActorError as error:
            self._windows.pop(target, None)
            self._asking.pop(target, None)
            self._fail(window.drain(), error)
            raise
        self._release(window.grant(found.window))
        return found

    def _release(self, sent: Iterable[_Sent]) -> None:
        for one in sent:
            if one.number is None:
                self._write_one_way(one)
            else:
                self._write(one.encoded, None)

    def _write_one_way(self, sent: _Sent) -> None:
        self._uncredited[sent.target] = self._uncredited.get(sent.target, 0) + 1
        self._one_way.add((sent.target, sent.message.name))
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
            self._write(encode(Packet(Cancel(number), [])), None)

    # What comes back.

    def on_reply(self, frame: Reply, arrays: list[Array]) -> None:
        """Give the result of a handler to its caller."""
        sent = self._answered(frame.id)
        if sent.done.done():
            return
        try:
            sent.done.set_result(self._crossing.decoded(sent.message.result, frame.payload, arrays)[0])
        except ActorError as error:
            sent.done.set_exception(error)

    def on_failed(self, frame: Failed) -> None:
        """Give the error of a handler to its caller."""
        sent = self._answered(frame.id)
        if not sent.done.done():
            sent.done.set_exception(from_wire(frame.failure, f"{sent.message.label} at {self._label}"))

    def on_credit(self, frame: Credit) -> None:
        """Messages without reply have ended."""
        under_way = self._uncredited.get(frame.target, 0)
        if not 0 < frame.count <= under_way:
            raise Malformed(f"credit for {frame.count} messages to {frame.target[:200]!r}; {under_way} are under way")
        self._uncredited[frame.target] = under_way - frame.count
        self._reported[frame.target] = max(0, self._reported.get(frame.target, 0) - frame.count)
        self._release(self._windows[frame.target].grant(frame.count))

    def on_report(self, frame: FailureReport) -> None:
        """Report a message without reply that has failed. It is believed of one that was sent and has not ended, once for each."""
        reported, under_way = self._reported.get(frame.target, 0), self._uncredited.get(frame.target, 0)
        if reported >= under_way or (frame.target, frame.method) not in self._one_way:
            raise Malformed(f"a report on {frame.method[:200]!r} of {frame.target[:200]!r}, which is not under way")
        self._reported[frame.target] = reported + 1
        what = f"{frame.method} of {frame.target} at {self._label}"
        self._report(what, from_wire(frame.failure, what))

    def _answered(self, number: int) -> _Sent:
        sent = self._calls.pop(number, None)
        if sent is None:
            raise Malformed(f"an answer to call {number}, which is not under way")
        self._release(sent.window.grant(1))
        return sent

    # The end of the connection.

    def lost(self, error: ConnectionLost, *, orderly: bool) -> None:
        """Everything under way fails. If the other side did not close in order, messages without reply may be lost, too."""
        self._closed = error
        self._fail(list(self._calls.values()), error)
        for window in self._windows.values():
            self._fail(window.drain(), error)
        for target, count in self._uncredited.items():
            if count and not orderly:
                self._report(f"{count} messages without reply to {target} at {self._label}, delivered or not,", error)

    def _fail(self, sent: Iterable[_Sent], error: ActorError) -> None:
        for one in sent:
            if one.number is not None:
                self._calls.pop(one.number, None)
            if not one.done.done():
                one.done.set_exception(_again(error))


def _again(error: ActorError) -> ActorError:
    """Copy an error for one more caller: each adds its own traceback."""
    return type(error)(*error.args)
