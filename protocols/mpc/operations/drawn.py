"""A value times a table that is drawn anew each time, and that everybody knows: what a dropout does; or plus it.

The table follows from a public key and depends on no value: that it is known says nothing of what it is multiplied by.
"""

from __future__ import annotations

import math

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Shape, Value
from protocols.mpc.parties import discrete_gaussian
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, derive

LIKELY = 16
"""Probabilities are multiples of 2^-LIKELY."""


class Drawn(Operation, frozen=True):
    """Share `x` times the table `name` of `shape`, broadcast: 1 where a draw of 16 bits is at least `dropped`, else 0; a share.

    With a `sigma` it is 2^`bits` and a discrete Gaussian of that standard deviation beside it, instead; if `added`, the Gaussian alone is
    drawn, and added. Rounds: 0.
    """

    x: int
    name: str
    shape: Shape
    dropped: int = 0
    sigma: int = 0
    bits: int = 0
    added: bool = False

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        value = scope.operand(self.x)
        fits = len(self.shape) == len(value.shape) and all(n in (1, m) for n, m in zip(self.shape, value.shape, strict=True))
        if value.batched or not fits:
            raise ProgramError(f"a table of shape {self.shape} does not fit a value of shape {value.shape}")
        if not 0 <= self.dropped < 1 << LIKELY or not 0 <= self.sigma <= 1 << 48 or not 0 <= self.bits <= 24:
            raise ProgramError(f"a table that drops {self.dropped}, with sigma {self.sigma} and {self.bits} bits is not possible")
        return Value(value.shape, "share", batched=False)

    def table(self, key: bytes) -> Ring:
        """Draw it. The same key gives the same table everywhere."""
        stream = KeyStream(derive(key, "drawn", self.name))
        if self.sigma:
            return discrete_gaussian.sample(stream, self.sigma, self.shape) + np.uint64(0 if self.added else 1 << self.bits)
        words = stream.words(-(-math.prod(self.shape) // 4)).astype("<u8").view("<u2")[: math.prod(self.shape)]
        return (words >= self.dropped).astype(np.uint64).reshape(self.shape)

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Multiply by the same table, or return the gradient as it is."""
        if self.added:
            return gradient
        gradient = tape.room(gradient, self.bits)
        return tape.put(Drawn(gradient, self.name, self.shape, self.dropped, self.sigma, self.bits), tape.bits(gradient) + self.bits)

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Multiply this server's share; one server adds."""
        table, share = server.given[self.name], server.share(self.x)
        assert not isinstance(table, Affine)
        if self.added:
            return share + table if server.me.index == 0 else share
        product: Ring = share * table
        return product

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Multiply, or add."""
        table = clear.given[self.name]
        result: Ring = clear[self.x] + table if self.added else clear[self.x] * table
        return result
