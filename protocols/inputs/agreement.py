"""Whether a client sent both servers the same masked input, known to both before either gives anything away.

A client that sends m to one server and m + d to the other has them add up z = x o W + d o W_1 with one server's half of the weights in it,
which no clamp of m - lambda takes out. The seal of `seal.py` finds this as well, but only the client is shown the seals.

Both servers send SHA-256(m) with their first message. It is not keyed and needs not be: what a client could gain is to have two different m
pass, and that is a collision, which a key that the servers share would not make harder than 2^128. Nor does it tell anybody anything. The
other server has m, unless the client lied. To who reads the link between the servers m is uniform, as long as it does not know lambda; the
provider, which does, and reads that link (without TLS) has seen more there already: what is opened is under masks that the provider made.
"""

from __future__ import annotations

import hashlib
from hmac import compare_digest

import numpy as np

from protocols.errors import Altered
from protocols.exchange import Party, Ring, exchange


def digest(m: Ring) -> Ring:
    """SHA-256 of the shape and the words of a masked input, as 4 ring words."""
    hashed = hashlib.sha256(np.array([m.ndim, *m.shape], "<u8").tobytes())
    hashed.update(np.ascontiguousarray(m, "<u8").data.cast("B"))
    return np.frombuffer(hashed.digest(), "<u8").astype(np.uint64)


async def same_input(me: Party, m: Ring) -> Ring:
    """The masked input, if the other server received the same. **Rounds**: 1, beside others. **Bytes**: 32 in each direction.

    Adversary: a client that does what it likes, servers that are semi-honest.

    Raises:
        Altered: the other server received another one.
    """
    mine = digest(m)
    theirs = (await exchange({me.other: mine}, awaiting={me.other}))[me.other]
    if not compare_digest(mine.tobytes(), theirs.tobytes()):
        raise Altered(
            "the two servers were sent different masked inputs, so no share of an answer was given: a client must send the same to both. If "
            "this one did, something on the way was altered; ask again, and use wss:// between machines"
        )
    return m
