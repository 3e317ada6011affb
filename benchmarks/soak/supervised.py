"""A worker, started again when it ends, as systemd would, and what is seen of its process.

Knows the command that a worker is, and nothing of models.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

MOMENT = 0.5
"""Seconds after which a worker that ended is started again."""
READY = 120.0
"""Seconds within which a worker has to start."""


@dataclass
class Life:
    """What was seen of one process of a worker: (seconds since it was ready, bytes resident, descriptors)."""

    ready: float
    seen: list[tuple[float, int, int]] = field(default_factory=list)


class Supervised:
    """One worker and its supervisor.

    Args:
        name: of the node in the cluster file.
        folder: of the cluster file and the keys.
        before: what its command is preceded by.
        clock: the file that says by how much its clock is wrong, and the library that reads it; None: it cannot be made wrong.

    Attributes:
        starts: seconds from each start to `ready`.
        unasked: return codes of processes that ended without being killed by the soak.
        lives: of each of its processes, the last one last.
    """

    def __init__(self, name: str, folder: Path, before: list[str], clock: tuple[Path, Path] | None) -> None:
        self.name, self.folder, self.state = name, folder, folder / f"shares-{name}"
        self.log = folder / f"{name}.log"
        self.clock = clock
        self._before = before
        self._process: Process | None = None
        self._killed = self._ending = False
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.starts: list[float] = []
        self.unasked: list[int] = []
        self.lives: list[Life] = []

    async def start(self) -> None:
        """Start it, and keep it running."""
        self._task = asyncio.create_task(self._supervise())
        await self.ready()

    async def ready(self) -> None:
        """Wait until it is ready."""
        async with asyncio.timeout(READY):
            await self._ready.wait()

    async def _supervise(self) -> None:
        while not self._ending:
            await self._once()
            self._ready.clear()
            if not self._ending:
                await asyncio.sleep(MOMENT)

    async def _once(self) -> None:
        command = [*self._before, sys.executable, "-m", "federated.command", "run", self.name]
        command += ["--cluster", str(self.folder / "cluster.toml"), "--keys", str(self.folder / "keys")]
        environment = dict(os.environ)
        if self.clock is not None:
            file, library = self.clock
            environment |= {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_CACHE_DURATION": "1"}
            environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        started = time.monotonic()
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=log, stdin=DEVNULL, env=environment)
        self._process, self._killed = process, False
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                if line.startswith(b"ready "):
                    self.starts.append(time.monotonic() - started)
                    self.lives.append(Life(time.monotonic()))
                    self._ready.set()
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if not (self._killed or self._ending):
            self.unasked.append(code)

    def look(self) -> None:
        """Note memory and descriptors of the process that runs now."""
        if self._process is not None and self._ready.is_set():
            with contextlib.suppress(psutil.Error):
                process, life = psutil.Process(self._process.pid), self.lives[-1]
                life.seen.append((time.monotonic() - life.ready, process.memory_info().rss, process.num_fds()))

    def kill(self) -> None:
        """Kill -9: the supervisor starts another in a moment."""
        if self._process is not None and self._process.returncode is None:
            self._killed = True
            self._ready.clear()
            self._process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def end(self, within: float = 30.0) -> int | None:
        """End it by SIGTERM; return its return code, None if it had to be killed."""
        self._ending = True
        process = self._process
        if process is None or process.returncode is not None:
            return None if process is None else process.returncode
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            async with asyncio.timeout(within):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                process.kill()
            if self._task is not None:
                await self._task
