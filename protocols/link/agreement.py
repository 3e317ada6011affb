"""Whether a client sent both servers the same masked input, known to both before either gives anything away.

A client that sends m to one server and m + d to the other has them add up z = x o W + d o W_1 with one server's half of the weights in it,
which no clamp of m - lambda takes out. The seal of `seal.py` finds this as well, but only the client is shown the seals.

Both servers send BLAKE3(m) in front of their first message (`run.drive`): 32 bytes each way, no round, beside what `Cost` counts. A
program that has no round, one linear layer of which the outputs are told, has no message that could carry it; an answer of such a program
is a linear function of the weights anyway. A program with `ClampedInput` has three rounds at least.

The digest is not keyed and needs not be: what a client could gain is to have two different m pass, and that is a collision, which a key
that the servers share would not make harder than 2^128. Nor does it tell anybody anything. The
other server has m, unless the client lied. To who reads the link between the servers m is uniform, as long as it does not know lambda; the
provider, which does, and reads that link (without TLS) has seen more there already: what is opened is under masks that the provider made.
"""

from __future__ import annotations

from hmac import compare_digest

import numpy as np
from blake3 import blake3

from protocols.errors import Altered
from protocols.mpc.parties.exchange import Ring


def digest(m: Ring) -> Ring:
    """Return the BLAKE3 of the shape and the words of a masked input, as 4 ring words."""
    hashed = blake3(np.array([m.ndim, *m.shape], "<u8").tobytes())
    hashed.update(np.ascontiguousarray(m, "<u8").data.cast("B"))
    return np.frombuffer(hashed.digest(), "<u8").astype(np.uint64)


def checked(mine: Ring, arrays: list[Ring]) -> list[Ring]:
    """Compare what both were sent, and return the other server's first message without the digest that stands in front of it.

    Args:
        mine: the digest of what this server received.
        arrays: the message, its first array the digest of what the other server received.

    Raises:
        Altered: the other server received another masked input.
    """
    if not arrays or not compare_digest(mine.tobytes(), arrays[0].tobytes()):
        raise Altered(
            "the two servers were sent different masked inputs, so no share of an answer was given: a client must send the same to both. "
            "If this one did, something on the way was altered; ask again, and use wss:// between machines"
        )
    return arrays[1:]
