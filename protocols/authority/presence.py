"""Who is at the other end, as a worker knows it: an actor without messages that lives as long as a process and its connection.

When that of an owner is gone, its models are removed: a name is never taken by somebody who has crashed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors import Actor, MessageRejected, Surroundings, caller
from protocols.concurrency import Background


class Presence(Actor):
    """Here."""


def check_presence(system: Surroundings, presence: Presence) -> None:
    """Refuse a presence that is not of whoever sent the message that is being handled.

    Raises:
        MessageRejected: it is somebody else's, or came over another connection.
    """
    if system.holder(presence) is not caller():
        raise MessageRejected("the presence of an owner comes over the connection by which it sends its other messages")


def while_present(background: Background, system: Surroundings, presence: Presence, forget: Callable[[], None]) -> asyncio.Task[None]:
    """Have something forgotten when who sent the message that is being handled is gone; return what waits for that.

    Whoever forgets it earlier cancels that: it holds all that `forget` does for as long as the sender is there.

    Args:
        background: in which it is watched.
        system: of the worker.
        presence: of the sender, over the connection of its message.
        forget: is called once.

    Raises:
        MessageRejected: see `check_presence`.
    """
    check_presence(system, presence)

    async def watch() -> None:
        await system.watch(presence)
        forget()

    return background.begin(watch())
