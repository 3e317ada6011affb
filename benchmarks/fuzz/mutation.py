"""Mutations without guidance, and the loop that runs a target and watches time and memory. Knows nothing of what targets read."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SLOWEST = 1.0
"""Seconds of a processor that one input may take."""
GROWTH = 64 << 20
"""Bytes by which the process may grow, all inputs together."""
EVERY = 32
"""Inputs after which the size of the process is looked at; it is the largest since the first."""
LONGEST = 1 << 16
"""Bytes of an input."""
MARKS = b"\x00\x01\x7f\x80\x90\x9f\xa0\xc0\xc1\xc4\xc6\xc7\xc9\xca\xcb\xcc\xcf\xd3\xd4\xd9\xdb\xdc\xdd\xde\xdf\xff"
NUMBERS = (-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))


class Fault(Exception):
    """An input did what none may do."""

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(what)
        self.data = data


def mutated(draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Draw a seed, and alter it at one to sixteen places."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        place, kind = draw.randrange(len(data) + 1), draw.randrange(9)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + 1] = bytes((draw.choice(MARKS),))
        elif kind == 2:
            del data[place : place + draw.randrange(1, 9)]
        elif kind == 3:
            data[place:place] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 4:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            data[place : place + draw.randrange(40)] = other[start : start + draw.randrange(1, 40)]
        elif kind == 5:
            data[place : place + 8] = struct.pack(draw.choice(("<q", ">q")), draw.choice(NUMBERS))
        elif kind == 6:
            data[place:place] = data[place : place + draw.randrange(1, 64)] * draw.choice((1, 2, 100))
        elif kind == 7 and len(data) >= 4:
            data[:4] = struct.pack("<I", len(data) - 4)  # the length of a header is right again
        elif kind == 8:
            del data[place:]
    return bytes(data[:LONGEST])


@dataclass
class Watch:
    """Runs inputs one after the other, and looks at what each took.

    Args:
        run: takes an input; raises only if there is a fault.
        limit: seconds of a processor for one of them.

    Attributes:
        runs, seconds: how many, and processor time of all.
        slowest: processor time of the slowest one.
    """

    run: Callable[[bytes], None]
    limit: float = SLOWEST
    runs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    before: int = 0

    def __call__(self, data: bytes) -> None:
        """Run one.

        Raises:
            Fault: it raised something, was too slow, or the process has grown too large.
        """
        if not self.before:
            self.before = memory(anew=True)
        started = time.process_time()
        try:
            self.run(data)
        except Exception as error:
            raise Fault(data, f"raised {type(error).__name__}: {error}") from error
        took = time.process_time() - started
        self.runs += 1
        self.seconds += took
        self.slowest = max(self.slowest, took)
        if took > self.limit:
            raise Fault(data, f"took {took:.2f} s of a processor; at most {self.limit:g} s are allowed")
        if self.runs % EVERY == 1 and self.grown > GROWTH:
            raise Fault(data, f"after {self.runs} inputs the process has grown by {self.grown >> 20} MiB; {GROWTH >> 20} MiB are allowed")

    @property
    def grown(self) -> int:
        """Bytes by which the process was larger at its largest than before."""
        return memory() - self.before if self.before else 0


def memory(*, anew: bool = False) -> int:
    """Return the largest resident size of this process so far, in bytes; on Linux so far since it was asked for anew."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS; on Linux it is that of whoever has started us
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def search(watch: Watch, seeds: Sequence[bytes], seed: int, *, runs: int | None = None, seconds: float | None = None) -> None:
    """Run all seeds, and mutations of them until there were enough runs or it took long enough.

    Raises:
        Fault: one of them did what none may do.
    """
    draw, end = random.Random(seed), None if seconds is None else time.process_time() + seconds
    for one in seeds:
        watch(one)
    while (runs is None or watch.runs < runs) and (end is None or time.process_time() < end):
        watch(mutated(draw, seeds))
