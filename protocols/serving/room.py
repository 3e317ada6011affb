"""How large all models of one owner may be together, at one part of a worker."""

from __future__ import annotations

import math
from collections import Counter

from protocols.errors import TooLarge
from protocols.mpc.program import Program

OWNER_LIMIT = 1 << 32
"""The most bytes of weights of all models of one owner at a server, or at the provider."""


def weight_bytes(program: Program) -> int:
    """Return the bytes of all weights of a program in the ring."""
    return 8 * sum(math.prod(shape) for shape in program.weights)


class Room:
    """Bytes of weights that each owner has placed. Owners without a certificate, processes of one user, are one owner."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, owner: str, size: int) -> None:
        """Count a model, before anything is allocated for it.

        Raises:
            TooLarge: all models of this owner together would be; nothing was counted.
        """
        taken = self._taken[owner]
        if taken + size > OWNER_LIMIT:
            who = f"the owner {owner!r}" if owner else "owners without a certificate together"
            raise TooLarge(
                f"the model has {size >> 20} MiB of shared weights, and {who} may have {OWNER_LIMIT >> 20} MiB at a worker, of which"
                f" {taken >> 20} MiB are taken: stop a model first"
            )
        self._taken[owner] = taken + size

    def give(self, owner: str, size: int) -> None:
        """Give back what a model took that was counted and is gone."""
        self._taken[owner] -= size
        if not self._taken[owner]:
            del self._taken[owner]
