"""How gradients move weights: the public settings of an optimizer and its operations on shares.

An update is rounded at random without bias (Gupta et al., 2015, arXiv:1502.02551), so that updates smaller than the last digit count on
average.
"""

from __future__ import annotations

import math

import msgspec

from protocols.errors import ModelError
from protocols.training.circuit import Builder, Combine, Truncate
from protocols.training.functions import FRACTION

RATE_BITS = 8
"""Significant bits of the learning rate: it is rounded by at most 0.2 %."""

Shapes = dict[str, tuple[int, ...]]


class GradientDescent(msgspec.Struct, frozen=True, tag=True):
    """W <- W - rate * dW, or with momentum, as in Keras, V <- momentum V - rate dW, W <- W + V.

    Attributes:
        rate: the learning rate, above 0.
        momentum: of each velocity in the next, from 0 up to 1; without it there are no velocities.
    """

    rate: float
    momentum: float = 0.0

    def states(self, shapes: Shapes) -> Shapes:
        """The shape of what is kept beside each weight, by name; it begins at zero."""
        return {f"velocity of {name}": shape for name, shape in shapes.items()} if self.momentum else {}


def factor(optimizer: GradientDescent, scale: float) -> tuple[int, int]:
    """rate * scale as q 2^-s with q below 2^RATE_BITS.

    Raises:
        ModelError: a gradient of 1 would move a weight by less than half of its last digit, or by more than the ring can hold.
    """
    rate = optimizer.rate
    if not (rate > 0 and math.isfinite(rate)) or rate < 2.0 ** -(FRACTION + 1):
        raise ModelError(
            f"the learning rate {rate:g} vanishes in fixed point: a gradient of 1 would move a weight by less than half of its"
            f" last digit, 2^-{FRACTION}; use at least {2.0**-FRACTION:.1e}"
        )
    shift = RATE_BITS - 1 - math.floor(math.log2(rate * scale))
    if shift < 1 - FRACTION or rate > 64:
        raise ModelError(f"the learning rate {rate:g} is too large for fixed point: at most 64 is possible")
    return round(rate * scale * 2.0**shift), shift


def update(
    build: Builder, optimizer: GradientDescent, slopes: dict[str, tuple[int, int]], values: dict[str, int], scale: float
) -> dict[str, int]:
    """The new weights and states by name. Rounds: 1.

    Args:
        build: where the operations go.
        optimizer: how.
        slopes: by the name of a weight its gradient, summed over the batch, a share, and how many fractional bits that has.
        values: the weights and states by name, shares with `FRACTION` fractional bits.
        scale: what turns a slope into the gradient of the loss: 1 / batch, and what the loss itself is scaled by.
    """
    q, shift = factor(optimizer, scale)
    new: dict[str, int] = {}
    for name, (slope, bits) in slopes.items():
        velocity = values.get(f"velocity of {name}")
        change = _change(build, slope, velocity, optimizer.momentum, q=q, drop=shift + bits - FRACTION)
        new[name] = build(Combine((values[name], change), (1, 1)))
        if velocity is not None:
            new[f"velocity of {name}"] = change
    return new


def _change(build: Builder, slope: int, velocity: int | None, momentum: float, *, q: int, drop: int) -> int:
    """momentum * velocity - slope q 2^-drop, in one truncation. Rounds: 1. A `drop` below RATE_BITS is made larger, and q with it."""
    if drop < RATE_BITS:
        q, drop = q << (RATE_BITS - drop), RATE_BITS
    total = Combine((slope,), (-q,))
    if velocity is not None:
        total = Combine((slope, velocity), (-q, round(momentum * 2**drop)))
    return build(Truncate(build(total), drop, 63 - drop))
