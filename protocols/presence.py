"""The owner of a model as the crypto provider knows it: an actor without messages that lives as long as the owner's process and connection.

When it is gone, its models are removed: a name is never taken by somebody who has crashed.
"""

from __future__ import annotations

from actors import Actor


class Presence(Actor):
    """Here. The provider watches it."""
