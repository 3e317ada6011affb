"""The clients as the soak sees them: starts them, reads what they say, compares answers that were wrong with those of others."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import sys
import time
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.oracle import BOUND, Oracle, question

NEAR = 64
"""How many of the last queries of each other client a wrong answer is compared with."""


@dataclass
class Heard:
    """What clients said.

    Attributes:
        answered: right and wrong answers, by model.
        wrong, misdirected: how many were wrong; how many of these are the right answer to another client's query.
        times: when answers came, monotonic seconds.
        seconds: how long right answers took.
        worst: the largest error of a right answer.
        failed: errors, by their class; `why` has an example of each.
        masks, twice: digests of input masks that were given, and how many were given again.
        spent: how often a client was told that a quota is spent, by model.
    """

    answered: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: int = 0
    misdirected: int = 0
    times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    worst: float = 0.0
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    why: dict[str, str] = field(default_factory=dict)
    masks: set[str] = field(default_factory=set)
    twice: int = 0
    spent: collections.Counter[str] = field(default_factory=collections.Counter)
    given_up: int = 0
    connected: int = 0


@dataclass
class _Client:
    process: Process
    reading: asyncio.Task[None]
    number: int = 0  # of its last query that was answered


class Clients:
    """All clients of a soak.

    Args:
        folder: of the cluster file, the keys and the oracle.
        names: of the certificates; one process each.
        models: both names.
        seed: of what they ask.
    """

    def __init__(self, folder: Path, names: list[str], models: tuple[str, str], seed: int) -> None:
        self._folder, self._names, self._models, self._seed = folder, names, models, seed
        self._oracle = Oracle.load(folder / "oracle.npz")
        self._running: dict[int, _Client] = {}
        self._last: dict[int, int] = {}
        self._count = 0
        self.heard = Heard()
        self.codes: collections.Counter[str] = collections.Counter()

    async def start(self) -> None:
        """Start them all."""
        for _ in self._names:
            await self._new()

    async def _new(self) -> None:
        number = self._count
        self._count += 1
        name = self._names[number % len(self._names)]
        command = [sys.executable, "-m", "benchmarks.soak.client", str(self._folder), name, *self._models]
        command += ["--seed", str(self._seed), "--client", str(number)]
        with (self._folder / "clients.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=log, env=dict(os.environ))
        self._running[number] = _Client(process, asyncio.create_task(self._read(number, process)))

    async def _read(self, client: int, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.endswith(b"\n"):  # the last line of one that was killed may be cut off
                self._hear(client, json.loads(line))

    def _hear(self, client: int, said: dict[str, Any]) -> None:
        heard = self.heard
        if "answered" in said:
            heard.answered[said["answered"]] += 1
            self._last[client] = said["number"]
            if "wrong" in said:
                heard.wrong += 1
                heard.misdirected += self._of_another(client, np.asarray(said["wrong"]))
            else:
                heard.times.append(time.monotonic())
                heard.seconds.append(said["seconds"])
                heard.worst = max(heard.worst, said["error"])
        for mask in said.get("masks", ()):
            heard.twice += mask in heard.masks
            heard.masks.add(mask)
        if "failed" in said:
            heard.failed[said["failed"]] += 1
            heard.why.setdefault(said["failed"], said["why"])
        if "spent" in said:
            heard.spent[said["spent"]] += 1
        heard.given_up += "given_up" in said
        heard.connected += "connected" in said

    def _of_another(self, client: int, found: np.ndarray[Any, Any]) -> bool:
        """Whether what one client got is the answer to what another has asked lately."""
        for other, last in self._last.items():
            for number in range(max(1, last - NEAR), last + NEAR):
                if other != client:
                    expected = self._oracle.answer(question(self._seed, other, number))
                    if any(np.abs(found - row).max(axis=-1).min() <= BOUND for row in expected):
                        return True
        return False

    @property
    def alive(self) -> bool:
        """Whether any of them runs."""
        return any(one.process.returncode is None for one in self._running.values())

    async def replace(self, draw: random.Random) -> str:
        """Kill -9 of a client, and a new one in its place."""
        number = draw.choice(sorted(self._running))
        gone = self._running.pop(number)
        gone.process.kill()
        await gone.process.wait()
        await gone.reading
        await self._new()
        return f"client {number}"

    async def end(self, within: float = 60.0) -> None:
        """Tell them to end, and wait; whoever does not is killed, and counted."""
        for one in self._running.values():
            if one.process.stdin is not None:
                one.process.stdin.close()
        try:
            async with asyncio.timeout(within):
                for one in self._running.values():
                    await one.process.wait()
        except TimeoutError:
            self.codes["did not end"] += 1
        finally:
            for one in self._running.values():
                if one.process.returncode is None:
                    one.process.kill()
                code = await one.process.wait()
                await one.reading
                self.codes[f"exit {code}"] += 1
            self._running.clear()
