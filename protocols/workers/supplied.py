"""A server that is dealt randomness ahead: the messages by which it comes, for predictions and trainings alike."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from actors import message
from protocols.authority.membership import THIRD_PARTY
from protocols.errors import TicketRefused
from protocols.link.threads import Threads
from protocols.mpc.parties.exchange import Party, Ring
from protocols.serving.supply import Supply
from protocols.workers.linked import Linked

MAKES_ITS_OWN = "server 0 makes its half of the randomness by itself"


class Supplied(Linked):
    """One of two servers. For what randomness comes, and who deals it, is for the actor itself to say.

    Args:
        patience: seconds to wait for a message of another worker.
        ahead: the name of the thread for what is done ahead.
    """

    def __init__(self, patience: float, ahead: str) -> None:
        super().__init__(patience, "steps")
        self._ahead = Threads(ahead, 1, precedence=self._steps.precedence)

    async def stopped(self) -> None:
        """End what runs in the background."""
        self._ahead.close()
        await super().stopped()

    async def _supplied(self, me: Party, supply: Supply, pieces: range, dealt: Ring | None) -> None:
        """Take the next pieces: server 0 makes its own, and server 1 is sent them.

        One piece alone is here when this returns, or where `dealt` is None at server 1, it comes in messages of its own, as several do.
        """
        if me.index == 0:
            if dealt is not None:
                raise TicketRefused(MAKES_ITS_OWN)
            if len(pieces) > 1:
                self._background.later(supply.feed(pieces))
            else:
                await supply.feed(pieces)
        elif dealt is not None:
            if len(pieces) > 1:
                raise TicketRefused(f"randomness in {len(pieces)} pieces came in one message")
            await supply.room(pieces.start)
            await supply.add(pieces.start, [dealt], last=True)

    @abstractmethod
    def _supply(self, name: bytes, chunk: bytes, what: str) -> tuple[Party, Supply]:
        """Return a supply to which its third party alone may send; which server this is in it.

        Args:
            name: of the model or the run of training.
            chunk: of the randomness of a model; empty for a run, which has one supply.
            what: was asked for.

        Raises:
            NotAllowed: somebody else has asked.
        """

    def _sent(self, name: bytes, chunk: bytes, what: str) -> Supply:
        me, supply = self._supply(name, chunk, what)
        if me.index == 0:
            raise TicketRefused(MAKES_ITS_OWN)
        return supply

    @message(reentrant=True, by=THIRD_PARTY)
    async def room(self, name: bytes, chunk: bytes, number: int) -> None:
        """Return when there is room for the next piece of a supply."""
        await self._sent(name, chunk, "room").room(number)

    @message(reentrant=True, by=THIRD_PARTY)
    async def segment(self, name: bytes, chunk: bytes, number: int, parts: list[npt.NDArray[np.uint64]], last: bool) -> None:
        """Take a part of what is dealt for a piece; after the `last` one return when it is prepared."""
        await self._sent(name, chunk, "segment").add(number, parts, last=last)
