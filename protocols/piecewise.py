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

from protocols import comparison
from protocols.conjunction import unpack
from protocols.exchange import Party, Ring, open_bits, open_sum
from protocols.material import Field, Material, packed
from protocols.program import Piecewise

TOP = np.uint64(63)
ONE = np.uint64(1)


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
    true = np.stack([r >> np.uint64(op.drop), r >> TOP], axis=1)
    bits = unpack(rho, len(op.knots) * elements).astype(np.uint64).reshape(examples, len(op.knots), 1, elements)
    products = bits * np.concatenate([np.ones_like(true[:, :1]), true], axis=1)[:, None]
    np.subtract(true.reshape(mask.shape), mask, out=mask)
    np.subtract(products.reshape(choice.shape), choice, out=choice)


async def piecewise(me: Party, op: Piecewise, z: Ring, material: Material, position: int) -> Ring:
    """Shares of slopes[k] t + offsets[k] for shares `z` (examples, elements).

    **Rounds**: 3. **Bytes**: 8 + knots * (2 (B - 1) + 1) / 8 an element and direction.
    """
    examples, elements = z.shape
    knots, drop = len(op.knots), np.uint64(op.drop)
    share = z + material(position, "r")
    if me.index == 0:
        share += np.uint64(1 << (op.drop + op.window - 1))
    c = await open_sum(me, share)
    differences = np.stack([c - _word(knot << op.drop) for knot in op.knots], axis=1).reshape(examples, -1)
    d = await comparison.sign(me, differences, material, position, drop=op.drop, window=op.window)
    e = unpack(await open_bits(me, d ^ material(position, "rho")), knots * elements).reshape(examples, knots, elements)
    mask = material(position, "mask").reshape(examples, 2, elements)
    choice = material(position, "choice").reshape(examples, knots, 3, elements)
    setting = np.uint64(2 ** (64 - op.drop) % 2**64)

    def rounded(c: Ring, one: Ring | np.uint64, r: Ring, h: Ring) -> Ring:
        """A - R + kappa h, times what `one`, `r` and `h` were multiplied with."""
        kappa = setting * (ONE - (c >> TOP))
        t: Ring = one * ((c >> drop) - np.uint64(1 << (op.window - 1))) - r + kappa * h
        return t

    mine = np.uint64(me.index == 0)
    y: Ring = _word(op.slopes[0]) * rounded(c, mine, mask[:, 0], mask[:, 1]) + mine * _word(op.offsets[0])
    for k, knot in enumerate(op.knots):
        jump = op.slopes[k + 1] - op.slopes[k]
        slope, offset = _word(jump), _word(op.offsets[k + 1] - op.offsets[k] + jump * knot)
        c_k, (rho, rho_r, rho_h) = c - _word(knot << op.drop), choice[:, k].transpose(1, 0, 2)
        chosen = e[:, k].astype(np.uint64)
        sign = ONE - (chosen << ONE)
        y += offset * (mine * chosen + sign * rho)
        if slope:
            y += slope * (chosen * rounded(c_k, mine, mask[:, 0], mask[:, 1]) + sign * rounded(c_k, rho, rho_r, rho_h))
    return y


def _word(factor: int) -> np.uint64:
    return np.uint64(factor % 2**64)
