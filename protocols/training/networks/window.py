"""Whether all numbers of a step lie where its arithmetic is right: one secret bit that stays 1 once anything has left.

A sum of numbers with random public signs reaches the largest of them in absolute value with probability 1/2 at least, and seldom much
more than the root of the sum of their squares. Shares are summed without communication, so what is compared is a few sums instead of
every number: `SUMS` for each row of `ROW` activations of an example, and `SUMS` for all weights, velocities and gradients together, each
in units of what it must be below. Numbers that diverge leave again in the next example and step.

**Leaks** nothing in a step. The bit of the last step of an epoch is told to the owner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from protocols.mpc.circuit import Builder
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Project, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.training.networks.attention import SCORES
from protocols.training.networks.draft import Signal
from protocols.training.networks.functions import PRECISE, SoftmaxValues

SUMS = 2
"""A number outside is missed in one step with a probability of 2^-SUMS."""

ACTIVATIONS = 9
"""Activations, and sums of `ROW` activations with any signs, lie within +-2^ACTIVATIONS = +-512."""

ROW = 256
"""Activations of an example that are summed, at most: the norm of more of them may be large where none of them is."""

WEIGHTS = 14
"""The same for weights: +-16,384."""

FEW = 8
"""Elements of a gradient that are summed, at most, where the optimizer squares them: their norm is near the largest."""

DIGITS = 4
"""Fractional bits that are compared."""

REACH = 30
"""Sums of activations, and of a few elements of a gradient, are found outside for sure up to 2^REACH; beyond, they have wrapped around and
are random. Sums of weights have not, and are found outside up to 2^62, as integers, to which no step leads from inside."""

RESOLVED = 8
"""Weights, velocities and gradients are compared with what they must be below to one part in 2^RESOLVED."""

COUNT = 32
"""How many sums may be outside in a step, in bits."""


class Watched(NamedTuple):
    """Shares that must be between -`edge` and `edge`, as integers."""

    at: int
    edge: float


def outside(
    build: Builder,
    before: int,
    activations: Sequence[Signal],
    sums: Sequence[Watched],
    *,
    gradients: Sequence[Watched] = (),
    scores: Sequence[Signal] = (),
    strange: Sequence[int] = (),
) -> int:
    """[`before` or any of `activations` (batch, ...), `sums` or `gradients` outside]; `before` a bit, `sums` as `summed` gives them.

    Of `gradients`, for optimizers that square them, and of quotients each element is looked at with few others. `scores` go into a softmax;
    `strange` are counts, (1,), that are 0 if all is well.

    Rounds: 6, beside others. Bytes: 2 `SUMS` comparisons for each `ROW` activations of an example, for each of `sums`, and for each
    `FEW` elements of a gradient.
    """
    counts = [
        _outside(build, build(Project(x.at, SUMS, _row(build.value(x.at).shape[1:], ROW))), 2.0**ACTIVATIONS, x.bits) for x in activations
    ]
    counts += [_outside(build, build(Project(x.at, SUMS, _row(build.value(x.at).shape[1:], ROW))), 2.0**SCORES, x.bits) for x in scores]
    counts += strange
    few = [Watched(build(Project(x.at, SUMS, _row(build.value(x.at).shape, FEW))), x.edge) for x in gradients]
    for x, most in (*((x, REACH + DIGITS) for x in few), *((x, 63) for x in sums)):
        drop = math.ceil(math.log2(x.edge)) - RESOLVED
        counts.append(_beyond(build, x.at, round(x.edge), drop, min(63 - drop, most)))
    total = build(Combine((before, *counts), (2,) + (2,) * len(counts), -2))
    return build(Sign(build(Truncate(total, 1, COUNT))))


def apart(build: Builder, found: SoftmaxValues, classes: int) -> Watched:
    """Return what shows that logits of a softmax are too far apart: the sum of exponentials below the largest, at most `classes`.

    Logits within +-512 may be further apart than that: what `exp` gives is not e^x there, but grows as e^(-512 - x), and another logit
    may be taken for the largest. Not found are those apart by 512 to 512 + log(`classes`).
    """
    total = build(Reshape(found.total, (build.value(found.total).size, 1)))
    return Watched(total, classes * 2.0**PRECISE * (1 + 4 * 2.0**-RESOLVED))


def summed(build: Builder, parts: Sequence[Watched], choice: int = 0) -> Watched:
    """Return `SUMS` sums of all elements of some shares with random signs, (1, `SUMS`), each in a unit in which all have the same edge.

    Another `choice` has other signs. Rounds: 0.
    """
    sums = [Watched(build(Project(part.at, SUMS, build.value(part.at).size, choice + i)), part.edge) for i, part in enumerate(parts)]
    return together(build, sums)


def together(build: Builder, sums: Sequence[Watched]) -> Watched:
    """Return sums of sums, each in a unit in which all have the same edge. Rounds: 0."""
    edge = max(part.edge for part in sums)
    return Watched(build(Combine(tuple(part.at for part in sums), tuple(math.ceil(edge / part.edge) for part in sums))), edge)


def _row(shape: Shape, most: int) -> int:
    """How many numbers are summed: all of them, or the largest part of at most `most` into which they can be cut."""
    size = math.prod(shape)
    return max(row for row in range(1, min(size, most) + 1) if size % row == 0)


def _outside(build: Builder, sums: int, bound: float, bits: int) -> int:
    """How many of some sums with `bits` fractional bits are beyond +-`bound`."""
    drop = bits - DIGITS  # a value with many bits is what is watched already, times a factor that the ring has room for
    return _beyond(build, sums, round(bound * 2**bits), drop, min(63 - drop, REACH + DIGITS))


def _beyond(build: Builder, sums: int, edge: int, drop: int, window: int) -> int:
    """How many of some sums are beyond +-`edge`: 2 n - the number of times that `edge` - s >= 0 or `edge` + s >= 0."""
    inside = [build(Sign(build(Truncate(build(Combine((sums,), (side,), edge)), drop, window)))) for side in (1, -1)]
    return build(Sum(build(Combine(tuple(inside), (-1, -1), 2))))
