"""A deterministic network for tests: runs the coroutines of all parties in lockstep, counts, records, and can drop a party."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import ProtocolError
from protocols.mpc.parties.exchange import Protocol, Received, Ring, Round, Until


class PartyLost(ProtocolError):
    """A party went away before a round in which another awaited its message."""


@dataclass
class Transcript:
    """What happened in a simulated run.

    Attributes:
        results: what each party's protocol returned.
        rounds: how many rounds were needed.
        sent: bytes of payload by (sender, receiver).
        messages: every message in order: (round, sender, receiver, arrays).
    """

    results: dict[int, Any] = field(default_factory=dict)
    rounds: int = 0
    sent: dict[tuple[int, int], int] = field(default_factory=dict)
    messages: list[tuple[int, int, int, list[Ring]]] = field(default_factory=list, repr=False)

    def seen_by(self, party: int) -> list[Ring]:
        """All arrays that a party received, in order: its view of the protocol but for its own randomness."""
        return [array for _, _, receiver, arrays in self.messages if receiver == party for array in arrays]


def simulate(protocols: Mapping[int, Protocol[Any]], *, drop: tuple[int, int] | None = None) -> Transcript:
    """Run one protocol for each party to the end.

    Args:
        protocols: the parties' coroutines by party number.
        drop: (party, round): this party vanishes before that round, counted from 1.

    Raises:
        PartyLost: a party awaited a message from one that vanished, or that did not send what was awaited.
    """
    transcript = Transcript()
    waiting: dict[int, Round] = {}
    answers: dict[int, Received | None] = dict.fromkeys(protocols)
    try:
        while answers:
            for party, answer in answers.items():
                _advance(party, protocols[party], answer, waiting, transcript)
            if not waiting:
                break
            transcript.rounds += 1
            if drop is not None and drop[1] == transcript.rounds:
                waiting.pop(drop[0], None)
            answers = {party: _deliver(party, waiting, transcript) for party in waiting}
            waiting = {}
    finally:
        for protocol in protocols.values():
            protocol.close()
    return transcript


def _advance(party: int, protocol: Protocol[Any], answer: Received | None, waiting: dict[int, Round], transcript: Transcript) -> None:
    try:
        request = protocol.send(answer)
        while isinstance(request, Until):
            request = protocol.send(_at_once(request))
        waiting[party] = request
    except StopIteration as stop:
        transcript.results[party] = stop.value


def _at_once(request: Until) -> Any:
    """Return what a protocol waits for beside the network: here it is always there."""
    try:
        request.ready().__await__().send(None)
    except StopIteration as stop:
        return stop.value
    raise PartyLost("a party waits for something that is not there")


def _deliver(party: int, waiting: Mapping[int, Round], transcript: Transcript) -> Received:
    received: Received = {}
    for sender, count in waiting[party].awaiting.items():
        arrays = waiting[sender].messages.get(party, []) if sender in waiting else []
        if len(arrays) != count:
            raise PartyLost(f"party {party} awaited {count} messages from party {sender} in round {transcript.rounds}, got {len(arrays)}")
        received[sender] = [array.copy() for array in arrays]
        key = (sender, party)
        transcript.sent[key] = transcript.sent.get(key, 0) + sum(array.nbytes for array in arrays)
        transcript.messages.append((transcript.rounds, sender, party, received[sender]))
    return received
