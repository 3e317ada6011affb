"""What one system counts of the messages that reach it from elsewhere, of bytes and of connections."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from actors.observing.figures import Figure, count

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Seconds up to which messages are counted together, as in a histogram of Prometheus."""
ANSWERED = "answered"
"""The outcome of a message whose handler has returned; all others are the names of errors."""


class Durations:
    """How long the handlers of one message took, from its arrival to the answer.

    Attributes:
        below: for each of `BOUNDS` how many took so long and longer than the bound before; the last: longer than all.
        seconds: of all together.
    """

    def __init__(self) -> None:
        self.below = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.below[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class SystemCounts:
    """Plain numbers, written on the event loop of the system and nowhere else.

    Attributes:
        received, sent: bytes of frames.
        connections: that were opened, by either side.
        messages: by (message, outcome).
        durations: of messages with an answer, by message.
    """

    def __init__(self) -> None:
        self.received = self.sent = self.connections = 0
        self.messages: Counter[tuple[str, str]] = Counter()
        self.durations: dict[str, Durations] = {}

    def answered(self, label: str, outcome: str, seconds: float) -> None:
        """Count a message that asked for an answer."""
        self.messages[label, outcome] += 1
        durations = self.durations.get(label)
        if durations is None:
            durations = self.durations[label] = Durations()
        durations.add(seconds)

    def figures(self) -> Iterator[Figure]:
        """Yield all but the durations."""
        yield count("received_bytes", "bytes of frames that have arrived", self.received)
        yield count("sent_bytes", "bytes of frames that have left", self.sent)
        yield count("connections_opened", "connections that were opened, by either side", self.connections)
        for (label, outcome), number in sorted(self.messages.items()):
            meaning = "messages from elsewhere, by what came of them: answered, or the name of an error"
            yield count("messages", meaning, number, message=label, outcome=outcome)
