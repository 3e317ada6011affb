"""Truncation, sign and selection on one opening (Section 2.3 of the design), and truncation alone.

Both open c = Z' + r modulo 2^64 once, Z' = Z + 2^(drop + w - 1). With R = r >> drop, h the top bit of r, kappa = 2^(64 - drop) (1 - c_63)
and A = (c >> drop) - 2^(w-1):

    t = A - R + kappa h = floor(Z / 2^drop) + u,  P[u = 1] = (Z mod 2^drop) / 2^drop           (step 2)
    D = [t >= 0]                                                                                (step 3, `comparison.py`)
    D t = e t + (1 - 2 e) (A rho - rho R + kappa rho h),  e = D ^ rho opened                    (step 6)

**Needs** |Z| <= 2^(drop + w - 1) - 2^(drop + 1): proved or calibrated when the model is shared.
Adversary: semi-honest, no two parties collude. **Leaks** nothing: c, the node's bits and e are masked by fresh uniform values.

Outside of that: u = 1 if and only if Z mod 2^drop > c mod 2^drop, so a server that shows c to a client that is told t (a model that
ends in a rectifier or a curve) narrows down the bits that were rounded away: with 200 answers to one input to 1 / 156 of their range
(measured; 1 / 50 and better tested), where a client alone has 1 / 14, from the mean of u. These bits are below 2^-13 of an output; a
model that ends in a linear layer tells them to every client, one that gives labels to nobody. Rounding that is exact (floor) would tell
neither; it would cost a comparison of `drop` bits more, and a `Truncate` two rounds more. It is not built.
"""

from __future__ import annotations

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.operations import comparison
from protocols.mpc.operations.instructions import Select, Truncate
from protocols.mpc.parties.exchange import Party, Ring, open_bits, open_sum
from protocols.mpc.parties.material import Field, Material, packed


def truncate_fields(elements: int) -> list[Field]:
    """R is the mask of the opening; R and h are dealt as shares."""
    return [Field("r", elements), Field("words", 2 * elements, dealt=True)]


def select_fields(op: Select, elements: int) -> list[Field]:
    """R and rho are masks; R, h, rho, rho R, rho h are dealt as shares; then what the comparison needs."""
    own = [Field("r", elements), Field("rho", packed(elements))]
    return [*own, Field("words", 5 * elements, dealt=True), *comparison.fields(elements, op.window)]


def deal_truncate(op: Truncate, r: Ring, words: Ring) -> None:
    """Turns party 0's key stream in `words` (examples, 2 * elements) into party 1's shares of R and h."""
    shares = words.reshape(len(r), 2, -1)
    np.subtract(r >> np.uint64(op.drop), shares[:, 0], out=shares[:, 0])
    np.subtract(r >> np.uint64(63), shares[:, 1], out=shares[:, 1])


def deal_select(op: Select, r: Ring, rho: Ring, words: Ring) -> None:
    """Turns party 0's key stream in `words` (examples, 5 * elements) into party 1's shares of R, h, rho, rho R, rho h."""
    kernels.deal_selection(r, rho, op.drop, words.reshape(len(r), 5, -1))


async def _masked(me: Party, op: Truncate | Select, z: Ring, r: Ring) -> Ring:
    """Step 1: opens c = Z + 2^(drop + w - 1) + r. **Rounds**: 1. **Bytes**: 8 an element and direction."""
    share = z + r
    if me.index == 0:
        share += np.uint64(1 << (op.drop + op.window - 1))
    return await open_sum(me, share)


async def truncate(me: Party, op: Truncate, z: Ring, material: Material, position: int) -> Ring:
    """Shares of t for shares `z` (examples, elements). **Rounds**: 1. **Bytes**: 8 an element and direction."""
    c = await _masked(me, op, z, material(position, "r"))
    words = material(position, "words").reshape(len(z), 2, -1)
    kappa = np.uint64(2 ** (64 - op.drop) % 2**64) * (np.uint64(1) - (c >> np.uint64(63)))
    t: Ring = kappa * words[:, 1] - words[:, 0]
    if me.index == 0:
        t += (c >> np.uint64(op.drop)) - np.uint64(1 << (op.window - 1))
    return t


async def select(me: Party, op: Select, z: Ring, material: Material, position: int) -> Ring:
    """Shares of D (positive t + step) + (1 - D) negative t for shares `z` (examples, elements).

    **Rounds**: 3. **Bytes**: 8 + 2 (B - 1) / 8 + 1/8 an element and direction.
    """
    c = await _masked(me, op, z, material(position, "r"))
    d = await comparison.sign(me, c, material, position, drop=op.drop, window=op.window)
    e = await open_bits(me, d ^ material(position, "rho"))
    setting = np.array([op.drop, op.window, op.positive, op.negative, op.step], np.int64)
    out = np.empty_like(c)
    kernels.selection(c, e, material(position, "words").reshape(len(z), 5, -1), setting, me.index, out)
    return out
