"""Optimizers that divide by the root of a sum or a mean of squares alone: RMSprop, Adagrad, Adadelta."""

from __future__ import annotations

import math
from collections.abc import Mapping

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import MEAN, QUOTIENT, SQUARE, UNIT, divided, larger, moved, reduced, squared
from protocols.training.networks.optimizers.adaptive import Adaptive, Row
from protocols.training.networks.optimizers.rates import SCHEDULE_BITS, rates, shift_of
from protocols.training.networks.window import Watched

DELTAS = -6
"""The mean of squared changes of Adadelta is below 2^DELTAS."""

ACCUMULATED = 2.0**53
"""What is summed of squares, with `SQUARE` fractional bits: half of what a root is taken of."""


class RMSprop(Adaptive, frozen=True):
    """RMSprop (Hinton, 2012; centered: Graves, 2013, arXiv:1308.0850) as in Keras.

    V <- V + (1 - rho)(dW^2 - V), Q = dW / sqrt(V + epsilon), W <- W - rate Q; with momentum B <- momentum B - rate Q, W <- W + B; centered
    with V - M^2, which is not below 0, in place of V. Rounds: 24, 28 if centered.

    Attributes:
        rho: of each V in the next, from 0 up to 1.
        momentum: of each B in the next.
        epsilon: at least `LEAST_EPSILON`.
        centered: whether the square of the mean is subtracted.
    """

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """V; M if it is centered; B with momentum."""
        return ("square", *("mean",) * self.centered, *("velocity",) * (self.momentum > 0))

    @property
    def least(self) -> float:
        """What is added to squares."""
        return self.epsilon

    @property
    def bound(self) -> float:
        """dW is part of V; of what is centered nothing is known."""
        return math.inf if self.centered else 1 / math.sqrt(1 - self.rho)

    @property
    def significant(self) -> int:
        """Fewer than of Adam, beside velocities."""
        return SCHEDULE_BITS

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return dW / sqrt(V + epsilon)."""
        square = moved(build, states["square"], squared(build, gradient), 1 - self.rho)
        new, more = {"square": square}, _units(self.epsilon)
        if not self.centered:
            return divided(build, gradient, build(Combine((square,), (1,), more))), new
        new["mean"] = mean = moved(build, states["mean"], gradient, 1 - self.rho)
        spread = build(Combine((square, squared(build, build(Open(mean)))), (1, -1)))
        positive = larger(build, spread, build(Combine((spread,), (0,))))
        return divided(build, gradient, build(Combine((positive,), (1,), more))), new

    def change(self, build: Builder, quotient: int, states: Row, factor: tuple[int, int]) -> tuple[int, dict[str, int]]:
        """Return -rate Q, or the new B."""
        if not self.momentum:
            return super().change(build, quotient, states, factor)
        q, shift = factor
        drop = shift + QUOTIENT - FRACTION
        velocity = reduced(build, build(Combine((quotient, states["velocity"]), (-q, round(self.momentum * 2**drop)))), drop)
        return velocity, {"velocity": velocity}

    def watched(self, states: Mapping[str, list[int]]) -> list[list[Watched]]:
        """Return the velocities."""
        drop = shift_of(max(rates(self)), self.significant) + QUOTIENT - FRACTION
        return [[Watched(at, 2.0 ** (61 - drop)) for at in states["velocity"]]] if self.momentum else []


class Adagrad(Adaptive, frozen=True):
    """Adagrad (Duchi et al., 2011) as in Keras: A <- A + dW^2, Q = dW / sqrt(A + epsilon). Rounds: 24.

    Attributes:
        initial: where A begins; what is kept is A less that.
        epsilon: as of `RMSprop`, with `initial` at least `LEAST_EPSILON`.
    """

    initial: float = 0.1
    epsilon: float = 1e-7

    @property
    def kinds(self) -> tuple[str, ...]:
        """A - `initial`."""
        return ("square",)

    @property
    def least(self) -> float:
        """What is added to squares."""
        return self.initial + self.epsilon

    @property
    def bound(self) -> float:
        """dW is part of A."""
        return 1.0

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return dW / sqrt(A + epsilon)."""
        square = build(Combine((states["square"], squared(build, gradient)), (1, 1)))
        total = build(Combine((square,), (1,), _units(self.initial + self.epsilon)))
        return divided(build, gradient, total), {"square": square}

    def watched(self, states: Mapping[str, list[int]]) -> list[list[Watched]]:
        """Return A, which grows."""
        return [[Watched(at, ACCUMULATED) for at in states["square"]]]


class Adadelta(Adaptive, frozen=True):
    """Adadelta (Zeiler, 2012, arXiv:1212.5701) as in Keras: changes are as large as those before.

    A <- A + (1 - rho)(dW^2 - A), Q = sqrt(D + epsilon) dW / sqrt(A + epsilon), D <- D + (1 - rho)(Q^2 - D). Rounds: 48.

    Q is computed as ((D + epsilon) P) / sqrt(D + epsilon) with P = dW / sqrt(A + epsilon); D must be below 2^`DELTAS`, which is watched.

    Attributes:
        rho: of A and D in the next.
        epsilon: as of `RMSprop`.
    """

    rho: float = 0.95
    epsilon: float = 1e-7

    @property
    def kinds(self) -> tuple[str, ...]:
        """A and D."""
        return ("square", "squared change")

    @property
    def least(self) -> float:
        """What is added to squares."""
        return self.epsilon

    @property
    def bound(self) -> float:
        """P, of which two bits less fit beside D than of other quotients."""
        return 4 / math.sqrt(1 - self.rho)

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return Q."""
        square = moved(build, states["square"], squared(build, gradient), 1 - self.rho)
        more = _units(self.epsilon)
        ratio = reduced(build, divided(build, gradient, build(Combine((square,), (1,), more))), QUOTIENT - UNIT)
        before = build(Open(build(Combine((states["squared change"],), (1,), more))))
        product = reduced(build, build(Multiply(ratio, before)), UNIT)  # P (D + epsilon), `SQUARE` fractional bits instead of `MEAN`
        change = divided(build, product, before)
        quotient = reduced(build, change, SQUARE - MEAN)
        kept = reduced(build, change, QUOTIENT + SQUARE - 2 * MEAN)
        now = moved(build, states["squared change"], squared(build, kept), 1 - self.rho)
        return quotient, {"square": square, "squared change": now}

    def watched(self, states: Mapping[str, list[int]]) -> list[list[Watched]]:
        """Return D."""
        return [[Watched(at, 2.0 ** (SQUARE + DELTAS)) for at in states["squared change"]]]


def _units(x: float) -> int:
    return round(x * 2.0**SQUARE)
