"""An actor that computes together with its like at another worker of the cluster: the messages by which their link runs."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from actors import Actor, message
from actors.observing.figures import Figure, count
from protocols.authority.membership import OTHER_SERVER
from protocols.concurrency import Background
from protocols.link.run import Spent
from protocols.link.threads import Threads
from protocols.link.twins import Twins
from protocols.mpc.parties.exchange import Party


class Linked(Actor):
    """One end of links between two workers. What is computed, and who may be at the other end, is for the actor itself to say.

    Args:
        patience: seconds to wait for a message of the other worker.
        threads: the name of the threads for long computations.
    """

    def __init__(self, patience: float, threads: str) -> None:
        self._patience = patience
        self._background = Background()
        self._costs = Spent()
        self._steps = Threads(threads)

    async def stopped(self) -> None:
        """End what runs in the background."""
        self._background.close()
        self._steps.close()

    def _twinned(self, name: bytes, me: Party, peer: Linked) -> Twins:
        """Return this end of a link of a name, which both ends know; the messages of a link wait for no answer."""
        other = peer.with_options(one_way=True)
        return Twins(
            name,
            me,
            deliver=other.deliver,
            give_up=other.give_up,
            threads=self._steps,
            background=self._background,
            patience=self._patience,
            spent=self._costs,
        )

    async def observed(self) -> list[Figure]:
        """Return what computations with the other worker have cost; see `actors.observing.figures`."""
        spent, part = self._costs, type(self).__name__
        return [
            count("computations", "computations with another worker that have ended with a result", spent.computations, part=part),
            count("rounds", "rounds of them", spent.rounds, part=part),
            count("round_sent_bytes", "bytes of payload that they have sent to the other worker", spent.sent, part=part),
            count("round_received_bytes", "bytes of payload that they have received from the other worker", spent.received, part=part),
            count("dealt_bytes", "bytes that were dealt ahead for them", spent.dealt, part=part),
        ]

    @abstractmethod
    def _linked(self, name: bytes, what: str) -> Twins | None:
        """Return the link of a message that the worker at its other end alone may send; None: it has ended meanwhile.

        Args:
            name: of the link.
            what: was asked for.

        Raises:
            NotAllowed: somebody else has sent it.
        """

    @message(reentrant=True, by=OTHER_SERVER)
    def deliver(self, name: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        """Take one round of a computation; of a link that has ended, nothing."""
        self._arrived(name, channel, number, arrays)

    def _arrived(self, name: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        twins = self._linked(name, "deliver")
        if twins is not None:
            twins.inboxes.put(channel, number, arrays)

    @message(reentrant=True, by=OTHER_SERVER)
    def give_up(self, name: bytes, channel: bytes) -> None:
        """Learn that the other worker sends no more for a computation."""
        twins = self._linked(name, "give_up")
        if twins is not None:
            twins.given_up(channel)
