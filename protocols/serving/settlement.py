"""What a server says to the crypto provider: how a ticket ended, that it leaves, and, after a loss of their connection, whether a model is
still shared.
"""

from __future__ import annotations

from abc import abstractmethod

from actors import Actor, message
from protocols.authority.membership import SERVER


class Settlement(Actor):
    """The provider, as the servers know it."""

    @message(reentrant=True, by=SERVER)
    @abstractmethod
    async def settle(self, model: bytes, request: bytes, part: int, party: int, answered: bool) -> None:
        """Settle a part of a request that has ended at a server: its share was released, or it was not and never will be."""

    @message(reentrant=True, by=SERVER)
    @abstractmethod
    async def leaving(self, model: bytes, party: int) -> None:
        """Begin no more requests, as a server has been told to end; return when those under way have ended."""

    @message(reentrant=True, by=SERVER)
    @abstractmethod
    async def knows(self, model: bytes) -> bool:
        """Whether the model of this identifier is still shared. A provider that was started again knows none."""
