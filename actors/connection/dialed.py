"""References to actors of a system that is reached by its address: connects when needed, and again after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from actors.connection.peer import Peer
from actors.messages.deadline import Expired
from actors.running.directory import Found

if TYPE_CHECKING:
    from actors.messages.schema import Message


class Dialed:
    """The transport to the system at one address. All references to its actors share it, and so one connection.

    Args:
        address: `ws://host:port`.
        dial: opens a connection for this transport; raises `ConnectFailed`.
        timeout: default deadline in seconds.
    """

    def __init__(self, address: str, dial: Callable[[Dialed], Awaitable[Peer]], *, timeout: float | None) -> None:
        self.address = address
        self.timeout = timeout
        self._dial = dial
        self._peer: Peer | None = None
        self._dialing = asyncio.Lock()
        self._waiting = 0

    async def peer(self) -> Peer:
        """Return the connection, opened if there is none. Callers get it in the order in which they asked."""
        if self._peer is not None and self._peer.closed is None and not self._waiting:
            return self._peer
        self._waiting += 1
        try:
            async with self._dialing:
                if self._peer is None or self._peer.closed is not None:
                    self._peer = await self._dial(self)
                return self._peer
        finally:
            self._waiting -= 1

    async def call(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """See `Transport.call`."""
        peer, left = await self._peer_within(timeout)
        return await peer.call(target, message, arguments, left)

    async def send(self, target: str, message: Message, arguments: tuple[Any, ...], timeout: float | None) -> None:
        """See `Transport.send`."""
        peer, left = await self._peer_within(timeout)
        await peer.send(target, message, arguments, left)

    async def _peer_within(self, timeout: float | None) -> tuple[Peer, float | None]:
        """Return the connection, and the seconds that are left."""
        if self._peer is not None and self._peer.closed is None and not self._waiting:
            return self._peer, timeout
        try:
            async with asyncio.timeout(timeout) as deadline:
                peer = await self.peer()
        except TimeoutError:
            raise Expired from None
        end = deadline.when()
        return peer, None if end is None else max(0.0, end - asyncio.get_running_loop().time())

    async def watch(self, target: str) -> str:
        """See `Transport.watch`."""
        return await (await self.peer()).watch(target)

    async def stop(self, target: str) -> None:
        """See `Transport.stop`."""
        await (await self.peer()).stop(target)

    async def find(self, target: str) -> Found:
        """See `Peer.find`."""
        return await (await self.peer()).find(target)
