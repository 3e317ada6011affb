"""Who is at the other end, as a worker knows it: an actor without messages that lives as long as a process and its connection.

When that of an owner is gone, its models are removed: a name is never taken by somebody who has crashed.
"""

from __future__ import annotations

from actors import Actor, MessageRejected, Surroundings, caller


class Presence(Actor):
    """Here."""


def check_presence(system: Surroundings, presence: Presence) -> None:
    """Refuse a presence that is not of whoever sent the message that is being handled.

    Raises:
        MessageRejected: it is somebody else's, or came over another connection.
    """
    if system.holder(presence) is not caller():
        raise MessageRejected("the presence of an owner comes over the connection by which it sends its other messages")
