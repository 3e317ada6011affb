"""What an aggregator shows of its rounds in metrics."""

from __future__ import annotations

from collections import Counter

from actors.observing.figures import Figure, count, state
from federated.rounds.outcome import Outcome


class RoundFigures:
    """Counts what came of rounds since the aggregator was started."""

    def __init__(self) -> None:
        self._rounds: Counter[str] = Counter()
        self._owners: Counter[str] = Counter()
        self._bytes, self._seconds = 0, 0.0
        self._last: Outcome | None = None

    def add(self, outcome: Outcome) -> None:
        """Count one round more."""
        self._last = outcome
        self._rounds["failed" if outcome.failure is not None else "played"] += 1
        for standing in ("reported", "dropped", "late", "rejected"):
            self._owners[standing] += len(getattr(outcome, standing))
        self._bytes += outcome.bytes
        self._seconds += outcome.seconds

    def figures(self) -> list[Figure]:
        """Return them."""
        found = [
            count("federated_rounds", "rounds since the start, by what came of them", n, outcome=one) for one, n in self._rounds.items()
        ]
        meaning = "owners that were asked in rounds, by what came of them"
        found += [count("federated_owners_asked", meaning, number, standing=one) for one, number in self._owners.items()]
        found.append(count("federated_bytes", "bytes of weights and metrics in rounds", self._bytes))
        found.append(count("federated_seconds", "seconds of all rounds", self._seconds))
        if self._last is not None and self._last.epsilon is not None:
            found.append(state("federated_epsilon", "epsilon that the rounds have spent", self._last.epsilon))
        return found
