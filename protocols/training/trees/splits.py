"""The best split of each node, chosen on shares.

A split of a node puts sums G_L, H_L to the left and G_R, H_R to the right. With a = H_L + lambda, b = H_R + lambda, w_L = G_L / a and
w_R = G_R / b its gain (Chen and Guestrin, 2016, eq. 7, without the factor 1/2 and gamma) is

    G_L^2 / a + G_R^2 / b - G^2 / (H + lambda) = (a b (w_L - w_R)^2 - w^2 lambda (H + lambda)) / (H + 2 lambda)

for the value w of the node itself. Only a b (w_L - w_R)^2 differs between splits of a node: that is compared, without the cancellation of
the left side. Sums are first multiplied by a power of two v that brings H + 2 lambda to 1, so that small nodes are as exact as large ones.

Of splits whose product is within 2^-NEAR of the largest the first is taken: the many that part a node alike, because no example lies
between them, are equal but for rounding. A node has no split if the product is not above v^2 w^2 lambda (H + lambda) + 2^-SMALLEST, or if
no split leaves both children with H of at least the smallest weight: then all of its examples go on to the right. Where no value can be
above 1 (`Units.bounded`) fewer bits are lost, and SMALLEST is FINEST.

**Leaks** nothing to the servers.
"""

from __future__ import annotations

from typing import NamedTuple

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.argmax import OneHotArgmax
from protocols.mpc.operations.moves import Concatenate, Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import AsShare, Open
from protocols.training.trees.ratios import normaliser, quotient, reciprocal, valued
from protocols.training.trees.units import BITS, VALUE, Units

NEAR = 10
"""Splits whose products are within 2^-NEAR of the largest count as equal."""

SMALLEST, FINEST = 30, 40
"""A product must be above 2^-SMALLEST, or 2^-FINEST."""

CUT = 12
"""Bits that products lose before they are compared."""

GROUP = 8
"""Products that are compared all with all."""

TOP = 50
"""Products that are compared lie within +-2^(TOP - 2)."""


class Sums(NamedTuple):
    """Of nodes, as wires with `BITS` fractional bits.

    Attributes:
        gradients: of each output (nodes, columns).
        hessians: (nodes, columns).
    """

    gradients: tuple[int, ...]
    hessians: int


def best(build: Builder, left: Sums, total: Sums, units: Units, allowed: int | None) -> int:
    """One-hot rows of the best split of each node; a wire (nodes, splits), zeros where there is none. Rounds: about 45.

    Args:
        build: where it is written.
        left: sums to the left of each split, (nodes, splits).
        total: of the nodes, (nodes, 1).
        units: of the sums.
        allowed: 0 or 1 for each split, a wire (nodes, splits); None: all are.
    """
    splits, clip, least = build.value(left.hessians).shape[1], units.clip, units.least
    lefts, rights, own = (tuple(range(start, stop)) for start, stop in ((0, splits), (splits, 2 * splits), (2 * splits, 2 * splits + 1)))

    def of(x: int, places: tuple[int, ...]) -> int:
        return build(Take(x, 1, places))

    d = build(Combine((_sides(build, left.hessians, total.hessians),), (1,), units.added))
    heavy = build(Sign(build(Combine((d,), (1,), -least)), BITS + 3))
    both = build(Multiply(of(heavy, lefts), of(heavy, rights)))
    if allowed is not None:
        both = build(Multiply(build(Open(both)), allowed))
    valid = build(Open(build(Concatenate((both, both, build(AsShare(of(heavy, own)))), 1))))
    v = normaliser(build, d, least)
    y = reciprocal(build, build(Open(build(Multiply(d, v)))))
    whole = build(Combine((of(d, own),), (1,), units.added))  # H + 2 lambda
    unit = normaliser(build, whole, least)
    scaled = build(Open(build(Multiply(d, unit))))
    cut = 1 + VALUE + clip  # bits that leave 29 - clip of them
    products, floors = [], []
    for gradients, sums in zip(left.gradients, total.gradients, strict=True):
        counted = build(Open(build(Multiply(valid, _sides(build, gradients, sums)))))
        w = quotient(build, counted, y, v, least, clip)
        apart = valued(build, build(Combine((of(w, lefts), of(w, rights)), (1, -1))), clip)
        factors = [build(Truncate(build(Multiply(apart, of(scaled, places))), cut, 63 - cut)) for places in (lefts, rights)]
        products.append(build(Multiply(*factors)))
        if units.added:
            value = valued(build, of(w, own), clip)
            penalty = build(Combine((unit,), (units.added,)))
            factors = [build(Truncate(build(Multiply(value, x)), cut, 63 - cut)) for x in (of(scaled, own), penalty)]
            floors.append(build(Multiply(*factors)))
    product = build(Truncate(_total(build, products), CUT, 63 - CUT))
    bits = 2 * (29 - clip)
    return _chosen(build, product, floors, bits - (SMALLEST if clip else FINEST))


