"""Workers in a moment: forked from a process that has imported them once, instead of an interpreter and its imports for each.

A cluster of three takes four seconds of a processor to start, most of them to load the compiled kernels, and a hundred tests start one.
What they run is what `python -m` runs, with its own memory, pipes, session and number; that it starts as a user starts it is for
tests/actors/test_processes.py, tests/flow/test_processes.py, the workers that stay in tests/flow, and the examples.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import socket
import subprocess
import sys
from asyncio import unix_events
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = ("protocols.workers.worker_process", "federated.command")
"""What is forked."""
IMPORTED = ("protocols.workers.worker_process", "federated.sharing", "protocols.demonstration")
"""What the process has imported that is forked; the last two for `federated.command`, which itself would add its commands twice."""


class Forked:
    """What asyncio's transport takes for a `subprocess.Popen`."""

    def __init__(self, pid: int, pipes: list[int | None]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = (
            None if end is None else io.FileIO(end, mode) for end, mode in zip(pipes, ("wb", "rb", "rb"), strict=True)
        )

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(15)

    def kill(self) -> None:
        self.send_signal(9)


class Nursery:
    """The process that forks, and the way to ask it. Made when it is first asked."""

    def __init__(self, imported: tuple[str, ...]) -> None:
        self._imported = imported
        self._asked: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str], streams: list[int | None], **given: Any) -> tuple[Forked, int]:
        """The child, and the reading end of a pipe that tells its return code."""
        with contextlib.ExitStack() as theirs:
            ours: list[int | None] = []
            ends = []
            for number, stream in enumerate(streams):
                mine: int | None = None
                if stream == subprocess.PIPE:
                    read, write = os.pipe()
                    end, mine = (read, write) if number == 0 else (write, read)
                else:
                    end = os.open(os.devnull, os.O_RDWR) if stream == subprocess.DEVNULL else os.dup(number)
                theirs.callback(os.close, end)
                ours.append(mine)
                ends.append(end)
            told, tell = os.pipe()
            theirs.callback(os.close, tell)
            asked = self._ask()
            request = {"arguments": arguments, "environment": given["environment"], "folder": given["folder"], "session": given["session"]}
            socket.send_fds(asked, [json.dumps(request).encode()], [*ends, tell])
            return Forked(int(asked.recv(64)), ours), told

    def _ask(self) -> socket.socket:
        if self._asked is None:
            self._asked, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with child:
                command = [sys.executable, "-P", str(Path(__file__)), str(child.fileno()), *self._imported]  # tests/actors is not actors
                self._process = subprocess.Popen(command, pass_fds=[child.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
        return self._asked

    def begin(self) -> None:
        """Make it now."""
        self._ask()

    def close(self) -> None:
        """End it."""
        if self._asked is not None and self._process is not None:
            self._asked.close()
            self._process.wait()


class _Transport(unix_events._UnixSubprocessTransport):
    """A forked child in the place of a started one."""

    def __init__(self, nursery: Nursery, *args: Any, **kwargs: Any) -> None:
        self._nursery = nursery
        super().__init__(*args, **kwargs)

    def _start(self, args, shell, stdin, stdout, stderr, bufsize, *, env=None, cwd=None, start_new_session=False):
        given = {
            "environment": dict(os.environ if env is None else env),
            "folder": os.fspath(cwd or os.getcwd()),
            "session": start_new_session,
        }
        self._proc, self.told = self._nursery.start([os.fspath(one) for one in args[2:]], [stdin, stdout, stderr], **given)


@contextlib.contextmanager
def forking(modules: tuple[str, ...] | None = None, imported: tuple[str, ...] = IMPORTED) -> Iterator[Nursery | None]:
    """Have event loops fork `modules`, by default what is in `MODULES`, as long as the block lasts; on Linux only, elsewhere they start it.

    They come from one process that has imported what is in `imported`: this is given, or None.
    """
    loops = unix_events._UnixSelectorEventLoop
    start = getattr(loops, "_make_subprocess_transport", None)
    if not hasattr(os, "pidfd_open") or start is None:
        yield None
        return
    nursery = Nursery(imported)

    async def make(loop, protocol, args, shell, stdin, stdout, stderr, bufsize, extra=None, **kwargs):
        plain = {None, subprocess.PIPE, subprocess.DEVNULL}
        known = list(args[:2]) == [sys.executable, "-m"] and args[2] in (MODULES if modules is None else modules) and not shell
        if not known or not plain.issuperset((stdin, stdout, stderr)) or not {"env", "cwd", "start_new_session"}.issuperset(kwargs):
            return await start(loop, protocol, args, shell, stdin, stdout, stderr, bufsize, extra=extra, **kwargs)
        waiter = loop.create_future()
        transport = _Transport(nursery, loop, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs)

        def ended() -> None:
            loop.remove_reader(transport.told)
            code = os.read(transport.told, 64)
            os.close(transport.told)
            transport._process_exited(int(code or b"-9"))

        loop.add_reader(transport.told, ended)
        await waiter
        return transport

    loops._make_subprocess_transport = make
    try:
        yield nursery
    finally:
        loops._make_subprocess_transport = start
        nursery.close()


# The other side.


def serve(asked: socket.socket) -> list[str]:
    """Fork for each request; returns its arguments, in the child only."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([asked, *children], [], [])[0]:
            if ready is not asked:
                pid, tell = children.pop(ready)
                os.write(tell, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                os.close(tell)
                os.close(ready)
                continue
            data, given, _, _ = socket.recv_fds(asked, 1 << 20, 4)
            if not data:
                sys.exit()
            pid = os.fork()
            if not pid:
                return become(json.loads(data), given)
            asked.send(str(pid).encode())
            children[os.pidfd_open(pid)] = pid, given[3]
            for end in given[:3]:
                os.close(end)


def become(request: dict[str, Any], given: list[int]) -> list[str]:
    """Be as started for it."""
    for number, end in enumerate(given[:3]):
        os.dup2(end, number)
    os.closerange(3, 1024)
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path.insert(0, request["folder"])
    return request["arguments"]


def main() -> None:
    """Import what is named behind the number of a socket, and serve that."""
    for name in sys.argv[2:]:
        importlib.import_module(name)
    for name in MODULES:
        sys.modules.pop(name, None)  # it is run anew, as `__main__`
    gc.collect()
    gc.freeze()
    module, *sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
