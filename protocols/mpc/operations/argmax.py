"""Which of n shared values is the largest, without opening any (Section 2.5): all pairs at once, then ANDs.

s_ij = [x_i >= x_j] for i < j decides ties for the lower index; one_hot_i = prod_{j != i} s_ij with s_ji = not s_ij. With `drop` = 0 the
comparisons are exact, so exactly one bit is set. The bits stay XOR-shared: whoever receives both shares learns the label and no more.

Adversary: semi-honest. **Leaks** nothing to the servers; the label to whoever gets both shares.
"""

from __future__ import annotations

import itertools

import numpy as np

from protocols.mpc.operations import comparison, conjunction
from protocols.mpc.operations.conjunction import Bits, pack, unpack
from protocols.mpc.operations.instructions import Argmax
from protocols.mpc.parties.exchange import Party, Ring, open_sum
from protocols.mpc.parties.material import Field, Material


def levels(classes: int) -> list[tuple[int, int]]:
    """(groups, fan-in) of each level of ANDs over classes - 1 factors a class: equal fan-ins of at most 4, as few levels as that allows."""
    factors = classes - 1
    depth = next(d for d in itertools.count() if conjunction.LARGEST_FAN_IN**d >= factors)
    fan_in = next(f for f in itertools.count(1) if f**depth >= factors)
    tree = []
    while factors > 1:
        factors = -(-factors // fan_in)
        tree.append((classes * factors, fan_in))
    return tree


def fields(op: Argmax, classes: int) -> list[Field]:
    """The comparison of every pair, then the masks and products of each level of ANDs."""
    pairs = classes * (classes - 1) // 2
    fields = [Field("r", pairs), *comparison.fields(pairs, op.window)]
    for level, (groups, fan_in) in enumerate(levels(classes)):
        fields += conjunction.fields(groups, fan_in, str(level))
    return fields


async def argmax(me: Party, op: Argmax, z: Ring, material: Material, position: int) -> Ring:
    """XOR shares of the one-hot bits, packed (examples, words), for shares `z` (examples, classes).

    **Rounds**: 2 + the levels of ANDs (2 for 6 to 17 classes). **Bytes**: 8 + 2 (B - 1) / 8 a pair and direction, and 1/8 for each
    factor of each level.
    """
    first, second = np.triu_indices(z.shape[1], 1)
    share = z[:, first] - z[:, second] + material(position, "r")
    if me.index == 0:
        share += np.uint64(1 << (op.drop + op.window - 1))
    c = await open_sum(me, share)
    d = await comparison.sign(me, c, material, position, drop=op.drop, window=op.window)
    bits = _factors(me, unpack(d, len(first)), z.shape[1])
    for level, (groups, fan_in) in enumerate(levels(z.shape[1])):
        bits = _grouped(me, bits, groups // z.shape[1], fan_in)
        mu, products = material(position, f"and_mu{level}"), material(position, f"and_products{level}")
        bits = (await conjunction.conjunction(me, bits, mu, products)).reshape(len(z), z.shape[1], -1)
    return pack(bits)


def _factors(me: Party, d: Bits, classes: int) -> Bits:
    """Shares of s_ij for all j != i from shares of the upper half: (examples, classes, classes - 1)."""
    first, second = np.triu_indices(classes, 1)
    square = np.zeros((len(d), classes, classes), np.uint8)
    square[:, first, second] = d
    square[:, second, first] = d ^ (1 - me.index)
    return square[:, ~np.eye(classes, dtype=bool)].reshape(len(d), classes, classes - 1)


def _grouped(me: Party, bits: Bits, groups: int, fan_in: int) -> Bits:
    """(examples, classes, factors) -> (examples, classes * groups, fan_in), padded with shares of one."""
    examples, classes, factors = bits.shape
    padded = np.full((examples, classes, groups * fan_in), 1 - me.index, np.uint8)
    padded[:, :, :factors] = bits
    return padded.reshape(examples, classes * groups, fan_in)
