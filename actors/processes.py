"""Child processes that never outlive their parent.

A child is started as `python -m module args...`, in a session of its own so that Ctrl-C in a terminal goes to the parent only. Its
standard input stays open as long as the parent lives: the first line is a secret, and the end of it tells the child to end. Its
standard output says `ready ADDRESS` when it can be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from actors.errors import ChildFailed

TAIL = 40
"""Lines of a child's output that are kept for error messages."""
LINE_LIMIT = 1 << 16
SECRET_BYTES = 32


class ChildProcess:
    """A process started by this one. Made by `start`; ended by `stop`, or with the `async with` block.

    Attributes:
        address: what it said after `ready`.
        secret: 32 random bytes that it was told, and nobody else.
    """

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.address = ""
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self._process = process
        self._name = name
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._draining = [asyncio.create_task(self._drain_output()), asyncio.create_task(self._drain_errors())]

    @staticmethod
    async def start(module: str, *args: str, ready_within: float = 20.0) -> ChildProcess:
        """Starts `python -m module args...` and waits until it is ready.

        Args:
            module: run as `__main__` by the same Python.
            args: its command line.
            ready_within: seconds until it must have said `ready`.

        Raises:
            ChildFailed: it ended, or was late; with the last lines that it wrote.
        """
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", module, *args)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, limit=LINE_LIMIT
        )
        child = ChildProcess(process, f"python -m {' '.join((module, *args))}")
        try:
            await child._await_ready(ready_within)
        except BaseException:
            await child.stop(grace=0)
            raise
        return child

    async def _await_ready(self, within: float) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it ended at once; said below
            self._process.stdin.write(self.secret.hex().encode() + b"\n")
            await self._process.stdin.drain()
        try:
            async with asyncio.timeout(within):
                self.address = await self._ready
        except TimeoutError:
            raise self._failed(f"did not say 'ready ADDRESS' within {within:g} s") from None
        except EOFError:
            await self._process.wait()
            await asyncio.wait(self._draining)
            raise self._failed(f"ended with code {self._process.returncode} before it was ready") from None

    def _failed(self, what: str) -> ChildFailed:
        return ChildFailed(f"{self._name}: {what}; its last lines:\n{self.tail or '(it wrote nothing)'}")

    async def _drain_output(self) -> None:
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            if line.startswith("ready ") and not self._ready.done():
                self._ready.set_result(line.removeprefix("ready ").strip())
            else:
                self._tail.append(line)
        if not self._ready.done():
            self._ready.set_exception(EOFError())
            self._ready.exception()

    async def _drain_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in _lines(self._process.stderr):
            self._tail.append(line)

    @property
    def tail(self) -> str:
        """The last lines that it wrote to its standard output and error."""
        return "\n".join(self._tail)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._process.returncode

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def wait(self) -> int:
        """Waits until it has ended; returns its `returncode`."""
        return await self._process.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """Ends it: closes its standard input, after `grace` seconds terminates it, after as long again kills it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for insist in (self._process.terminate, self._process.kill):
            if not await self._ended(grace):
                with contextlib.suppress(ProcessLookupError):
                    insist()
        await self._process.wait()
        await asyncio.wait(self._draining, timeout=grace or 1.0)  # a grandchild may hold them open
        for task in self._draining:
            task.cancel()
        await asyncio.wait(self._draining)
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.wait_closed()

    async def _ended(self, grace: float) -> bool:
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<ChildProcess {self._name}, pid {self.pid}, returncode {self.returncode}>"


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the limit; the rest comes as the next line
            continue
        if not line:
            return
        yield line.decode(errors="replace").rstrip()


# The child's side.


@functools.cache
def started_by_parent() -> bytes:
    """The secret that the parent of this process told it: the first line of standard input.

    Reads standard input without a buffer, and blocks until the line is there. Call it before anything else reads standard input.

    Raises:
        ChildFailed: there is no such line; this process was not started by a `ChildProcess`.
    """
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n") and len(line) <= 2 * SECRET_BYTES:
        line += byte
    try:
        secret = bytes.fromhex(line.decode())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ChildFailed("no secret came on standard input; this program is started by a ChildProcess of another one")
    return secret


async def exit_with_parent(grace: float = 5.0) -> None:
    """Returns when the parent has closed standard input or has died, however it died. Then end the program.

    If it has not ended `grace` seconds later, it is ended. That also holds while the event loop is busy or blocked.
    """
    started_by_parent()
    loop, gone = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: we are ending already
            loop.call_soon_threadsafe(gone.set)

    threading.Thread(target=_watch_parent, args=(os.getppid(), tell, grace), daemon=True, name="parent").start()
    await gone.wait()


def _watch_parent(parent: int, tell: Callable[[], None], grace: float) -> None:
    """Waits for the end of standard input; also looks whether the parent has changed, in case somebody else holds the pipe open."""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 4096):
            break
    tell()
    threading.Event().wait(grace)
    os._exit(1)
