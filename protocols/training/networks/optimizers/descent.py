"""Gradient descent, with momentum or without: the only optimizer that needs of a gradient nothing but its product with the rate.

An update is rounded at random without bias (Gupta et al., 2015, arXiv:1502.02551), so that updates smaller than the last digit count on
average.
"""

from __future__ import annotations

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.optimizers.rates import RATE_BITS, SCHEDULE_BITS, Change, Gradients, Rated, changes, factor
from protocols.training.networks.window import Watched

MOMENTUM_BITS = 24
"""Fractional bits of the momentum, at least: velocities add up 1 / (1 - momentum) steps, so what counts is how far it is from 1."""


class GradientDescent(Rated, frozen=True):
    """W <- W - rate * dW, or with momentum, as in Keras, V <- momentum V - rate dW, W <- W + V.

    Attributes:
        momentum: of each velocity in the next, from 0 up to 1; without it there are no velocities.
        nesterov: W <- W + momentum V - rate dW, with the new V.
    """

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """A velocity, with momentum."""
        return ("velocity",) if self.momentum else ()


def reach(optimizer: GradientDescent, scale: float, bits: int) -> float:
    """Return the largest element of a gradient, summed over a batch, for which a step is right: beyond, it may wrap around.

    Args:
        optimizer: how weights are moved.
        scale: as for `update`.
        bits: fractional bits of the gradient.
    """
    return _edges(optimizer, scale, bits)[0] * 2.0**-bits


def _edges(optimizer: GradientDescent, scale: float, bits: int) -> tuple[float, float]:
    """Integers that gradients and velocities must be below: what is rounded is at most 2^62, and half of it is for each of the two."""
    q, shift = factor(optimizer, scale)
    drop = shift + bits - FRACTION
    lift = _lift(optimizer, drop)
    largest = 2.0**SCHEDULE_BITS if changes(optimizer) else float(max(q, 1 << (RATE_BITS - 1)))
    window = 61 if optimizer.momentum else 62
    return 2.0 ** (window - lift) / largest, 2.0 ** (window - drop - lift)


def _lift(optimizer: GradientDescent, drop: int) -> int:
    """How many fractional bits more what multiplies a gradient has, so that enough are dropped: of momentum these are the digits."""
    return max(0, (MOMENTUM_BITS if optimizer.momentum else RATE_BITS) - drop)


def watched(optimizer: GradientDescent, gradients: Gradients, values: dict[str, int], scale: float) -> tuple[list[Watched], list[Watched]]:
    """Return what a step is right for: gradients, and the velocities among `values`, with what they must be below.

    Args:
        optimizer: how weights are moved.
        gradients: as for `update`.
        values: the velocities by name, as they were before a step, or as they are after it.
        scale: as for `update`.
    """
    edges = {name: _edges(optimizer, scale, bits) for name, (_, bits) in gradients.items()}
    velocities = [Watched(values[f"velocity of {name}"], edge[1]) for name, edge in edges.items() if optimizer.momentum]
    return [Watched(gradient, edges[name][0]) for name, (gradient, _) in gradients.items()], velocities


def descended(
    build: Builder, optimizer: GradientDescent, gradient: tuple[int, int], states: dict[str, int], scale: float, number: int
) -> Change:
    """Return the change of a weight, and its new velocity. Rounds: 1, 2 with Nesterov's momentum."""
    q, shift = factor(optimizer, scale, number)
    drop = shift + gradient[1] - FRACTION
    lift = _lift(optimizer, drop)
    q, drop = q << lift, drop + lift
    if not optimizer.momentum:
        return build(Truncate(build(Combine((gradient[0],), (-q,))), drop, 63 - drop)), {}
    factors = (-q, round(optimizer.momentum * 2**drop))
    velocity = build(Truncate(build(Combine((gradient[0], states["velocity"]), factors)), drop, 63 - drop))
    change = velocity
    if optimizer.nesterov:
        change = build(Truncate(build(Combine((gradient[0], velocity), factors)), drop, 63 - drop))
    return change, {"velocity": velocity}
