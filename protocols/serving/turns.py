"""Who is next where clients wait for the same thing: whoever has the least of it, not whoever asks the most.

A client is who its certificate says; without a certificate each connection is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from actors import Caller
from protocols.errors import Busy

MOST_WAITING = 256
"""How many requests of one client may wait in one line."""
RETRY = 1.0
"""Seconds after which a client that was told "busy" may ask again."""

Client: TypeAlias = str | Caller
"""The common name in a certificate, or a connection that showed none."""


def client_of(sender: Caller | None) -> Client:
    """Return who a message is from, for counting."""
    return "" if sender is None else sender.common_name or sender


def without_name(client: Client) -> bool:
    """Return whether nobody has vouched for a client, so that whoever likes can be any number of them."""
    return not isinstance(client, str)


class Turns:
    """A lock that goes to the client that holds the least, then to one with a certificate, then to the one that has waited longest.

    So a client with a thousand requests in line keeps nobody else waiting longer than one turn, and many connections of nobody come after
    a client with a certificate that holds as little as they do.

    Args:
        held: how much a client holds of what is waited for.
    """

    def __init__(self, held: Callable[[Client], int]) -> None:
        self._held = held
        self._taken = False
        self._whose: Client = ""
        self._lines: dict[Client, deque[tuple[int, asyncio.Future[None]]]] = {}
        self._numbers = itertools.count()

    def others(self, client: Client) -> int:
        """Return how many clients but this one wait in line."""
        return len(self._lines) - (client in self._lines)

    @property
    def clients(self) -> set[Client]:
        """Whose turn it is, and who waits for one."""
        return {*self._lines, self._whose} if self._taken else set()

    @contextlib.asynccontextmanager
    async def turn(self, client: Client) -> AsyncIterator[None]:
        """Wait in line, then have the turn as long as the block lasts.

        Raises:
            Busy: this client has too many requests in line.
        """
        await self._wait(client)
        self._whose = client
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: Client) -> None:
        if not self._taken:
            self._taken = True
            return
        line = self._lines.setdefault(client, deque())
        if len(line) >= MOST_WAITING:
            raise Busy(f"{len(line)} requests of this client wait already", RETRY)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (next(self._numbers), mine)
        line.append(place)
        try:
            await mine
        except BaseException:
            if place in line:
                line.remove(place)
                self._forget_if_empty(client)
            if mine.done() and not mine.cancelled():  # the turn was given to it in the moment in which it was cancelled
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._lines:
            client = min(self._lines, key=lambda one: (self._held(one), without_name(one), self._lines[one][0][0]))
            _, waiting = self._lines[client].popleft()
            self._forget_if_empty(client)
            if not waiting.done():  # else it is cancelled, and does not know it yet
                waiting.set_result(None)
                return
        self._taken = False

    def _forget_if_empty(self, client: Client) -> None:
        if not self._lines.get(client, True):
            del self._lines[client]
