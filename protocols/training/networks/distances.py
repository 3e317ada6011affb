"""Losses beside cross-entropies and squares: how far outputs are from targets, as pieces of straight lines, and the way back.

Each gives the gradient by the outputs, and its own value as the metric; pieces are made by the owner of a model (`owner/objectives`).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.argmax import OneHotArgmax
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.draft import Signal
from protocols.training.networks.functions import FRACTION, SPLINE, WINDOW, spline
from protocols.training.networks.moments import MEAN, QUOTIENT, SQUARE, divided, reduced
from protocols.training.networks.nonlinear import Pieces
from protocols.training.networks.window import Watched

ENDS = 9
"""Outputs, which are watched, and targets, which are checked when they are stored, lie within +-2^ENDS."""

STEEPEST = 11
"""Outputs of which a cosine is taken have a norm above 2^-STEEPEST."""

NORM = 6
"""Norms of outputs and targets of which a cosine is taken lie below 2^NORM."""


class Distance(NamedTuple):
    """What a loss gives, as positions.

    Attributes:
        wire: the gradient by the outputs, with `FRACTION` fractional bits, up to `Compared.scale`.
        values: the losses, with 2 `FRACTION` fractional bits, of any shape.
        large: what must be an activation.
        sums: what else must be watched.
    """

    wire: int
    values: int
    large: tuple[Signal, ...] = ()
    sums: tuple[Watched, ...] = ()


class ErrorLoss(msgspec.Struct, frozen=True, tag=True):
    """A function of the error d = z - y of each output: mean absolute error, Huber, log cosh. Rounds: 5.

    Attributes:
        name: of Keras' function.
        slope: its derivative.
        value: itself; of Huber (1964), whose derivative s is d cut at both ends, None: it is s (d - s / 2).
    """

    name: str
    slope: Pieces
    value: Pieces | None = None

    @property
    def steepest(self) -> float:
        """The largest derivative."""
        return _most(self.slope, 2.0 ** (ENDS + 1))

    def most(self, *, truths: bool) -> float:
        """Return what an output adds to the loss, at most."""
        return max(1.0, min(self.steepest, 2.0 ** (ENDS + 1))) * 2.0 ** (ENDS + 1)

    def scale(self, outputs: int) -> float:
        """Return the factor of what `write` gives in the gradient of the loss."""
        return 1 / outputs

    def numbers(self, outputs: int) -> int:
        """Of how many numbers of an example the loss is a mean."""
        return outputs

    def write(self, build: Builder, z: int, y: int, outputs: int) -> Distance:
        """Write it for affine outputs and targets that are a wire."""
        d = build(Combine((z, y), (1, -1)))
        slope = _cut(build, _pieced(build, d, self.slope))
        wire = build(Open(slope))
        if self.value is not None:
            return Distance(wire, _pieced(build, d, self.value))
        twice = build(Combine((d, wire), (2, -1)))
        return Distance(wire, reduced(build, build(Multiply(wire, build(Open(twice)))), 1))


class TargetLoss(msgspec.Struct, frozen=True, tag=True):
    """A(z) + y B(z) of each output: hinge losses and focal ones for truths y of 0 and 1, Poisson for any y. Rounds: 6.

    Attributes:
        name: of Keras' function.
        slopes: the derivatives of A and B.
        values: A and B; None if the loss is the square of the derivative, which then is half of its own.
        truths: whether targets must be 0 and 1.
        signs: whether they are held as -1 and 1.
        bounded: whether A stands for a function only as long as it is an activation.
    """

    name: str
    slopes: tuple[Pieces, Pieces]
    values: tuple[Pieces, Pieces] | None = None
    truths: bool = True
    signs: bool = False
    bounded: bool = False

    def most(self, *, truths: bool) -> float:
        """Return what an output adds to the loss, at most."""
        end = 1.0 if truths else 2.0**ENDS
        if self.values is None:
            return (_most(self.slopes[0], 2.0**ENDS) + end * _most(self.slopes[1], 2.0**ENDS)) ** 2
        return _most(self.values[0], 2.0**ENDS) + end * _most(self.values[1], 2.0**ENDS)

    def scale(self, outputs: int) -> float:
        """Return the factor of what `write` gives in the gradient of the loss."""
        return (2 if self.values is None else 1) / outputs

    def numbers(self, outputs: int) -> int:
        """Of how many numbers of an example the loss is a mean."""
        return outputs

    def write(self, build: Builder, z: int, y: int, outputs: int) -> Distance:
        """Write it for affine outputs and targets that are a wire."""
        if self.signs:
            half = build(Combine((y,), (1,), 1 << FRACTION))
            y = build(Truncate(half, 1, WINDOW))
        slope = self._both(build, z, y, self.slopes)
        wire = build(Open(slope))
        if self.values is None:
            return Distance(wire, build(Multiply(wire, wire)))
        first = _pieced(build, z, self.values[0])
        second = build(Multiply(y, _cut(build, _pieced(build, z, self.values[1]))))
        large = (Signal(_cut(build, first), FRACTION),) if self.bounded else ()
        return Distance(wire, build(Combine((first, second), (1, 1))), large)

    def _both(self, build: Builder, z: int, y: int, pieces: tuple[Pieces, Pieces]) -> int:
        """A(z) + y B(z), affine, with `FRACTION` fractional bits."""
        first, second = (_pieced(build, z, one) for one in pieces)
        return _cut(build, build(Combine((first, build(Multiply(y, _cut(build, second)))), (1, 1))))


class CategoricalHinge(msgspec.Struct, frozen=True, tag=True):
    """max(0, 1 + max((1 - y) z) - sum y z) for one-hot rows y. Of equals the first is the largest. Rounds: 11 for 10 classes."""

    name: str = "categorical_hinge"

    def most(self, *, truths: bool) -> float:
        """Return what an example adds to the loss, at most."""
        return 2.0 ** (ENDS + 1) + 1

    def scale(self, outputs: int) -> float:
        """Return the factor of what `write` gives in the gradient of the loss."""
        return 1.0

    def numbers(self, outputs: int) -> int:
        """Of how many numbers of an example the loss is a mean."""
        return 1

    def write(self, build: Builder, z: int, y: int, outputs: int) -> Distance:
        """Write it for affine outputs and targets that are a wire."""
        own = build(Multiply(y, z))
        others = build(Truncate(build(Combine((z, own), (1 << FRACTION, -1))), FRACTION, WINDOW))
        first = build(OneHotArgmax(others, WINDOW))
        largest = build(Sum(build(Multiply(first, others)), 1))
        sums = build(Sum(own, 1))
        margin = build(Open(_cut(build, build(Combine((largest, sums), (1 << FRACTION, -1), 1 << (2 * FRACTION))))))
        over = build(Sign(margin, WINDOW + 2, strict=True))
        most = build(Multiply(first, build(Combine((y,), (-1,), 1 << FRACTION))))  # not the class itself: its factor is 0
        way = build(Open(build(Combine((most, y), (1, -1)))))
        wire = build(Open(build(Multiply(over, way))))
        return Distance(wire, build(Combine((build(Multiply(over, margin)),), (1 << FRACTION,))))


class CosineSimilarity(msgspec.Struct, frozen=True, tag=True):
    """- (y / |y|) (z / |z|): norms must be below 2^`NORM`, that of z above 2^-`STEEPEST`, which is watched. Rounds: 34.

    With u = z / |z| and v = y / |y| its gradient is ((u v) u - v) / |z|.
    """

    name: str = "cosine_similarity"

    def most(self, *, truths: bool) -> float:
        """Return what an example adds to the loss, at most."""
        return 2.0

    def scale(self, outputs: int) -> float:
        """Return the factor of what `write` gives in the gradient of the loss."""
        return 1.0

    def numbers(self, outputs: int) -> int:
        """Of how many numbers of an example the loss is a mean."""
        return 1

    def write(self, build: Builder, z: int, y: int, outputs: int) -> Distance:
        """Write it for affine outputs and targets that are a wire."""
        both = [self._directed(build, x) for x in (z, y)]
        (u, by), (v, _) = both
        cosine = _cut(build, build(Sum(build(Multiply(u, v)), 1)), MEAN * 2 - FRACTION)
        along = _cut(build, build(Multiply(cosine, u)), FRACTION)
        way = build(Open(build(Combine((along, v), (1, -1)))))
        wire = build(Open(_cut(build, build(Multiply(way, by)), 2 * MEAN - FRACTION)))
        edge = 4.0**NORM * 2.0 ** (2 * FRACTION)
        squares = [Watched(build(Sum(build(Multiply(x, x)), 1)), edge) for x in (z, y)]
        sums = (*squares, Watched(by, 2.0 ** (MEAN + STEEPEST)))
        return Distance(wire, build(Combine((cosine,), (-(1 << FRACTION),))), sums=sums)

    def _directed(self, build: Builder, x: int) -> tuple[int, int]:
        """x / |x| and 1 / |x|, affine, with `MEAN` fractional bits."""
        squares = build(Sum(build(Multiply(x, x)), 1))
        scaled = build(Combine((squares,), (1 << (SQUARE - 2 * FRACTION),)))
        one = build(Combine((squares,), (0,), 1 << MEAN))
        inverse = reduced(build, divided(build, one, scaled, refined=True), QUOTIENT - MEAN)
        return _cut(build, build(Multiply(x, inverse))), inverse


Compared = ErrorLoss | TargetLoss | CategoricalHinge | CosineSimilarity


def _pieced(build: Builder, x: int, pieces: Pieces) -> int:
    """Pieces of a share within +-2^(`ENDS` + 1) with `FRACTION` fractional bits; a share with `SPLINE`. Rounds: 3."""
    return build(spline(x, pieces, window=WINDOW + 1))


def _cut(build: Builder, x: int, drop: int = SPLINE - FRACTION) -> int:
    """Cut fractional bits off a share; affine. Rounds: 1."""
    return build(Truncate(x, drop, 63 - drop))


def _most(pieces: Pieces, end: float) -> float:
    """Return the largest absolute value over +-`end`: it is at a knot, or at an end."""
    edges = (-end, *pieces.knots, end)
    inner = range(len(pieces.slopes))
    return max(abs(pieces.slopes[k] * x + pieces.offsets[k]) for k in inner for x in (edges[k], edges[k + 1]))
