"""Child processes that never outlive their parent.

A child is started as `python -m module args...`, in a session of its own so that Ctrl-C in a terminal goes to the parent only. Its
standard input stays open as long as the parent lives: the first line is a secret and the number of the parent, and the end of it tells
the child to end. Its standard output says `ready ADDRESS` when it can be used. What it logs, if it calls `log_to_parent`, appears in the
log of the parent: callers are told little of an error in a handler, and the rest must not be lost with the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import secrets
import select
import signal
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from actors.errors import ChildFailed

TAIL = 40
"""Lines of a child's output that are kept for error messages."""
LINE_LIMIT = 1 << 16
LOOK_EVERY = 1.0
"""Seconds between two looks whether the parent is still there."""
SILENT_WITHIN = 2.0
"""Seconds after its end that a child's output may still take to arrive."""
SECRET_BYTES = 32
LOG = "log "
"""How a line of a child's standard error begins that is a line of its log: level, logger and text follow, as JSON."""


class _Output(asyncio.SubprocessProtocol):
    """What a child writes, line by line, and its end."""

    def __init__(self, name: str) -> None:
        self._name = name
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._partial = {1: b"", 2: b""}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._partial[fd] + data).split(b"\n")
        self._partial[fd] = rest[-LINE_LIMIT:]
        for line in lines:
            self._hear(fd, line)

    def _hear(self, fd: int, line: bytes) -> None:
        text = line[-LINE_LIMIT:].decode(errors="replace").rstrip()
        if fd == 1 and text.startswith("ready ") and not self.ready.done():
            self.ready.set_result(text.removeprefix("ready "))
        elif fd == 2 and text.startswith(LOG):
            self._log(text.removeprefix(LOG))
        elif text:
            self.tail.append(text)

    def _log(self, line: str) -> None:
        try:
            level, logger, text = json.loads(line)
        except ValueError:  # cut off, or no line of `log_to_parent`
            self.tail.append(line)
            return
        self.tail.append(text)
        logging.getLogger(logger).log(level, "%s: %s", self._name, text)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd in self._partial:
            self._hear(fd, self._partial.pop(fd))
        if not self._partial and not self.silent.done():
            self.silent.set_result(None)
        if fd == 1 and not self.ready.done():
            self.ready.set_exception(EOFError())
            self.ready.exception()  # there may be nobody who waits for it

    def process_exited(self) -> None:
        self.exited.set_result(None)


