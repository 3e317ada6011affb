"""How the parts of a version become those of the next: seeds that parties tell each other, and what each adds to its part.

Server i draws a seed s_i, which it tells the other server and, of a dataset, the crypto provider or helper. With K = HKDF(s_0, s_1, tag),
of which no server alone can choose anything, and delta_i = PRG(K, i)

    m <- m + delta_0 + delta_1,   lambda_i <- lambda_i + delta_i,   W_0 <- W_0 + delta,   W_1 <- W_1 - delta,

which changes neither x nor W.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocols.mpc.parties.exchange import Party, Ring, exchange
from protocols.mpc.parties.keystream import KeyStream, derive

SEED_SHAPE = (2,)
"""Ring words of a seed."""


async def told(me: Party, seed: bytes | None, *, hears: bool) -> bytes | None:
    """Tell a party one's own seed, if there is one, and return its seed, if it has one.

    **Rounds**: 1. **Bytes**: 16 from each that has a seed.

    Args:
        me: one of the two parties.
        seed: 16 bytes; None: of a party that has none.
        hears: whether the other party has one.
    """
    mine = {} if seed is None else {me.other: np.frombuffer(seed, "<u8").astype(np.uint64)}
    received = await exchange(mine, awaiting={me.other} if hears else set())
    return received[me.other].astype("<u8").tobytes() if hears else None


def joint_key(seeds: Sequence[bytes | None], tag: bytes) -> bytes:
    """Return K, from the seeds of server 0 and server 1. The tag is that of the new version, and used once."""
    first, second = (seed for seed in seeds if seed is not None)
    return derive(first + second, "refresh", tag)


def change(key: bytes, name: str, shape: tuple[int, ...], party: int) -> Ring:
    """Return what a party adds to one of its arrays. It may be the same for all arrays of a name, for the key is of one version only."""
    halves = {f"mask{number}": KeyStream(derive(key, "half", number)) for number in (0, 1)}
    match name:
        case "masked":
            return halves["mask0"].words(shape) + halves["mask1"].words(shape)
        case "mask":
            return halves[f"mask{party}"].words(shape)
        case "mask0" | "mask1":
            return halves[name].words(shape)
        case _:  # shares that are added: a zero share
            zero = KeyStream(derive(key, "zero", name)).words(shape)
            return zero if party == 0 else np.uint64(0) - zero
