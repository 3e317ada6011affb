"""What a server tells the crypto provider when a ticket has been used: the only message from the one to the other."""

from __future__ import annotations

from abc import abstractmethod

from actors import Actor, message


class Settlement(Actor):
    """The provider, as the servers know it."""

    @message(reentrant=True)
    @abstractmethod
    async def settle(self, authority: bytes, request: bytes, part: int, party: int, answered: bool) -> None:
        """A part of a request has ended at a server: its share was released, or it was not and never will be."""
