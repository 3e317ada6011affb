"""Trees grown level by level: histograms as products of matrices, the best split of each node, and where examples go.

All trees are complete binary trees of one depth. Which split a node has is a secret row of zeros and a one; which examples are in it is a
secret column of zeros and ones. So a level costs the same whatever the data are, and nothing depends on them but shares:

- sums of gradients and Hessians to the left of every split of a node: the product of those of its examples and the matrix that says which
  examples are to the left of which split. Of two sisters one is computed, the other is what is left of their parent;
- the one-hot split of each node (`splits.py`);
- r = whether an example would go left in a node: the product of that matrix and the split. What an example has in a node, times r, is what
  it has in the left child. All of it is integers, exact.

Nodes of a level stand tree by tree, from left to right.
"""

from __future__ import annotations

from typing import NamedTuple

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Concatenate, Permute, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Scale, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.window import COUNT
from protocols.training.trees.ratios import normaliser, quotient, reciprocal, valued
from protocols.training.trees.splits import Sums, best
from protocols.training.trees.units import BITS, Units


class Grown(NamedTuple):
    """What comes of growing trees.

    Attributes:
        splits: of the nodes of all levels, from the root down, 1 + the number of the split or 0 for none; a share (1, nodes).
        values: of the leaves G / (H + lambda), affine with `VALUE` fractional bits, one (leaves, 1) for each output.
        members: whether an example is in a leaf, a wire (n, leaves); None if nobody asked.
    """

    splits: int
    values: tuple[int, ...]
    members: int | None


class Roots(NamedTuple):
    """What each example has at the roots, as wires (n, trees).

    Attributes:
        gradients: of each output, with `Units.bits` fractional bits.
        hessians: the same.
        members: ones, if it is asked where examples end up; may be the Hessians, if all of them are 1.
    """

    gradients: tuple[int, ...]
    hessians: int
    members: int | None


def grow(build: Builder, left: int, roots: Roots, depth: int, units: Units, allowed: tuple[int, ...] = ()) -> Grown:
    """Grow trees.

    Rounds: about 50 a level.

    Args:
        build: where it is written.
        left: whether an example is to the left of a split, a wire (n, splits).
        roots: see `Roots`.
        depth: how many splits lie between a root and its leaves.
        units: of gradients and Hessians.
        allowed: at each level which splits a node may have, a wire (nodes, splits); empty: all of them.
    """
    summed = len(roots.gradients) + 1
    own = roots.members is not None
    channels = (*roots.gradients, roots.hessians, *([roots.members] if roots.members is not None else ()))
    n, trees = build.value(roots.hessians).shape
    stack = _stacked(build, channels, (n, 1, trees))  # (n, channels, nodes)
    fresh, totals = stack, build(Sum(stack, 0, keep=False))  # (channels, nodes)
    total = _rows(build, totals, summed, trees)
    before: Sums | None = None
    chosen: list[int] = []
    for level in range(depth):
        nodes = trees << level
        sums = _histograms(build, fresh, left, summed)
        if before is not None:
            sums = _with_sisters(build, sums, before)
        before = sums
        split = best(build, sums, total, units, allowed[level] if allowed else None)
        chosen.append(_numbers(build, split))
        total = _children(build, sums, total, split)
        last = level == depth - 1
        if last and not own:
            break
        goes = build(Open(build(MatMul(left, split, transpose_y=True))))  # (n, nodes)
        goes = build(Reshape(goes, (n, 1, nodes)))
        if last:
            stack = build(Take(stack, 1, (len(channels) - 1,)))
        fresh = build(Open(build(Multiply(stack, goes))))
        stack = _interleaved(build, fresh, build(Combine((stack, fresh), (1, -1))), 2)
    members = build(Reshape(stack, (n, trees << depth))) if own else None
    splits = build(Reshape(build(Concatenate(tuple(chosen), 0)), (1, trees * ((1 << depth) - 1))))
    return Grown(splits, _values(build, total, units), members)


def _stacked(build: Builder, xs: tuple[int, ...], shape: tuple[int, int, int]) -> int:
    return build(Concatenate(tuple(build(Reshape(x, shape)) for x in xs), 1))


def _rows(build: Builder, totals: int, summed: int, nodes: int) -> Sums:
    rows = [build(Reshape(build(Take(totals, 0, (channel,))), (nodes, 1))) for channel in range(summed)]
    return Sums(tuple(rows[:-1]), rows[-1])