class ChildProcess:
    """A process started by this one. Made by `start`; ended by `stop`, or with the `async with` block.

    Attributes:
        address: what it said after `ready`.
        secret: 32 random bytes that it was told, and nobody else.
    """

    def __init__(self, name: str, transport: asyncio.SubprocessTransport, output: _Output) -> None:
        self.address = ""
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self._name = name
        self._transport = transport
        self._output = output

    @staticmethod
    async def start(module: str, *args: str, ready_within: float = 20.0) -> ChildProcess:
        """Start `python -m module args...` and wait until it is ready.

        It loads the same libpython as this process does, whatever LD_LIBRARY_PATH says.

        Args:
            module: run as `__main__` by the same Python.
            *args: its command line.
            ready_within: seconds until it must have said `ready`.

        Raises:
            ChildFailed: it ended, or was late; with the last lines that it wrote.
        """
        command = (sys.executable, "-m", module, *args)
        name = f"python -m {' '.join((module, *args))}"
        loop = asyncio.get_running_loop()
        protocol = functools.partial(_Output, name)
        transport, output = await loop.subprocess_exec(protocol, *command, start_new_session=True, env=_environment())
        child = ChildProcess(name, transport, output)
        try:
            await child._await_ready(ready_within)
        except BaseException:
            await child.stop(grace=0)
            raise
        return child

    async def _await_ready(self, within: float) -> None:
        self._stdin.write(f"{self.secret.hex()} {os.getpid()}\n".encode())
        try:
            async with asyncio.timeout(within):
                self.address = await self._output.ready
        except TimeoutError:
            raise self._failed(f"did not say 'ready ADDRESS' within {within:g} s") from None
        except EOFError:
            await asyncio.wait([self._output.exited, self._output.silent], timeout=SILENT_WITHIN)
            raise self._failed(f"ended with code {self.returncode} before it was ready") from None

    def _failed(self, what: str) -> ChildFailed:
        return ChildFailed(f"{self._name}: {what}; its last lines:\n{self.tail or '(it wrote nothing)'}")

    @property
    def _stdin(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    @property
    def tail(self) -> str:
        """The last lines that it wrote to its standard output and error."""
        return "\n".join(self._output.tail)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._transport.get_returncode()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._transport.get_pid()

    async def wait(self) -> int:
        """Wait until it has ended; return its `returncode`."""
        await asyncio.shield(self._output.exited)
        return cast(int, self.returncode)

    async def stop(self, grace: float = 5.0) -> None:
        """End it: close its standard input, after `grace` seconds terminate it, after as long again kill it; at once if cancelled."""
        stopping = asyncio.create_task(self._stop(grace))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
            await stopping
            raise

    async def _stop(self, grace: float) -> None:
        self._stdin.close()
        for insist in (self._transport.terminate, self._transport.kill):
            await asyncio.wait([self._output.exited], timeout=grace)
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    insist()
        await self.wait()
        await asyncio.wait([self._output.silent], timeout=SILENT_WITHIN)  # a grandchild may hold its pipes open
        self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<ChildProcess {self._name}, pid {self.pid}, returncode {self.returncode}>"


def _environment() -> dict[str, str]:
    """Return the environment of a child: ours, with the folder of our libpython first in LD_LIBRARY_PATH if that is set.

    A program that has this Python inside, such as R, may have put folders there for itself. A Python with a shared library would find in
    them the libpython of another installation, which its own modules do not fit.
    """
    environment, library = dict(os.environ), sysconfig.get_config_var("INSTSONAME") or ""
    homes = (sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib"))
    own = next((home for home in homes if library.startswith("libpython") and os.path.isfile(os.path.join(home, library))), None)
    if own is not None and (folders := environment.get("LD_LIBRARY_PATH")):
        environment["LD_LIBRARY_PATH"] = os.pathsep.join((own, folders))
    return environment


async def told_to_end() -> None:
    """Wait until this process is told to end by SIGINT or SIGTERM, or the task is cancelled."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    installed = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread, or not this platform
            loop.add_signal_handler(number, told.set)
            installed.append(number)
    try:
        await told.wait()
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


# The child's side.


@functools.cache
def _told() -> tuple[bytes, int]:
    """Read what the parent of this process told it: a secret, and its own number. Block until it is there."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n") and len(line) <= LINE_LIMIT:
        line += byte
    try:
        secret, parent = line.decode().split()
        told = bytes.fromhex(secret), int(parent)
    except ValueError:
        told = b"", 0
    if len(told[0]) != SECRET_BYTES:
        raise ChildFailed("no secret came on standard input; this program is started by a ChildProcess of another one")
    return told


def started_by_parent() -> bytes:
    """Return the secret that the parent of this process told it: in the first line of standard input.

    Reads standard input without a buffer, and blocks until the line is there. Call it before anything else reads standard input.

    Raises:
        ChildFailed: there is no such line; this process was not started by a `ChildProcess`.
    """
    return _told()[0]


def log_to_parent() -> None:
    """Send what this process logs to the log of its parent, from level WARNING on if nothing else was set."""
    logging.getLogger().addHandler(_ToParent())


class _ToParent(logging.Handler):
    """Writes each record in one line to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{LOG}{json.dumps([record.levelno, record.name, self.format(record)])}", file=sys.stderr, flush=True)


async def exit_with_parent(grace: float = 5.0) -> None:
    """Return when the parent has closed standard input or has died, however it died. Then end the program.

    If it has not ended `grace` seconds later, it is ended. That also holds while the event loop is busy or blocked.

    Raises:
        ChildFailed: this process was not started by a `ChildProcess`.
    """
    _, parent = _told()
    loop, gone = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: we are ending already
            loop.call_soon_threadsafe(gone.set)

    threading.Thread(target=_watch_parent, args=(parent, tell, grace), daemon=True, name="parent").start()
    await gone.wait()


def _watch_parent(parent: int, tell: Callable[[], None], grace: float) -> None:
    """Wait for the end of standard input; look for the parent as well, in case somebody else holds the pipe open."""
    adopted_by = os.getppid()  # the parent, or what started us for it, or init if the parent has died already
    while os.getppid() == adopted_by and (adopted_by == parent or _lives(parent)):
        readable, _, _ = select.select([0], [], [], LOOK_EVERY)
        if readable and not os.read(0, 4096):
            break
    tell()
    threading.Event().wait(grace)
    os._exit(1)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        return True
    return True
