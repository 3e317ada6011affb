"""How large a message may be: what a system takes, and what the one at the other end does."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from actors.guard.structure import HEADER_LIMIT

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.messages.reference import ActorRef

MESSAGE_LIMIT = 1 << 30
"""Bytes of the largest message that a system takes, unless it is told otherwise."""
LEAST_LIMIT, MOST_LIMIT = HEADER_LIMIT, 1 << 40


def message_limit(limit: int) -> int:
    """Return a limit of messages in bytes, checked: from 1 MiB, which a header may have, to 1 TiB.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of that range.
    """
    try:
        whole = operator.index(limit)
    except TypeError:
        whole = None
    if whole is None or isinstance(limit, bool):
        raise TypeError(f"message_limit={limit!r} is not an integer; give the bytes of the largest message that is taken")
    if not LEAST_LIMIT <= whole <= MOST_LIMIT:
        raise ValueError(f"message_limit={whole}: from {LEAST_LIMIT} (1 MiB) to {MOST_LIMIT} (1 TiB) bytes are possible")
    return whole


async def largest_message(ref: Actor | ActorRef) -> int:
    """How many bytes a message to an actor may have: what its system has said in its greeting. Connects if there is no connection.

    Raises:
        ConnectFailed: nobody answers there.
    """
    from actors.connection.dialed import Dialed  # noqa: PLC0415  the command line reads the limits alone, to show its help
    from actors.connection.peer import Peer  # noqa: PLC0415
    from actors.messages.reference import ActorRef  # noqa: PLC0415

    transport = ref._transport if isinstance(ref, ActorRef) else None
    if isinstance(transport, Dialed):
        transport = await transport.peer()
    return transport.limit if isinstance(transport, Peer) else MOST_LIMIT
