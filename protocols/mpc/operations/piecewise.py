"""A piecewise linear function of a shared value: one opening, one comparison for each knot (Section 2.3 of the design).

c = Z + 2^(drop + w - 1) + r is opened once. Knot k is a public integer, so c_k = c - knot_k 2^drop masks the difference to it with the
same r: the comparison gives D_k = [t >= knot_k], and t - knot_k = A_k - R + kappa_k h as in `truncation.py`. With the jumps
a_k = slopes[k + 1] - slopes[k] and b_k = offsets[k + 1] - offsets[k],

    y = slopes[0] t + offsets[0] + sum_k D_k (a_k t + b_k),   D_k t = e_k t + (1 - 2 e_k) rho_k t,   e_k = D_k ^ rho_k opened.

r is used for several comparisons of one and the same c: its bits are shared anew for each knot, everything that is opened after c has a
mask of its own. **Needs** |Z| <= 2^(drop + w - 2) - 2^(drop + 1) and |knot_k| <= 2^(w - 2).

Adversary: semi-honest, no two parties collude. **Leaks** nothing: c, the node's bits and e are masked by fresh uniform values.
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
from protocols.mpc.inputs.declared import check_pieces, check_window
from protocols.mpc.operations.bits import comparison
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.truncation import open_masked
from protocols.mpc.parties.exchange import Ring, open_bits
from protocols.mpc.parties.material import Field, packed


class Piecewise(Operation, frozen=True):
    """y = slopes[k] t + offsets[k] with t as in `Truncate` and k the number of `knots` <= t: any piecewise linear function; a share.

    `knots` increase; there is one slope and one offset more than knots. A step function has slopes 0. Holds for
    |x| <= 2^(drop + window - 2) - 2^(drop + 1) and |knots| <= 2^(window - 2): differences of both are compared. Rounds: 3.
    Bytes: 8 + knots * (2 (B - 1) + 1) / 8 an element and direction.
    """

    elementwise: ClassVar[bool] = True

    x: int
    drop: int
    window: int
    knots: tuple[int, ...]
    slopes: tuple[int, ...]
    offsets: tuple[int, ...]

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        check_window(self.drop, self.window)
        check_pieces(self.knots, self.slopes, self.offsets, self.window)
        value = scope.operand(self.x)
        return Value(value.shape, "share", value.batched)

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the masks r and rho; R, h, and for each knot rho, rho R, rho h, which are dealt; and what the comparisons need."""
        each = len(self.knots) * columns
        own = [Field("r", columns), Field("rho", packed(each))]
        return [*own, Field("mask", 2 * columns, dealt=True), Field("choice", 3 * each, dealt=True), *comparison.fields(each, self.window)]

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return c, the bits of the comparisons, and e."""
        each = len(self.knots) * columns
        return [columns, *comparison.sends(each, self.window), packed(each)]

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Multiply by the slope of the piece: a step function of x, found beside the value itself."""
        steps = Piecewise(self.x, self.drop, self.window, self.knots, (0,) * len(self.slopes), self.slopes)
        slope = tape.factor(tape.put(steps, self.drop + tape.bits(at) - tape.bits(self.x)))
        gradient = tape.factor(gradient)
        return tape.put(Multiply(gradient, slope), tape.bits(gradient) + tape.bits(slope))

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share R and h, and for each knot rho, rho R, rho h and its comparison."""
        r, knots = dealer.field(at, "r"), len(self.knots)
        rows, columns = r.shape
        mask, choice = dealer.dealt(at, "mask").reshape(rows, 2, columns), dealer.dealt(at, "choice").reshape(rows, knots, 3, columns)
        kernels.deal_piecewise(r, dealer.xor(at, "rho"), self.drop, mask, choice)
        comparison.deal_for(dealer, at, np.tile(r, (1, knots)), drop=self.drop, window=self.window)

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Open c, compare it with each knot, open the bits."""
        c = await open_masked(server.me, server.rows(self.x), server.field(at, "r"), self.drop, self.window)
        rows, columns = c.shape
        pieces = self._pieces()
        differences = (c[:, None] - pieces[1:, :1]).reshape(rows, -1)
        d = await comparison.sign(server.me, differences, server.material, at, drop=self.drop, window=self.window)
        e = await open_bits(server.me, d ^ server.field(at, "rho"))
        mask = server.field(at, "mask").reshape(rows, 2, columns)
        choice = server.field(at, "choice").reshape(rows, len(self.knots), 3, columns)
        out = np.empty_like(c)
        kernels.piecewise(c, e, mask, choice, pieces, np.array([self.drop, self.window], np.int64), server.me.index, out)
        return out.reshape(server.shape(at))

    def _pieces(self) -> Ring:
        """Return the first piece as (0, slope, offset), then for each knot (knot 2^drop, a_k, b_k + a_k knot): b_k beside t - knot."""
        rows = [(0, self.slopes[0], self.offsets[0])]
        for k, knot in enumerate(self.knots):
            jump = self.slopes[k + 1] - self.slopes[k]
            rows.append((knot << self.drop, jump, self.offsets[k + 1] - self.offsets[k] + jump * knot))
        return np.array([[word % 2**64 for word in row] for row in rows], np.uint64)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Round, find the piece, follow its line."""
        t = clear.rounded(self.x, at, self.drop, self.window - 1)
        pieces = np.searchsorted(self.knots, t.view(np.int64), side="right")
        slopes, offsets = (np.array([factor % 2**64 for factor in factors], np.uint64) for factors in (self.slopes, self.offsets))
        y: Ring = slopes[pieces] * t + offsets[pieces]
        return y
