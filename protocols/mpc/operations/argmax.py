"""Which of n shared values is the largest, without opening any (Section 2.5): all pairs at once, then ANDs.

s_ij = [x_i >= x_j] for i < j decides ties for the lower index; one_hot_i = prod_{j != i} s_ij with s_ji = not s_ij. With `drop` = 0 the
comparisons are exact, so exactly one bit is set. The bits stay XOR-shared: whoever receives both shares learns the label and no more.

Adversary: semi-honest. **Leaks** nothing to the servers; the label to whoever gets both shares.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server, check_window
from protocols.mpc.engine.values import Affine, Pair, Value
from protocols.mpc.inputs import declared
from protocols.mpc.operations.bits import comparison, conjunction
from protocols.mpc.operations.bits.conjunction import Bits, pack, unpack
from protocols.mpc.operations.sign import as_number, bit_fields, deal_bits
from protocols.mpc.operations.truncation import open_masked
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.material import Field, packed


class _Largest(Operation, frozen=True):
    """What both forms have in common: vectors, of an example or in the rows of a matrix, whose elements are compared in pairs."""

    abstract: ClassVar[bool] = True
    flat: ClassVar[bool] = True

    x: int

    @property
    @abstractmethod
    def kept(self) -> Pair:
        """The bits of differences that are compared: how many are dropped, and how many are left."""
        raise NotImplementedError

    def _vector(self, scope: Scope, axes: int) -> Value:
        """Return what is known of the operand, a vector of classes."""
        declared.check_window(*self.kept)
        value = scope.operand(self.x)
        if len(value.shape) != axes or value.batched != (axes == 1) or value.shape[-1] < 2:
            raise ProgramError(f"an arg max needs a vector of at least two elements, not shape {value.shape}")
        return value

    def rows(self, value: Value, examples: int) -> Pair:
        """Return a row for each vector."""
        return (examples, value.size) if value.batched else (value.shape[0], value.shape[1])

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the comparison of every pair, then the masks and products of each level of ANDs."""
        pairs = columns * (columns - 1) // 2
        fields = [Field("r", pairs), *comparison.fields(pairs, self.kept[1])]
        for level, (groups, fan_in) in enumerate(levels(columns)):
            fields += conjunction.fields(groups, fan_in, str(level))
        return fields

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return the differences, the bits of their comparisons, and those of each level of ANDs."""
        pairs = columns * (columns - 1) // 2
        ands = [packed(groups * fan_in) for groups, fan_in in levels(columns)]
        return [pairs, *comparison.sends(pairs, self.kept[1]), *ands]

    def deal(self, dealer: Dealer, at: int) -> None:
        """Deal the comparisons and the ANDs."""
        drop, window = self.kept
        comparison.deal_for(dealer, at, dealer.field(at, "r"), drop=drop, window=window)
        for level, (groups, fan_in) in enumerate(levels(dealer.values[at].shape[-1])):
            conjunction.deal(dealer.xor(at, f"and_mu{level}"), dealer.dealt(at, f"and_products{level}"), groups=groups, fan_in=fan_in)

    async def _one_hot(self, server: Server, at: int) -> Ring:
        """Return XOR shares of the one-hot bits, packed (rows, words).

        **Rounds**: 2 + the levels of ANDs (2 for 6 to 17 classes). **Bytes**: 8 + 2 (B - 1) / 8 a pair and direction, and 1/8 for each
        factor of each level.
        """
        me, (drop, window) = server.me, self.kept
        z = np.ascontiguousarray(server.share(self.x)).reshape(self.rows(server.values[at], server.material.examples))
        classes = z.shape[1]
        first, second = np.triu_indices(classes, 1)
        c = await open_masked(me, z[:, first] - z[:, second], server.field(at, "r"), drop, window)
        d = await comparison.sign(me, c, server.material, at, drop=drop, window=window)
        bits = _factors(me, unpack(d, len(first)), classes)
        for level, (groups, fan_in) in enumerate(levels(classes)):
            bits = _grouped(me, bits, groups // classes, fan_in)
            mu, products = server.field(at, f"and_mu{level}"), server.field(at, f"and_products{level}")
            bits = (await conjunction.conjunction(me, bits, mu, products)).reshape(len(z), classes, -1)
        return pack(bits)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return one-hot rows: 1 at the first of the largest elements.

        Raises:
            WindowError: a difference is outside of its window.
        """
        z, (drop, window) = clear[self.x], self.kept
        signed = z.view(np.int64)
        for row in signed.tolist():
            check_window(max(row) - min(row), drop, window, at)
        one_hot = np.zeros_like(z)
        one_hot[np.arange(len(z)), signed.argmax(axis=1)] = 1
        return one_hot


class Argmax(_Largest, frozen=True):
    """One-hot bits of the largest of the elements of share `x` (n,), ties to the lower index, XOR-shared: an answer.

    Differences are compared after dropping `drop` bits; 0 makes the comparison exact. Rounds: 2 + the levels of ANDs.
    """

    x: int
    drop: int
    window: int

    @property
    def kept(self) -> Pair:
        """As the program says."""
        return self.drop, self.window

    def value(self, scope: Scope) -> Value:
        """Return bits, a vector for each example."""
        return Value(self._vector(scope, 1).shape, "bits")

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Compare all pairs, and combine."""
        return await self._one_hot(server, at)


class OneHotArgmax(_Largest, frozen=True):
    """One-hot bits of the largest of each row of share `x` (rows, classes), ties to the lower index; affine.

    Exact. Holds for differences below 2^(window - 1) - 2. Rounds: 3 + the levels of ANDs.
    """

    x: int
    window: int

    @property
    def kept(self) -> Pair:
        """All bits."""
        return 0, self.window

    def value(self, scope: Scope) -> Value:
        """Return an affine matrix whose only secret parts are bits."""
        return Value(self._vector(scope, 2).shape, "affine", batched=False, parts=("h",))

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return what turns the bits into numbers, beside what they need."""
        return [*bit_fields(columns), *super().fields(value, xs, columns)]

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return what they send, and the bits as numbers."""
        return [*super().sends(value, xs, columns), packed(columns)]

    def deal(self, dealer: Dealer, at: int) -> None:
        """Deal both."""
        super().deal(dealer, at)
        deal_bits(dealer, at)

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Compare all pairs, combine, open the bits under masks."""
        return await as_number(server, at, await self._one_hot(server, at), server.values[at].shape[1])


def levels(classes: int) -> list[tuple[int, int]]:
    """List (groups, fan-in) of each level of ANDs over classes - 1 factors a class: equal fan-ins up to 4, as few levels as can be."""
    factors = classes - 1
    depth = next(d for d in itertools.count() if conjunction.LARGEST_FAN_IN**d >= factors)
    fan_in = next(f for f in itertools.count(1) if f**depth >= factors)
    tree = []
    while factors > 1:
        factors = -(-factors // fan_in)
        tree.append((classes * factors, fan_in))
    return tree


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
