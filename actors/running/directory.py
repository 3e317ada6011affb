"""What a system answers to the other side of a connection besides the messages of its actors. It is an actor like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from actors.actor import Actor, message
from actors.running.cell import Cell

DIRECTORY = ""
"""Its name, which no other actor can have."""
DIRECTORY_WINDOW = 1 << 16
"""How many messages may be under way to it; most of them watch actors."""


class Found(msgspec.Struct, frozen=True):
    """An actor: its class, the names of its messages, and how many may be under way to it over this connection."""

    class_name: str
    messages: list[str]
    window: int


class Directory(Actor):
    """One for each connection.

    Args:
        find: the cell of a name; raises `ActorNotFound` or `ActorStopped`.
        admit: allows the other side to send to an actor; returns how many messages at once.
    """

    def __init__(self, find: Callable[[str], Cell], admit: Callable[[str, Cell], int]) -> None:
        self._find = find
        self._admit = admit

    @message(reentrant=True)
    def find(self, name: str) -> Found:
        """Find an actor, and let the other side send to it."""
        cell = self._find(name)
        return Found(cell.class_name, list(cell.messages), self._admit(name, cell))

    @message(reentrant=True)
    async def watch(self, name: str) -> str:
        """Wait until an actor has ended; return the reason."""
        return await asyncio.shield(self._find(name).ended)
