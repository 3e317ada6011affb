"""Who is at the other end, as a worker knows it: an actor without messages that lives as long as a process and its connection.

When that of an owner is gone, its models are removed: a name is never taken by somebody who has crashed. That of a client says by which
connection it asks, and so who it is where answers are counted for each client.
"""

from __future__ import annotations

from actors import Actor


class Presence(Actor):
    """Here."""
