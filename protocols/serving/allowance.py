"""What an owner and the crypto provider tell each other of a shared model."""

from __future__ import annotations

import operator

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


class ModelStanding(msgspec.Struct, frozen=True):
    """What one worker says of a model to its owner.

    Attributes:
        requests: that it has counted.
        examples: of them.
        allowance: what the owner has allowed last, at a server its terms only; None: nothing yet.
        waits: why it does not serve the model now; empty: it does.
    """

    requests: int
    examples: int
    allowance: Allowance | None
    waits: str = ""


def allowed(name: str, number: int, least: int) -> int:
    """Return a number that an owner allows, checked before anything is sent.

    Raises:
        ValueError: it is less than `least`, or too large.
        TypeError: it is not an integer.
    """
    try:
        found = operator.index(number)
    except TypeError:
        raise TypeError(f"{name}={number!r} is not an integer") from None
    if not least <= found < 1 << 48:
        raise ValueError(f"{name}={number}; at least {least} is needed, and less than 2^48")
    return found
