"""A piecewise linear function of a shared value: one opening, one comparison for each knot (Section 2.3 of the design).

c = Z + 2^(drop + w - 1) + r is opened once. Knot k is a public integer, so c_k = c - knot_k 2^drop masks the difference to it with the
same r: the comparison gives D_k = [t >= knot_k], and t - knot_k = A_k - R + kappa_k h as in `selection.py`. With the jumps
a_k = slopes[k + 1] - slopes[k] and b_k = offsets[k + 1] - offsets[k],

    y = slopes[0] t + offsets[0] + sum_k D_k (a_k t + b_k),   D_k t = e_k t + (1 - 2 e_k) rho_k t,   e_k = D_k ^ rho_k opened.

r is used for several comparisons of one and the same c: its bits are shared anew for each knot, everything that is opened after c has a
mask of its own. **Needs** |Z| <= 2^(drop + w - 2) - 2^(drop + 1) and |knot_k| <= 2^(w - 2).

Adversary: semi-honest, no two parties collude. **Leaks** nothing: c, the node's bits and e are masked by fresh uniform values.
"""

from __future__ import annotations

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.operations import comparison
from protocols.mpc.operations.instructions import Piecewise
from protocols.mpc.parties.exchange import Party, Ring, open_bits, open_sum
from protocols.mpc.parties.material import Field, Material, packed


def fields(op: Piecewise, elements: int) -> list[Field]:
    """R and rho are masks; R, h are dealt as shares, and for each knot rho, rho R, rho h and what its comparison needs."""
    each = len(op.knots) * elements
    own = [Field("r", elements), Field("rho", packed(each))]
    return [*own, Field("mask", 2 * elements, dealt=True), Field("choice", 3 * each, dealt=True), *comparison.fields(each, op.window)]


def repeated(x: Ring, knots: int) -> Ring:
    """(examples, elements) once for each knot: (examples, knots * elements)."""
    return np.tile(x, (1, knots))


def deal(op: Piecewise, r: Ring, rho: Ring, mask: Ring, choice: Ring) -> None:
    """Turns party 0's key stream in `mask` and `choice` into party 1's shares of R, h and, for each knot, rho, rho R, rho h."""
    examples, elements = r.shape
    kernels.deal_piecewise(r, rho, op.drop, mask.reshape(examples, 2, elements), choice.reshape(examples, len(op.knots), 3, elements))


async def piecewise(me: Party, op: Piecewise, z: Ring, material: Material, position: int) -> Ring:
    """Shares of slopes[k] t + offsets[k] for shares `z` (examples, elements).

    **Rounds**: 3. **Bytes**: 8 + knots * (2 (B - 1) + 1) / 8 an element and direction.
    """
    examples, elements = z.shape
    knots, pieces = len(op.knots), _pieces(op)
    share = z + material(position, "r")
    if me.index == 0:
        share += np.uint64(1 << (op.drop + op.window - 1))
    c = await open_sum(me, share)
    differences = (c[:, None] - pieces[1:, :1]).reshape(examples, -1)
    d = await comparison.sign(me, differences, material, position, drop=op.drop, window=op.window)
    e = await open_bits(me, d ^ material(position, "rho"))
    mask = material(position, "mask").reshape(examples, 2, elements)
    choice = material(position, "choice").reshape(examples, knots, 3, elements)
    out = np.empty_like(c)
    kernels.piecewise(c, e, mask, choice, pieces, np.array([op.drop, op.window], np.int64), me.index, out)
    return out


def _pieces(op: Piecewise) -> Ring:
    """The first piece as (0, slope, offset), then for each knot (knot 2^drop, a_k, b_k + a_k knot): b_k beside t - knot."""
    rows = [(0, op.slopes[0], op.offsets[0])]
    for k, knot in enumerate(op.knots):
        jump = op.slopes[k + 1] - op.slopes[k]
        rows.append((knot << op.drop, jump, op.offsets[k + 1] - op.offsets[k] + jump * knot))
    return np.array([[word % 2**64 for word in row] for row in rows], np.uint64)
