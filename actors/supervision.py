"""What happens when an actor fails: how often it is restarted, and what those who watch it are told."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Restart:
    """Rebuild a crashed actor from its constructor arguments, under its name and with the messages that wait for it.

    Args:
        max: how many restarts are allowed ...
        within: ... in so many seconds. One more ends the actor.
    """

    max: int
    within: float

    def __post_init__(self) -> None:
        if self.max < 0 or not self.within > 0:
            raise ValueError(f"Restart(max={self.max}, within={self.within}): max is at least 0 and within is positive seconds")


NEVER = Restart(0, 1.0)
"""The default: the first crash ends the actor."""


@dataclass(frozen=True)
class Terminated:
    """The end of a watched actor.

    Attributes:
        ref: the reference that was watched.
        reason: a sentence: stopped by whom, crashed with what, or which connection was lost.
    """

    ref: Any
    reason: str


class RestartBudget:
    """Counts the restarts of one actor in a sliding window. Times are given by the caller, in seconds."""

    def __init__(self, policy: Restart) -> None:
        self.policy = policy
        self._times: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Spend one restart at time `now`; return False if there is none left."""
        while self._times and self._times[0] <= now - self.policy.within:
            self._times.popleft()
        if len(self._times) >= self.policy.max:
            return False
        self._times.append(now)
        return True
