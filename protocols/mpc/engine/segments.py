"""A program cut into segments: consecutive operations whose randomness is made, sent, used and freed together.

The cut follows from public things alone, so that all parties make the same one. Own and dealt words lie in the order of the operations, so
that the segments of a program consume the very words that the whole does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from protocols.mpc.parties.material import Layout

PARTS = 8
"""Segments of which as many fit the memory, where no operation needs more: one is in use, another one comes, others wait for requests."""

MEMORY = 256 << 20
"""Bytes of randomness that a server holds for one model, unless its owner says otherwise."""


@dataclass(frozen=True)
class Segment:
    """Consecutive operations.

    Attributes:
        positions: theirs.
        layout: of their randomness.
    """

    positions: range
    layout: Layout

    def size(self, examples: int) -> int:
        """Return the bytes of randomness that one party needs for it."""
        return 8 * (self.layout.words(examples, dealt=False) + self.layout.words(examples, dealt=True))


def cut(count: int, layout: Layout, most: int | None, examples: int = 1) -> tuple[Segment, ...]:
    """Return the segments of a program of `count` operations, as few and as early as possible.

    Args:
        count: of operations.
        layout: of the whole program.
        most: bytes of randomness of a segment; an operation that alone needs more is a segment of its own. None: it is not cut.
        examples: how many are evaluated together.
    """
    if most is None:
        return (Segment(range(count), layout),)
    sizes = layout.sizes(examples)
    starts, size = [0], 0
    for at in range(count):
        mine = sizes.get(at, 0)
        if size and mine and size + mine > most:
            starts.append(at)
            size = 0
        size += mine
    return tuple(
        Segment(range(start, stop), layout.of(range(start, stop))) for start, stop in zip(starts, [*starts[1:], count], strict=True)
    )


def room(segments: tuple[Segment, ...], examples: int = 1) -> int:
    """Return the bytes in which one segment is used while the next one is made: those of the largest two neighbours."""
    sizes = [segment.size(examples) for segment in segments]
    return max([*(one + other for one, other in itertools.pairwise(sizes)), *sizes[:1]])
