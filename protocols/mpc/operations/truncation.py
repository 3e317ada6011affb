"""Truncation: an opening, and nothing else (design, section 2.3, steps 1 and 2).

Both servers open c = Z' + r modulo 2^64 once, Z' = Z + 2^(drop + w - 1). With R = r >> drop, h the top bit of r,
kappa = 2^(64 - drop) (1 - c_63) and A = (c >> drop) - 2^(w-1):

    t = A - R + kappa h = floor(Z / 2^drop) + u,  P[u = 1] = (Z mod 2^drop) / 2^drop

**Needs** |Z| <= 2^(drop + w - 1) - 2^(drop + 1): proved or calibrated when the model is shared, or watched in a training.
Adversary: semi-honest, no two parties collude. **Leaks** nothing: c is masked by fresh uniform values.

Outside of that: u = 1 if and only if Z mod 2^drop > c mod 2^drop, so a server that shows c to a client that is told t (a model that
ends in a rectifier or a curve) narrows down the bits that were rounded away: with 200 answers to one input to 1 / 156 of their range
(measured; 1 / 50 and better tested), where a client alone has 1 / 14, from the mean of u. These bits are below 2^-13 of an output; a
model that ends in a linear layer tells them to every client, one that gives labels to nobody. Rounding that is exact (floor) would tell
neither; it would cost a comparison of `drop` bits more, and a `Truncate` two rounds more. It is not built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Value
from protocols.mpc.inputs.declared import check_window
from protocols.mpc.parties.exchange import Party, Ring, open_sum
from protocols.mpc.parties.material import Field


class Truncate(Operation, frozen=True):
    """t = floor(x / 2^drop) + u, u in {0, 1} random: unbiased stochastic rounding of share `x`; affine.

    Rounds: 1. Bytes: 8 an element and direction; dealt: 16. Holds for |x| <= 2^(drop + window - 1) - 2^(drop + 1).
    """

    elementwise: ClassVar[bool] = True

    x: int
    drop: int
    window: int

    def value(self, scope: Scope) -> Value:
        """Return an affine value."""
        check_window(self.drop, self.window)
        value = scope.operand(self.x)
        return Value(value.shape, "affine", value.batched, ("R", "h"), (self.drop, self.window))

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the mask r of the opening, and R and h, which are dealt."""
        return [Field("r", columns), Field("R", columns, dealt=True), Field("h", columns, dealt=True)]

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return c."""
        return [columns]

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Return the gradient as it is: rounding is without bias."""
        return tape.times(gradient, 1, self.drop + tape.bits(at) - tape.bits(self.x))

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share R and h."""
        r, shape = dealer.field(at, "r"), dealer.shape(at)
        big, top = r >> np.uint64(self.drop), r >> np.uint64(63)
        dealer.give(at, "R", big)
        dealer.give(at, "h", top)
        dealer.know(at, lambda: {"R": big.reshape(shape), "h": top.reshape(shape)})

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Open c: the rest is public, or shared already."""
        c = await open_masked(server.me, server.rows(self.x), server.field(at, "r"), self.drop, self.window)
        shape, c = server.shape(at), c.reshape(server.shape(at))
        drop, back = np.uint64(self.drop), np.uint64(1 << (self.window - 1))
        wrap = np.uint64(2 ** (64 - self.drop) % 2**64)

        def whole(me: Party) -> Ring:
            out = np.empty(shape, np.uint64)
            big, top = (server.field(at, name).reshape(-1) for name in ("R", "h"))
            kernels.rounded_share(c.reshape(-1), big, top, self.drop, self.window, me.index, out.reshape(-1))
            return out

        return Affine(
            lambda: (c >> drop) - back,
            lambda: {"R": server.field(at, "R").reshape(shape), "h": server.field(at, "h").reshape(shape)},
            lambda: wrap * (np.uint64(1) - (c >> np.uint64(63))),
            c,
            whole,
        )

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Round down or up."""
        return clear.rounded(self.x, at, self.drop, self.window)


async def open_masked(me: Party, z: Ring, r: Ring, drop: int, window: int) -> Ring:
    """Return c = Z + 2^(drop + w - 1) + r, opened. **Rounds**: 1. **Bytes**: 8 an element and direction."""
    share = z + r
    if me.index == 0:
        share += np.uint64(1 << (drop + window - 1))
    return await open_sum(me, share)
