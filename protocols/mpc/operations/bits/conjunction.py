"""The AND of several shared bits in one round: open each bit under a mask, combine shared products of the masks (ABY2.0, section 3.2).

With v_a = x_a ^ mu_a public, prod_a x_a = sum over subsets S of prod_{a not in S} v_a * mu_S, which is linear in shares of the mu_S.
Bits are one byte each here (the few of an arg max); the bit-sliced twin for whole layers is the node of `comparison.py`.

Adversary: semi-honest. **Leaks** nothing: every opened bit has a fresh mask.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.mpc.parties.exchange import Party, Ring, open_bits
from protocols.mpc.parties.material import Field, packed

Bits = npt.NDArray[np.uint8]

LARGEST_FAN_IN = 4


def pack(bits: Bits) -> Ring:
    """(examples, *) bits of one byte each as (examples, words) ring words, least significant bit first."""
    flat = bits.reshape(len(bits), -1)
    padded = np.zeros((len(flat), 64 * packed(flat.shape[1])), np.uint8)
    padded[:, : flat.shape[1]] = flat
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def unpack(words: Ring, elements: int) -> Bits:
    """Unpack the first `elements` bits of (examples, words), one byte each: (examples, elements)."""
    little = np.ascontiguousarray(words).astype("<u8").view(np.uint8).reshape(len(words), -1)
    return np.unpackbits(little, axis=1, bitorder="little")[:, :elements]


def fields(groups: int, fan_in: int, suffix: str) -> list[Field]:
    """Masks of the inputs, and the products of every non-empty subset of a group's masks."""
    return [
        Field(f"and_mu{suffix}", packed(groups * fan_in)),
        Field(f"and_products{suffix}", packed(groups * (2**fan_in - 1)), dealt=True),
    ]


def _products(mu: Bits) -> Bits:
    """(examples, groups, fan_in) -> (examples, groups, 2^fan_in - 1): the product of each subset, subset S at S - 1."""
    fan_in = mu.shape[2]
    return np.stack([mu[..., [a for a in range(fan_in) if subset >> a & 1]].min(axis=2) for subset in range(1, 1 << fan_in)], axis=2)


def deal(mu: Ring, products: Ring, *, groups: int, fan_in: int) -> None:
    """Deal a conjunction: XOR the products of the masks `mu` (both halves XORed) into `products`, which hold party 0's key stream."""
    products ^= pack(_products(unpack(mu, groups * fan_in).reshape(len(mu), groups, fan_in)))


async def conjunction(me: Party, x: Bits, mu: Ring, products: Ring) -> Bits:
    """XOR shares (examples, groups) of the AND over the last axis of XOR-shared bits `x` (examples, groups, fan_in).

    **Rounds**: 1. **Bytes**: fan_in / 8 a group and direction.
    """
    examples, groups, fan_in = x.shape
    v = unpack(await open_bits(me, pack(x) ^ mu), groups * fan_in).reshape(x.shape)
    shares = unpack(products, groups * (2**fan_in - 1)).reshape(examples, groups, -1)
    result = v.min(axis=2) if me.index == 0 else np.zeros((examples, groups), np.uint8)
    for subset in range(1, 1 << fan_in):
        public = v[..., [a for a in range(fan_in) if not subset >> a & 1]].min(axis=2, initial=1)
        result = result ^ (public & shares[..., subset - 1])
    return result
