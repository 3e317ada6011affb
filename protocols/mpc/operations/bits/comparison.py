"""The sign of an opened, masked value: bit-sliced blocks, one node (Section 2.3 of the design; ABY2.0, ePrint 2020/1225, for the node).

Given public c = Z' + r modulo 2^64 with Z' = Z + 2^(drop + w - 1), both servers compute XOR shares of D = [t >= 0], where
t = floor(Z' / 2^drop) - 2^(w-1) + u is what truncation makes of the same c: the comparison is exact for the rounded value.
With s = drop + w - 1:  D = c_s ^ r_s ^ [c_{drop..s-1} < r_{drop..s-1}].

Adversary: semi-honest. **Leaks** nothing: everything opened is masked by fresh uniform bits.
"""

from __future__ import annotations

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.engine.sides import Dealer
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.parties.exchange import Party, Ring, open_bits
from protocols.mpc.parties.material import Field, Material, packed


def fields(elements: int, window: int) -> list[Field]:
    """Masks mu of the opened bits; monomials of the bits of r; products of the mu. A bit an element each, packed."""
    blocks, words = blocks_for(window), packed(elements)
    return [
        Field("mu", blocks.opened * words),
        Field("bits", blocks.monomials * words, dealt=True),
        Field("node", blocks.products * words, dealt=True),
    ]


def sends(elements: int, window: int) -> list[int]:
    """Return how many words a server sends in each round of a comparison."""
    opened = blocks_for(window).opened
    return [opened * packed(elements)] if opened else []


def planes(x: Ring, drop: int, window: int) -> Ring:
    """Slice the bits drop..drop + window - 1 of `x` (examples, elements) into planes: (examples, window, words)."""
    out = np.empty((x.shape[0], window, packed(x.shape[1])), np.uint64)
    kernels.bit_planes(np.ascontiguousarray(x), drop, out)
    return out


def deal(r: Ring, mu: Ring, bits: Ring, node: Ring, *, drop: int, window: int) -> None:
    """Deal a comparison: XOR the true monomials and products into `bits` and `node`, which hold party 0's key stream.

    Args:
        r: the mask of the opened value, (examples, elements).
        mu: the masks of the opened bits, both halves XORed, (examples, planes * words).
        bits: overwritten with party 1's half.
        node: overwritten with party 1's half.
        drop: bits below the window.
        window: w.
    """
    blocks, words = blocks_for(window), packed(r.shape[1])
    kernels.deal_blocks(planes(r, drop, window), blocks.table, _sliced(bits, blocks.monomials, words))
    if blocks.opened:
        kernels.deal_node(_sliced(mu, blocks.opened, words), blocks.count, _sliced(node, blocks.products, words))


def deal_for(dealer: Dealer, at: int, r: Ring, *, drop: int, window: int) -> None:
    """Deal the comparison of the operation at `at`, whose opened value has the mask `r` (rows, columns)."""
    deal(r, dealer.xor(at, "mu"), dealer.dealt(at, "bits"), dealer.dealt(at, "node"), drop=drop, window=window)


def _sliced(field: Ring, count: int, words: int) -> Ring:
    return field.reshape(len(field), count, words)


async def sign(me: Party, c: Ring, material: Material, position: int, *, drop: int, window: int) -> Ring:
    """XOR shares (examples, words) of D = [t >= 0] for public `c` (examples, elements).

    **Rounds**: 1 (none for windows of one block). **Bytes**: 2 (B - 1) / 8 an element and direction.
    """
    blocks, words = blocks_for(window), packed(c.shape[1])
    mu = _sliced(material(position, "mu"), blocks.opened, words)
    opened, last = np.empty_like(mu), np.empty((len(c), words), np.uint64)
    bits = _sliced(material(position, "bits"), blocks.monomials, words)
    kernels.block_shares(planes(c, drop, window), bits, mu, blocks.table, me.index, opened, last)
    if blocks.opened:
        v = await open_bits(me, opened)
        node = _sliced(material(position, "node"), blocks.products, words)
        kernels.node_shares(v, mu, node, blocks.count, me.index, last)
    return last
