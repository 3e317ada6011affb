"""What was seen, the bars, and the report."""

from __future__ import annotations

import collections
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soak.asking import Heard
from benchmarks.soak.supervised import Life

LATER = 5.0
"""Seconds beyond its start after which a killed worker's model answers again, at most."""
HEALED = 120.0
"""Seconds within which the service is to be back after each fault."""
SETTLED = 20.0
"""Seconds after which a process has all the memory that it needs to serve."""
GROWTH = 32 << 20
"""Bytes by which a process may grow after that."""
DESCRIPTORS = 4
"""Descriptors by which a worker may have more when all clients have gone than before they came: of its links to others."""


@dataclass(frozen=True)
class Brought:
    """One fault: what kind, to whom, when it began and was over, when the service answered again (None: not in `HEALED` seconds)."""

    kind: str
    whom: str
    began: float
    over: float
    healed: float | None
    start: float = 0.0

    def silence(self, times: Iterable[float]) -> float:
        """Return the longest time without a right answer, from the fault until it had healed, in seconds."""
        end = self.over + HEALED if self.healed is None else self.healed
        inner = [self.began, *(one for one in times if self.began <= one <= end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(inner))


@dataclass
class Findings:
    """All that a soak has seen, for its report."""

    seed: int
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    brought: list[Brought] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)
    quota: int = 0
    limited: str = ""
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Requests of the model with the quota and of the other as each worker has counted them."""
    lives: dict[str, list[Life]] = field(default_factory=dict)
    unasked: dict[str, list[int]] = field(default_factory=dict)
    codes: dict[str, int | None] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    processes: list[str] | None = None
    files: list[str] = field(default_factory=list)
    descriptors: dict[str, tuple[int, int]] = field(default_factory=dict)
    tracebacks: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def growth(self) -> int:
        """The largest growth of a process after it had settled, in bytes."""
        found = [0]
        for life in (one for lives in self.lives.values() for one in lives):
            later = [rss for after, rss, _ in life.seen if after >= SETTLED]
            if later:
                found.append(later[-1] - later[0])
        return max(found)

    def silences(self) -> dict[str, list[float]]:
        """Return the longest silence of each fault, by kind."""
        found: dict[str, list[float]] = collections.defaultdict(list)
        for one in self.brought:
            found[one.kind].append(one.silence(self.heard.times))
        return found

    def after_start(self) -> float:
        """Return the longest silence after one worker was killed, beyond its start, in seconds."""
        return max((one.silence(self.heard.times) - one.start for one in self.brought if one.kind == "kill"), default=0.0)

    def bars(self) -> dict[str, tuple[bool, Any]]:
        """Return for each bar whether it is held, and what was seen."""
        heard, limited = self.heard, self.heard.answered[self.limited]
        lost = sum(one.healed is None for one in self.brought)
        counted = list(self.counted.values())
        given = sum(heard.answered.values())
        after_start, ended = self.after_start(), {name: codes for name, codes in self.unasked.items() if codes}
        more = {name: after - before for name, (before, after) in self.descriptors.items()}
        return {
            "right answers were given": (bool(heard.times), len(heard.times)),
            "faults were brought": (bool(self.brought), len(self.brought)),
            "wrong answers": (heard.wrong == 0, heard.wrong),
            "answers to the wrong client": (heard.misdirected == 0, heard.misdirected),
            "input masks used twice": (heard.twice == 0, f"{heard.twice} of {len(heard.masks)}"),
            "answers beyond the quota": (limited <= self.quota, f"{max(0, limited - self.quota)} ({limited} of {self.quota})"),
            "the quota was reached": (heard.spent[self.limited] > 0, f"{heard.spent[self.limited]} times told so"),
            "counted at no worker beyond the quota": (all(one <= self.quota for one, _ in counted), self.counted),
            "each answer counted at every worker": (
                bool(counted) and all(limited <= one and given <= one + other for one, other in counted),
                f"{given} answers",
            ),
            f"not healed within {HEALED:g} s (an operator was needed)": (lost == 0, lost),
            f"silence after one killed worker beyond its start, at most {LATER:g} s": (after_start <= LATER, f"{after_start:.1f} s"),
            "workers that ended by themselves": (not ended, ended),
            "workers that did not end well at SIGTERM": (all(code == 0 for code in self.codes.values()), self.codes),
            "clients that did not end well": (set(self.clients) <= {"exit 0"}, self.clients),
            "processes left": (not self.processes, "not looked for" if self.processes is None else self.processes),
            "files left": (not self.files, self.files),
            "sockets and files open, more than before the clients": (all(one <= DESCRIPTORS for one in more.values()), more),
            f"growth of a worker after {SETTLED:g} s, at most {GROWTH >> 20} MiB": (
                self.growth <= GROWTH,
                f"{self.growth / (1 << 20):.1f} MiB",
            ),
            "tracebacks in logs": (not any(self.tracebacks.values()), self.tracebacks),
        }

    @property
    def held(self) -> bool:
        """Whether all bars are held, and it ran to its end."""
        return not self.interrupted and all(held for held, _ in self.bars().values())

    def figures(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        heard = self.heard
        quantiles = statistics.quantiles(heard.seconds, n=100) if len(heard.seconds) > 1 else []
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
            "answers": dict(heard.answered),
            "largest error": heard.worst,
            "seconds of an answer, median and 99 %": [round(quantiles[place], 3) for place in (49, 98)] if quantiles else [],
            "queries given up by their clients": heard.given_up,
            "failed queries and connections": dict(heard.failed),
            "examples of failures": heard.why,
            "connections": heard.connected,
            "faults": dict(collections.Counter(one.kind for one in self.brought)),
            "skipped": self.skipped,
            "longest silence after each kind, s": {kind: round(max(found), 1) for kind, found in sorted(self.silences().items())},
            "memory, MiB, of each process: after 20 s, last": {
                name: [
                    [round(rss / (1 << 20)) for rss in (later[0], later[-1])]
                    for life in lives
                    if (later := [rss for after, rss, _ in life.seen if after >= SETTLED])
                ]
                for name, lives in self.lives.items()
            },
            "operator actions": 0,
            "bars": {name: {"held": held, "seen": seen} for name, (held, seen) in self.bars().items()},
        }
