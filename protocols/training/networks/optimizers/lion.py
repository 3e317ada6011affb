"""Lion: steps that are all of one length, by the sign of a mean (Chen et al., 2023, arXiv:2302.06675)."""

from __future__ import annotations

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Open
from protocols.training.networks.moments import GRADIENT, MEAN, QUOTIENT, moved
from protocols.training.networks.optimizers.adaptive import Adaptive, Row

MIXED = 12
"""Fractional bits of the share of the gradient in what is compared."""


class Lion(Adaptive, frozen=True):
    """As in Keras: Q = sign(beta_1 M + (1 - beta_1) dW), M <- M + (1 - beta_2)(dW - M). The sign of 0 is 0. Rounds: 5.

    Attributes:
        beta_1: of M in what is compared.
        beta_2: of each M in the next.
    """

    beta_1: float = 0.9
    beta_2: float = 0.99

    @property
    def kinds(self) -> tuple[str, ...]:
        """M."""
        return ("mean",)

    @property
    def scaleless(self) -> bool:
        """Only signs count."""
        return True

    @property
    def bound(self) -> float:
        """A sign."""
        return 1.0

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return [c > 0] + [c >= 0] - 1."""
        share = round((1 - self.beta_1) * 2**MIXED)
        mixed = build(Open(build(Combine((states["mean"], gradient), ((1 << MIXED) - share, share)))))
        window = GRADIENT + MEAN + MIXED + 2
        both = tuple(build(Sign(mixed, window, strict)) for strict in (True, False))
        sign = build(Combine(both, (1 << QUOTIENT, 1 << QUOTIENT), -(1 << QUOTIENT)))
        return sign, {"mean": moved(build, states["mean"], gradient, 1 - self.beta_2)}
