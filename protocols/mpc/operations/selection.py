"""Truncation, sign and selection on one opening (design, section 2.3): what a rectifier costs.

With c, t, R, h, kappa and A as in `truncation.py`, and a random bit rho:

    D = [t >= 0]                                                                                (step 3, `comparison.py`)
    D t = e t + (1 - 2 e) (A rho - rho R + kappa rho h),  e = D ^ rho opened                    (step 6)

It is a `Truncate`, a `Sign` and a `Multiply` in one kernel: as many rounds and bytes, fewer passes over memory.

**Needs** what a truncation needs. Adversary: semi-honest, no two parties collude. **Leaks** nothing: all that is opened is masked by fresh
uniform values.
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
from protocols.mpc.operations.bits import comparison
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.truncation import open_masked
from protocols.mpc.parties.exchange import Ring, open_bits
from protocols.mpc.parties.material import Field, packed


class Select(Operation, frozen=True):
    """y = D * (positive * t + step) + (1 - D) * negative * t with t as in `Truncate` and D = [t >= 0].

    ReLU is (1, 0, 0); LeakyReLU is (2^q, a, 0); a threshold theta is x - theta with step theta. Rounds: 3. Bytes: 8 + 2 (B - 1) / 8 + 1/8
    an element and direction. Same precondition as `Truncate`.
    """

    elementwise: ClassVar[bool] = True

    x: int
    drop: int
    window: int
    positive: int = 1
    negative: int = 0
    step: int = 0

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        check_window(self.drop, self.window)
        value = scope.operand(self.x)
        return Value(value.shape, "share", value.batched)

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the masks r and rho; R, h, rho, rho R, rho h, which are dealt; and what the comparison needs."""
        own = [Field("r", columns), Field("rho", packed(columns))]
        return [*own, Field("words", 5 * columns, dealt=True), *comparison.fields(columns, self.window)]

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return c, the bits of the comparison, and e."""
        return [columns, *comparison.sends(columns, self.window), packed(columns)]

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Compare once more: the slope is `positive` from 0 on, `negative` below."""
        pieces = Piecewise(self.x, self.drop, self.window + 1, (0,), (self.negative, self.positive), (0, self.step))
        return pieces.gradient(tape, at, gradient, side)

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share R, h, rho, rho R, rho h."""
        r = dealer.field(at, "r")
        kernels.deal_selection(r, dealer.xor(at, "rho"), self.drop, dealer.dealt(at, "words").reshape(len(r), 5, -1))
        comparison.deal_for(dealer, at, r, drop=self.drop, window=self.window)

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Open c, compare, open e."""
        c = await open_masked(server.me, server.rows(self.x), server.field(at, "r"), self.drop, self.window)
        d = await comparison.sign(server.me, c, server.material, at, drop=self.drop, window=self.window)
        e = await open_bits(server.me, d ^ server.field(at, "rho"))
        setting = np.array([self.drop, self.window, self.positive, self.negative, self.step], np.int64)
        out = np.empty_like(c)
        kernels.selection(c, e, server.field(at, "words").reshape(len(c), 5, -1), setting, server.me.index, out)
        return out.reshape(server.shape(at))

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Round, then select."""
        t = clear.rounded(self.x, at, self.drop, self.window)
        positive, negative, step = (np.uint64(value % 2**64) for value in (self.positive, self.negative, self.step))
        selected: Ring = np.where(t.view(np.int64) >= 0, positive * t + step, negative * t)
        return selected
