"""Noise in an answer, which no party knows whole."""

from __future__ import annotations

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Value
from protocols.mpc.parties import discrete_gaussian
from protocols.mpc.parties.discrete_gaussian import LARGEST_SIGMA
from protocols.mpc.parties.exchange import Ring


class AddNoise(Operation, frozen=True):
    """x + eta_0 + eta_1: each server adds to its half of share `x` a discrete Gaussian of `sigma` of its own, which nobody else knows.

    Rounds: 0.
    """

    x: int
    sigma: int

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        if not 1 <= self.sigma <= LARGEST_SIGMA:
            raise ProgramError(f"noise of sigma {self.sigma} is not possible; from 1 to {LARGEST_SIGMA} is")
        value = scope.operand(self.x)
        return Value(value.shape, "share", value.batched)

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Add this server's noise."""
        assert server.noise is not None  # whoever evaluates a program gives it
        share = server.share(self.x)
        return share + discrete_gaussian.sample(server.noise, self.sigma, share.shape)

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Return the gradient as it is."""
        return gradient

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the value without noise."""
        return clear[self.x]
