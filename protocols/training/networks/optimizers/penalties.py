"""Penalties on weights: what L1 and L2 regularizers add to a loss and to gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import MEAN, fraction, reduced, scaled
from protocols.training.networks.window import WEIGHTS

LEAST, MOST = 2.0**-30, 1.0
"""How often a penalty counts."""

DIGITS = 12
"""Significant bits of it."""


class Penalty(msgspec.Struct, frozen=True):
    """`l1` sum |w| + `l2` sum w^2 over the elements of a weight, by its name, is added to the loss."""

    name: str
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        for factor in (self.l1, self.l2):
            if factor and not LEAST <= factor <= MOST:
                raise ModelError(
                    f"a penalty on {self.name!r} counts {factor:g} times: in fixed point it must be between {LEAST:.1e} and {MOST:g}, or 0"
                )

    def most(self, size: int) -> float:
        """Return what it is at most, of weights that are watched: their norm is below 2^`WEIGHTS`."""
        return self.l1 * 2.0**WEIGHTS * math.sqrt(size) + self.l2 * 4.0**WEIGHTS

    def gradient(self, build: Builder, wire: int) -> int:
        """2 l2 w + l1 sign(w), with `MEAN` fractional bits, for a weight as a wire; the sign of 0 is 0. Rounds: 1, 2 with l1."""
        parts = []
        if self.l2:
            q, shift = fraction(2 * self.l2, DIGITS)
            parts.append(scaled(build, wire, q, shift + FRACTION - MEAN))
        if self.l1:
            above, below = self._signs(build, wire)
            unit = round(self.l1 * 2**MEAN)
            parts.append(build(Combine((above, below), (unit, unit), -unit)))
        return build(Combine(tuple(parts), (1,) * len(parts)))

    def value(self, build: Builder, wire: int) -> list[tuple[int, float]]:
        """Return sums over the weight with 2 `FRACTION` fractional bits, and how often each counts."""
        parts = []
        if self.l2:
            parts.append((build(Sum(build(Multiply(wire, wire)))), self.l2))
        if self.l1:
            above, below = self._signs(build, wire)
            signed = [build(Sum(build(Multiply(sign, wire)))) for sign in (above, below)]
            size = build(Sum(wire))
            parts.append((build(Combine((*signed, size), (1 << FRACTION, 1 << FRACTION, -1 << FRACTION))), self.l1))
        return parts

    def _signs(self, build: Builder, wire: int) -> tuple[int, int]:
        window = WEIGHTS + FRACTION + 2
        return build(Sign(wire, window, strict=True)), build(Sign(wire, window))


def penalised(build: Builder, penalties: Sequence[Penalty], wires: dict[str, int], examples: float, lost: int) -> int:
    """`examples` times the sum of all penalties, with 2 `FRACTION` - `lost` fractional bits, (1,). Rounds: 1, 3 with l1."""
    parts = [part for penalty in penalties for part in penalty.value(build, wires[penalty.name])]
    made = []
    for at, times in parts:
        q, shift = fraction(times * examples)
        drop = max(1, shift + lost)  # first of all, so that nothing is too large
        made.append(build(Combine((reduced(build, at, drop),), (q << (drop - shift - lost),))))
    return build(Combine(tuple(made), (1,) * len(made)))
