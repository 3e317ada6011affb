"""Whether all numbers of a step lie where its arithmetic is right: one secret bit that stays 1 once anything has left.

A sum of numbers with random public signs reaches the largest of them in absolute value with probability 1/2 at least, and seldom much
more than the root of the sum of their squares. Shares are summed without communication, so what is compared is a few sums instead of
every number: `SUMS` for each row of `ROW` activations of an example, and for each weight matrix. Numbers that diverge leave again in the
next example and step.

**Leaks** nothing in a step. The bit of the last step of an epoch is told to the owner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from protocols.mpc.circuit import Builder
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Project, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.training.networks.draft import Signal
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import GRADIENT

SUMS = 2
"""A number outside is missed in one step with a probability of 2^-SUMS."""

ACTIVATIONS = 9
"""Activations, and sums of `ROW` activations with any signs, lie within +-2^ACTIVATIONS = +-512."""

ROW = 256
"""Activations of an example that are summed, at most: the norm of more of them may be large where none of them is."""

WEIGHTS = 14
"""The same for all weights of a matrix: +-16,384."""

FEW = 8
"""Elements of a gradient that are summed, at most, where the optimizer squares them: their norm is near the largest."""

DIGITS = 4
"""Fractional bits that are compared."""

REACH = 30
"""Sums up to 2^REACH are found outside for sure; beyond, activations have wrapped around and are random."""

COUNT = 32
"""How many sums may be outside in a step, in bits."""


def outside(
    build: Builder,
    before: int,
    activations: Sequence[Signal],
    weights: Sequence[int],
    *,
    bits: int = FRACTION,
    gradients: Sequence[Signal] = (),
    scale: float = 1.0,
    sums: Sequence[tuple[Signal, float]] = (),
) -> int:
    """[`before` or any of `activations` (batch, ...), `weights` or gradients outside]; weights with `bits` fractional bits, `before` a bit.

    Gradients are `scale` times `gradients`, for optimizers that square them. `sums` are those of other gradients, of the step before
    (`summed`), each with what it must be below.

    Rounds: 6, beside others. Bytes: 2 `SUMS` comparisons for each `ROW` activations of an example, for each weight matrix, and for each
    `FEW` elements of a gradient.
    """
    counts = [
        _outside(build, build(Project(x.at, SUMS, _row(build.value(x.at).shape[1:], ROW))), 2.0**ACTIVATIONS, x.bits) for x in activations
    ]
    counts += [_outside(build, build(Project(x, SUMS, build.value(x).size)), 2.0**WEIGHTS, bits) for x in weights]
    edge = 2.0**GRADIENT / scale
    counts += [_outside(build, build(Project(x.at, SUMS, _row(build.value(x.at).shape, FEW))), edge, x.bits) for x in gradients]
    counts += [_outside(build, x.at, edge, x.bits) for x, edge in sums]
    total = build(Combine((before, *counts), (2,) + (2,) * len(counts), -2))
    return build(Sign(build(Truncate(total, 1, COUNT))))


def summed(build: Builder, gradient: int) -> int:
    """Return `SUMS` sums of all elements of a gradient with random signs, shares (1, `SUMS`): the next step looks whether it was outside.

    To look in the step itself would make it longer, because its gradient comes last. Rounds: 0.
    """
    return build(Project(gradient, SUMS, build.value(gradient).size))


def _row(shape: Shape, most: int) -> int:
    """How many numbers are summed: all of them, or the largest part of at most `most` into which they can be cut."""
    size = math.prod(shape)
    return max(row for row in range(1, min(size, most) + 1) if size % row == 0)


def _outside(build: Builder, sums: int, bound: float, bits: int) -> int:
    """How many of some sums are outside: 2 n - the number of times that `bound` - s >= 0 or `bound` + s >= 0."""
    edge, drop = round(bound * 2**bits), bits - DIGITS
    inside = [build(Sign(build(Truncate(build(Combine((sums,), (side,), edge)), drop, REACH + DIGITS)))) for side in (1, -1)]
    return build(Sum(build(Combine(tuple(inside), (-1, -1), 2))))
