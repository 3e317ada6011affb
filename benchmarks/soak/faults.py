"""The faults, and what each needs. One at a time; each is over when its coroutine returns, and then the service has to heal."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import glob
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak import enclosure
from benchmarks.soak.asking import Clients
from benchmarks.soak.supervised import Supervised

DISK = 8
"""Mebibytes of the file system of each worker's folder, where it has one of its own."""
LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"
CLOCKS = (-1200, -60, 60, 1200)
"""Seconds by which clocks are wrong. Certificates are valid from some time before they are made on."""


def faketime() -> Path | None:
    """Return the library that makes clocks wrong, if it is installed."""
    found = glob.glob(LIBRARIES)
    return Path(found[0]) if found else None


@dataclass
class Stage:
    """What faults happen to."""

    workers: list[Supervised]
    clients: Clients
    draw: random.Random
    enclosed: bool
    clocks: bool

    def one(self) -> tuple[int, Supervised]:
        """Draw a worker."""
        number = self.draw.randrange(len(self.workers))
        return number, self.workers[number]


async def kill(stage: Stage) -> str:
    """Kill -9 of a worker; over when it is ready again."""
    _, worker = stage.one()
    worker.kill()
    await worker.ready()
    return worker.name


async def kill_all(stage: Stage) -> str:
    """Kill -9 of all three at once."""
    for worker in stage.workers:
        worker.kill()
    await asyncio.gather(*(worker.ready() for worker in stage.workers))
    return "all"


async def freeze(stage: Stage) -> str:
    """SIGSTOP of a worker for some seconds."""
    _, worker = stage.one()
    seconds = stage.draw.choice((2, 6, 12))
    worker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        worker.signal(signal.SIGCONT)
    return f"{worker.name}, {seconds} s"


async def partition(stage: Stage) -> str:
    """All packets to and from a worker vanish for some seconds."""
    number, worker = stage.one()
    seconds = stage.draw.choice((2, 6, 12))
    enclosure.cut(number)
    try:
        await asyncio.sleep(seconds)
    finally:
        enclosure.plug(number)
    return f"{worker.name}, {seconds} s"


async def full_disk(stage: Stage) -> str:
    """No byte is left on the file system of a worker for some seconds."""
    _, worker = stage.one()
    ballast = worker.state / "ballast"
    try:
        await asyncio.to_thread(_fill, ballast)
        await asyncio.sleep(stage.draw.choice((2, 5)))
    finally:
        ballast.unlink(missing_ok=True)
    return worker.name


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            for _ in range((DISK << 20) // size + 1 if size > 1 else 4096):
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break


async def clock_jump(stage: Stage) -> str:
    """The clock of a worker jumps, and back after some seconds."""
    _, worker = stage.one()
    seconds = stage.draw.choice(CLOCKS)
    assert worker.clock is not None
    file = worker.clock[0]
    _write(file, f"{seconds:+d}")
    try:
        await asyncio.sleep(5)
    finally:
        _write(file, "+0")
    return f"{worker.name}, {seconds:+d} s"


def _write(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text + "\n")
    os.replace(beside, file)


async def vanish(stage: Stage) -> str:
    """A client is killed in the middle of what it does; a new one comes."""
    return await stage.clients.replace(stage.draw)


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        bring: does it, and returns to whom.
        weight: how often it is drawn, beside the others.
        needs: what a machine needs for it; empty: nothing.
    """

    bring: Callable[[Stage], Awaitable[str]]
    weight: int
    needs: str = ""


FAULTS = {
    "kill": Fault(kill, 3),
    "kill all": Fault(kill_all, 1),
    "freeze": Fault(freeze, 2),
    "partition": Fault(partition, 2, "namespaces"),
    "full disk": Fault(full_disk, 2, "namespaces"),
    "clock jump": Fault(clock_jump, 2, "namespaces and libfaketime"),
    "client vanishes": Fault(vanish, 2),
}


def possible(stage: Stage) -> tuple[dict[str, Fault], dict[str, str]]:
    """Return the faults that this machine can bring, and of the others what they need."""
    there = {"": True, "namespaces": stage.enclosed, "namespaces and libfaketime": stage.enclosed and stage.clocks}
    can = {name: fault for name, fault in FAULTS.items() if there[fault.needs]}
    return can, {name: fault.needs for name, fault in FAULTS.items() if name not in can}
