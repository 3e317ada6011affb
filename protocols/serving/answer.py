"""A server's half of an answer."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.link.run import Cost


class Answer(msgspec.Struct, frozen=True):
    """One server's share of an answer, (examples, words), what it cost that server, and its seal. It is told to the client only."""

    share: npt.NDArray[np.uint64]
    cost: Cost
    seal: bytes

    def __repr__(self) -> str:
        return f"Answer({self.cost})"
