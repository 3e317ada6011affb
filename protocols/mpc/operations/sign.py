"""The sign of a value of which something is public already: as a number, 0 or 1.

The bits of what is public are compared (`comparison.py`), and the bit D that comes out is turned from XOR shares into an affine value:
e = D ^ rho is opened for a random bit rho, and D = e + (1 - 2 e) rho (daBits, Rotaru and Wood, ePrint 2019/207).

Adversary: semi-honest, no two parties collude. **Leaks** nothing: all that is opened is masked by fresh uniform bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.values import Affine, Pair, Value
from protocols.mpc.operations.bits import comparison
from protocols.mpc.operations.bits.conjunction import unpack
from protocols.mpc.parties.exchange import Ring, open_bits
from protocols.mpc.parties.material import Field, packed


class Sign(Operation, frozen=True):
    """D = [x >= 0], affine, for `x` a `Truncate`, or a wire within +-2^(drop + window - 1); if `strict`, D = [x > 0].

    The bits that are compared are those of the value that is public already: c of the truncation, m of the wire. Of a wire the `drop` low
    bits are left out: what is compared is floor(x / 2^drop) + u, rounded at random as by `Truncate`, without an opening of its own.
    Rounds: 2. Bytes: (2 (B - 1) + 1) / 8 an element and direction.
    """

    flat: ClassVar[bool] = True

    x: int
    window: int | None = None
    strict: bool = False
    drop: int = 0

    def value(self, scope: Scope) -> Value:
        """Return an affine value whose only secret part is a bit."""
        value = scope.operand(self.x, "affine")
        if value.cut is None and (value.kind != "wire" or self.window is None or not self._fits(self.window)):
            raise ProgramError("the sign of a truncation, or of a wire with a window of 2 to 63 bits, dropped ones included, can be had")
        if value.cut is not None and (self.window is not None or self.drop):
            raise ProgramError("a truncation has its window already")
        return Value(value.shape, "affine", value.batched, ("h",))

    def _fits(self, window: int) -> bool:
        return self.drop >= 0 and window > 1 and self.drop + window < 64

    def _cut(self, x: Value) -> Pair:
        """Return which bits of the public value are compared: from which on, and how many."""
        if x.cut is not None:
            return x.cut
        assert self.window is not None  # `value` has checked it
        return self.drop, self.window

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the mask rho, which is dealt as a number, too, and what the comparison needs."""
        return [*bit_fields(columns), *comparison.fields(columns, self._cut(xs[0])[1])]

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return the bits of the comparison, and e."""
        return [*comparison.sends(columns, self._cut(xs[0])[1]), packed(columns)]

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share the bits of the mask of what is compared, and rho as a number."""
        _, window = self._cut(dealer.values[self.x])
        rows = dealer.mask(self.x).reshape(len(dealer.xor(at, "rho")), -1)  # of a truncation R = r >> drop: the bits of r from drop on
        comparison.deal_for(dealer, at, rows, drop=self.drop, window=window)
        deal_bits(dealer, at)

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Compare, then open D ^ rho."""
        x = server.affine(self.x)
        drop, window = self._cut(server.values[self.x])
        c = x.a + np.uint64(1 << (drop + window - 1)) if x.c is None else x.c
        rows = (c - np.uint64(self.strict << drop)).reshape(self.rows(server.values[at], server.material.examples))  # t > 0 is t - 1 >= 0
        d = await comparison.sign(server.me, rows, server.material, at, drop=drop, window=window)
        return await as_number(server, at, d, rows.shape[1])

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Compare with 0 what is left of a wire without its low bits."""
        x = clear.rounded(self.x, at, self.drop, self._cut(clear.values[self.x])[1]) if self.drop else clear[self.x]
        signed = x.view(np.int64)
        return (signed > 0 if self.strict else signed >= 0).astype(np.uint64)


def bit_fields(columns: int) -> list[Field]:
    """Return the randomness that turns an XOR-shared bit into a number: rho, and the same as an additive share."""
    return [Field("rho", packed(columns)), Field("h", columns, dealt=True)]


def deal_bits(dealer: Dealer, at: int) -> None:
    """Share rho as numbers, the only secret part of the value."""
    bits = dealer.xor(at, "rho")
    h = unpack(bits, dealer.dealt(at, "h").shape[1]).astype(np.uint64)
    dealer.give(at, "h", h)
    shape = dealer.shape(at)
    dealer.know(at, lambda: {"h": h.reshape(shape)})


async def as_number(server: Server, at: int, d: Ring, columns: int) -> Affine:
    """Return XOR-shared bits, packed, as an affine value. **Rounds**: 1. **Bytes**: 1/8 an element and direction."""
    opened = await open_bits(server.me, d ^ server.field(at, "rho"))
    shape = server.shape(at)
    e = unpack(opened, columns).astype(np.uint64).reshape(shape)
    return Affine(e, lambda: {"h": server.field(at, "h").reshape(shape)}, np.uint64(1) - np.uint64(2) * e)