def _histograms(build: Builder, stack: int, left: int, summed: int) -> Sums:
    """Write sums to the left of each split, (nodes, splits)."""
    n, _, nodes = build.value(stack).shape
    found = []
    flat = build(Reshape(build(Take(stack, 1, tuple(range(summed)))), (n, summed * nodes)))
    sums = build(Open(build(MatMul(flat, left, transpose_x=True))))
    found = [build(Take(sums, 0, tuple(range(channel * nodes, (channel + 1) * nodes)))) for channel in range(summed)]
    return Sums(tuple(found[:-1]), found[-1])


def _with_sisters(build: Builder, left: Sums, parents: Sums) -> Sums:
    """Join sums of left children with those of their sisters, which have the rest of their parents."""

    def pair(mine: int, parent: int) -> int:
        return _interleaved(build, mine, build(Combine((parent, mine), (1, -1))), 0)

    gradients = tuple(pair(mine, parent) for mine, parent in zip(left.gradients, parents.gradients, strict=True))
    return Sums(gradients, pair(left.hessians, parents.hessians))


def _interleaved(build: Builder, first: int, second: int, axis: int) -> int:
    """Elements of two values in turn along an axis."""
    shape = build.value(first).shape
    apart = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    both = build(Concatenate(tuple(build(Reshape(x, apart)) for x in (first, second)), axis + 1))
    return build(Reshape(both, (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])))


def _numbers(build: Builder, split: int) -> int:
    """1 + the number of the split of each node, or 0; (nodes,)."""
    _, splits = build.value(split).shape
    return build(Sum(build(Scale(split, tuple(range(1, splits + 1)), (splits,))), 1, keep=False))


def _children(build: Builder, sums: Sums, total: Sums, split: int) -> Sums:
    """Write sums of the children of nodes, (2 nodes, 1)."""
    nodes, splits = build.value(split).shape
    column = build(Reshape(split, (nodes, splits, 1)))

    def halves(x: int, whole: int) -> int:
        product = build(MatMul(build(Reshape(x, (nodes, 1, splits))), column))
        first = build(Reshape(build(Open(product)), (nodes, 1)))
        return _interleaved(build, first, build(Combine((whole, first), (1, -1))), 0)

    gradients = tuple(halves(x, whole) for x, whole in zip(sums.gradients, total.gradients, strict=True))
    return Sums(gradients, halves(sums.hessians, total.hessians))


def _values(build: Builder, total: Sums, units: Units) -> tuple[int, ...]:
    """G / (H + lambda) of leaves; 0 where H is below what a child must have."""
    d = build(Combine((total.hessians,), (1,), units.added))
    valid = build(Sign(build(Combine((d,), (1,), -units.least)), BITS + 3))
    v = normaliser(build, d, units.least)
    y = reciprocal(build, build(Open(build(Multiply(d, v)))))
    values = []
    for gradients in total.gradients:
        counted = build(Open(build(Multiply(valid, gradients))))
        values.append(valued(build, quotient(build, counted, y, v, units.least, units.clip), units.clip))
    return tuple(values)


def in_bits(build: Builder, x: int, have: int, want: int) -> int:
    """Give a share other fractional bits, as a wire."""
    if have > want:
        x = build(Truncate(x, have - want, 63 - have + want))
    elif have < want:
        x = build(Combine((x,), (1 << (want - have),)))
    return build(Open(x))


def moved(build: Builder, members: int, values: int, trees: int) -> int:
    """Write what the leaves of examples add to their scores: the product of who is where and wires (leaves, 1); a share (n, trees)."""
    n, leaves = build.value(members).shape
    each = build(Permute(build(Reshape(members, (n, trees, leaves // trees))), (1, 0, 2)))
    product = build(MatMul(each, build(Reshape(values, (trees, leaves // trees, 1)))))
    return build(Reshape(build(Permute(product, (1, 0, 2))), (n, trees)))


def put(build: Builder, rows: int, row: int) -> int:
    """Rows without the first, and another one at the end."""
    count = build.value(rows).shape[0]
    return row if count == 1 else build(Concatenate((build(Take(rows, 0, tuple(range(1, count)))), row), 0))


def beyond(build: Builder, x: int, edge: float, bits: int, window: int, before: int) -> int:
    """[`before` or any element of a share with `bits` fractional bits beyond +-`edge`]. Rounds: 6. Bytes: 2 comparisons an element."""
    limit = round(edge * 2**bits)
    inside = [build(Sign(build(Truncate(build(Combine((x,), (2 * side,), 2 * limit)), 1, window)))) for side in (1, -1)]
    count = build(Sum(build(Combine(tuple(inside), (-1, -1), 2))))
    return build(Sign(build(Truncate(build(Combine((before, count), (2, 2), -2)), 1, COUNT))))
