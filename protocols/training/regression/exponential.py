"""e^t on shares, within 4e-6.

For -16 <= t <= 0 it is (1 + u + u^2 / 2)^(2^k) with u = t / 2^k and k = 8: u^3 / 6 is left out of each factor, which is t^3 e^t / (6 2^16)
of the result, at most 4e-6.
"""

from __future__ import annotations

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open

SQUARINGS = 8
FLOOR = 16
"""Exponents are at least -FLOOR."""

POWER = 30
"""Fractional bits of e^t."""

EXPONENT = POWER - SQUARINGS
"""Fractional bits of t."""


def exp(build: Builder, t: int) -> int:
    """e^t for a share from -`FLOOR` to 0 with `EXPONENT` fractional bits; affine with `POWER`. Rounds: 2 + `SQUARINGS`."""
    u = build(Open(build(Combine((t,), (1,), 1 << POWER))))  # 1 + t / 2^k
    square = build(Multiply(u, u))
    power = build(Truncate(build(Combine((square,), (1,), 1 << (2 * POWER))), POWER + 1, 62 - POWER))  # ((1 + u)^2 + 1) / 2
    for _ in range(SQUARINGS):
        power = build(Truncate(build(Multiply(power, power)), POWER, 63 - POWER))
    return power