def _sides(build: Builder, left: int, total: int) -> int:
    """Write sums to the left, to the right, and of the node: (nodes, 2 splits + 1)."""
    return build(Concatenate((left, build(Combine((total, left), (1, -1))), total), 1))


def _total(build: Builder, xs: list[int]) -> int:
    return xs[0] if len(xs) == 1 else build(Combine(tuple(xs), (1,) * len(xs)))


def _chosen(build: Builder, product: int, floors: list[int], smallest: int) -> int:
    """Write the first of the splits whose product, which has lost `CUT` bits, is as good as the largest, if that is above 2^`smallest`."""
    splits = build.value(product).shape[1]
    top = largest(build, product)
    floor = build(Combine((top, *floors), (1 << CUT, *[-1] * len(floors)), -(1 << smallest)))
    splitting = build(Sign(build(Truncate(floor, CUT, 63 - CUT))))
    near = build(Truncate(top, NEAR, 63 - NEAR))
    gap = build(Combine((product, top, near), (2, -2, 2)))
    good = build(Multiply(build(Sign(build(Truncate(gap, 1, TOP)))), splitting))
    many = splits.bit_length() + 3
    counted = build(Truncate(build(Combine((summed_up(build, good),), (2,), -2)), 1, many))
    reached = build(Sign(counted))  # 1 from the first good one on
    before = build(Put((build(Take(reached, 1, tuple(range(splits - 1)))),), 1, (tuple(range(1, splits)),), splits)) if splits > 1 else None
    return build(Open(reached if before is None else build(Combine((reached, before), (1, -1)))))


def summed_up(build: Builder, x: int) -> int:
    """Write the sums of the first elements of each row, (rows, columns): by shifts of 1, 2, 4, ... Rounds: 0."""
    columns, shift = build.value(x).shape[1], 1
    while shift < columns:
        kept = build(Take(x, 1, tuple(range(columns - shift))))
        x = build(Combine((x, build(Put((kept,), 1, (tuple(range(shift, columns)),), columns))), (1, 1)))
        shift *= 2
    return x


def largest(build: Builder, x: int) -> int:
    """Write the largest of each row of affine values of at least 0, (rows, 1); a share. Rounds: 6 for each factor of `GROUP` columns."""
    rows, columns = build.value(x).shape
    if columns == 1:
        return build(AsShare(x))
    while True:
        groups = -(-columns // GROUP)
        width = -(-columns // groups)
        if groups * width > columns:
            x = build(Open(build(Put((x,), 1, (tuple(range(columns)),), groups * width))))
        x = build(Reshape(x, (rows * groups, width)))
        x = build(Reshape(build(Sum(build(Multiply(build(OneHotArgmax(x, TOP)), x)), 1)), (rows, groups)))
        columns = groups
        if columns == 1:
            return x
        x = build(Open(x))
