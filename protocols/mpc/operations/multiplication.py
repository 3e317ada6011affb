"""Products of two secrets, element by element (ABY2.0, ePrint 2020/1225, section 3; Turbospeedz, 2019/080).

With x = a - R + kappa h and y = b - S + eta g, where a, kappa, b, eta are known to both servers:

    x y = a b - a [S] + a eta [g] - b [R] + b kappa [h] + [R S] - eta [R g] - kappa [h S] + kappa eta [h g],

linear in shares that each server has; wires have no terms in h and g. What a truncation or a comparison gives is affine, so that it needs
no opening before a product. Only products of secret parts are dealt, anew for each multiplication: a mask may serve several.

Adversary: semi-honest, no two parties collude. **Leaks** nothing. The result is not rounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server, broadcast
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Part, Shape, Value
from protocols.mpc.operations.sums import fitted
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Field


class Multiply(Operation, frozen=True):
    """Z = X Y, element by element, of affine values `x` and `y`, broadcast as numpy does; a share.

    Rounds: 0. Bytes dealt: 8 an element for each pair of secret parts: 8 of two wires, 32 of two truncations, 16 of the square of one.
    """

    elementwise: ClassVar[bool] = True

    x: int
    y: int

    def value(self, scope: Scope) -> Value:
        """Return a share of the shape to which both are broadcast."""
        shape, batched = broadcast([scope.operand(self.x, "affine"), scope.operand(self.y, "affine")])
        return Value(shape, "share", batched)

    def _pairs(self, x: Value, y: Value) -> list[tuple[Part, Part]]:
        """Return the pairs of parts whose products are dealt. Those of a square are symmetric, and h h = h is there already."""
        if self.x != self.y:
            return list(itertools.product(x.parts, y.parts))
        return [pair for pair in itertools.combinations_with_replacement(x.parts, 2) if pair != ("h", "h")]

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the products of secret parts."""
        return [Field(f"{p}{q}", columns, dealt=True) for p, q in self._pairs(xs[0], xs[-1])]

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Multiply by the other factor."""
        x, other = self.operands[side], self.operands[1 - side]
        gradient = tape.factor(gradient)
        product = tape.put(Multiply(gradient, other), tape.bits(gradient) + tape.bits(other))
        return tape.times(fitted(tape, product, tape.value(x)), 1, tape.bits(at) - tape.bits(x) - tape.bits(other))

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share them."""
        for p, q in self._pairs(dealer.values[self.x], dealer.values[self.y]):
            dealer.give(at, f"{p}{q}", dealer.parts(self.x)[p] * dealer.parts(self.y)[q])

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return this server's share, in one pass."""
        x, y, shape = server.affine(self.x), server.affine(self.y), server.shape(at)
        a, kappa, big, top = _spread(x, server.values[self.x], shape)
        big_big, big_top = self._dealt(server, at, "RR"), self._dealt(server, at, "Rh")
        out, party = np.empty(shape, np.uint64), server.me.index
        if self.x == self.y:
            kernels.affine_square(a, kappa, big, top, big_big, big_top, party, out.reshape(-1))
            return out
        b, eta, other, bit = _spread(y, server.values[self.y], shape)
        top_big, top_top = self._dealt(server, at, "hR"), self._dealt(server, at, "hh")
        kernels.affine_product(a, kappa, big, top, b, eta, other, bit, big_big, big_top, top_big, top_top, party, out.reshape(-1))
        return out

    def _dealt(self, server: Server, at: int, pair: str) -> Ring:
        """Return a product of secret parts, flat; nothing where it is not dealt."""
        dealt = [f"{p}{q}" for p, q in self._pairs(server.values[self.x], server.values[self.y])]
        return server.field(at, pair).reshape(-1) if pair in dealt else _NONE

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Multiply."""
        product: Ring = clear[self.x] * clear[self.y]
        return product


_NONE: Ring = np.empty(0, np.uint64)


def _spread(x: Affine, known: Value, shape: Shape) -> tuple[Ring, Ring, Ring, Ring]:
    """Return a, kappa, R and h of a factor, broadcast and flat; nothing where it has none."""

    def flat(part: Ring) -> Ring:
        return np.ascontiguousarray(np.broadcast_to(part, shape)).reshape(-1)

    kappa, top = (flat(x.kappa), flat(x.parts["h"])) if "h" in known.parts else (_NONE, _NONE)
    return flat(x.a), kappa, flat(x.mask) if "R" in known.parts else _NONE, top
