"""What an owner and the crypto provider tell each other of a shared model."""

from __future__ import annotations

import msgspec

from protocols.mpc.engine.segments import MEMORY
from protocols.serving.hosting import Terms


class Opening(msgspec.Struct, frozen=True):
    """What the owner needs to share a model: both halves of the one-time masks of the weights."""

    weight_keys: tuple[bytes, bytes]

    def __repr__(self) -> str:
        return "Opening(...)"


class Allowance(msgspec.Struct, frozen=True):
    """How an owner wants to be served: terms, memory for randomness in bytes, examples dealt ahead, seconds that a ticket lives."""

    terms: Terms
    memory: int = MEMORY
    ahead: int = 0
    ticket_lifetime: float = 60.0


class Tally(msgspec.Struct, frozen=True):
    """What has been answered of a model since it was shared."""

    requests: int
    examples: int
