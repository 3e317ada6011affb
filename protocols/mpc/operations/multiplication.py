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

import numpy as np

from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server, broadcast
from protocols.mpc.engine.values import Affine, Part, Value
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Field


class Multiply(Operation, frozen=True):
    """Z = X Y, element by element, of affine values `x` and `y`, broadcast as numpy does; a share.

    Rounds: 0. Bytes dealt: 8 an element for each pair of secret parts: 8 of two wires, 32 of two truncations, 16 of the square of one.
    """

    x: int
    y: int

    @property
    def operands(self) -> tuple[int, ...]:
        """Both factors."""
        return (self.x, self.y)

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

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share them."""
        for p, q in self._pairs(dealer.values[self.x], dealer.values[self.y]):
            dealer.give(at, f"{p}{q}", dealer.parts(self.x)[p] * dealer.parts(self.y)[q])

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return a [y] + sum over the parts p of x, with factors f_p, of f_p (b [p] + sum over the parts q of y of f_q [p q])."""
        x, y, shape = server.affine(self.x), server.affine(self.y), server.shape(at)
        if self.x == self.y:
            return self._square(server, at, x)
        total: Ring = x.a * y.share(server.me)
        for p, value in x.parts.items():
            times_y = y.a * value
            for q in y.parts:
                y.add_scaled(times_y, q, server.field(at, f"{p}{q}").reshape(shape))
            x.add_scaled(total, p, times_y)
        return total

    def _square(self, server: Server, at: int, x: Affine) -> Ring:
        total: Ring = x.a * x.share(server.me)
        for p, value in x.parts.items():
            total += x.a * x.factor(p) * value
        for p, q in self._pairs(server.values[self.x], server.values[self.y]):
            times = np.uint64(2 if p != q else 1)
            total += times * x.factor(p) * x.factor(q) * server.field(at, f"{p}{q}").reshape(total.shape)
        if "h" in x.parts:  # h h = h
            total += x.factor("h") * x.factor("h") * x.parts["h"]
        return total

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Multiply."""
        product: Ring = clear[self.x] * clear[self.y]
        return product
