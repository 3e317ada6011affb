"""Lines that others can cause: some at once, then one a minute of each kind. How many were left out is said in the next."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

BURST = 10
"""Lines of one kind that may come at once."""
EVERY = 60.0
"""Seconds after which one more may come."""
KINDS = 256
"""Kinds that are counted apart."""


class Limited:
    """Allows lines by their kind.

    Args:
        clock: seconds that only grow.

    Attributes:
        counts: by kind, how many there were, written or not.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, _Allowance] = {}
        self.counts: Counter[str] = Counter()

    def take(self, kind: str, at_once: int = BURST) -> int | None:
        """Count a line; return how many of its kind were left out before it, or None if it is left out, too.

        Args:
            kind: what is counted together. Beyond `KINDS` of them all others count as one, "".
            at_once: lines of this kind that may come before one must wait.
        """
        lines = self._lines.get(kind)
        if lines is None:
            if len(self._lines) >= KINDS:
                kind = ""
            lines = self._lines.setdefault(kind, _Allowance(at_once, self._clock()))
        self.counts[kind] += 1
        return lines.take(self._clock())


class LimitedLog(Limited):
    """What one system writes about those who connect to it."""

    def write(self, log: logging.Logger, level: int, kind: str, text: str, *args: object, at_once: int = BURST) -> None:
        """Write a line, or count it if there were too many of its kind.

        Args:
            log: where it goes.
            level: of `logging`.
            kind: what is counted together; chosen by the program, never by a stranger.
            text: as for `logging`, with `%s` for each of `args`.
            *args: already fit to be shown.
            at_once: lines of this kind that may come before one must wait.
        """
        left_out = self.take(kind, at_once)
        if left_out is None:
            return
        if left_out:
            text, args = f"{text} (%d lines like this were left out)", (*args, left_out)
        log.log(level, text, *args, extra={"event": kind, "fields": {"left_out": left_out} if left_out else {}})


class _Allowance:
    """The lines of one kind."""

    def __init__(self, at_once: int, now: float) -> None:
        self._most = self._free = float(at_once)
        self._since, self._left_out = now, 0

    def take(self, now: float) -> int | None:
        """How many were left out before this one; None if this one is left out, too."""
        self._free = min(self._most, self._free + (now - self._since) / EVERY)
        self._since = now
        if self._free < 1:
            self._left_out += 1
            return None
        self._free -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out
