"""How the bits of a window are cut into blocks for a comparison in one node, and what that costs.

A window of w bits has w - 1 bits to compare and a sign position. The w - 1 bits are cut into B blocks of at most k bits, least significant
first; g_i = [c < r within block i] and p_i = [c = r within block i] are linear in the monomials of the mask bits of the block, of which
there are 2^k - 1. The node joins them: LT = sum_i g_i prod_{j>i} p_j over masked g_0..g_{B-2} and p_1..p_{B-1}.

Order in memory. In a block, bit j of a monomial's mask stands for the j-th *highest* bit: walking down from the top, each new bit doubles
the table of coefficients, and the half without it is just what g needs. For the same reason bit j of a mask over the p stands for
p_{B-1-j}, and the products of masks are dealt in the order in which that walk meets them: for j = 0, 1, ...: p_{B-1-j} times each
non-empty product of the p above it, then g_{B-2-j} times each non-empty product of the p from B-1-j up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from protocols.errors import ProgramError

LARGEST_BLOCK = 8
MOST_BLOCKS = 8


@dataclass(frozen=True)
class Blocks:
    """A window of `window` bits cut into blocks of `sizes` bits, least significant first."""

    window: int
    sizes: tuple[int, ...]

    @property
    def table(self) -> npt.NDArray[np.int64]:
        """The sizes as the kernels take them."""
        return np.array(self.sizes, np.int64)

    @property
    def count(self) -> int:
        """B, the number of blocks."""
        return len(self.sizes)

    @property
    def opened(self) -> int:
        """Bits opened an element and direction: 2 (B - 1)."""
        return 2 * (self.count - 1)

    @property
    def monomials(self) -> int:
        """Planes of mask monomials, the sign position included: sum(2^k - 1) + 1."""
        return sum((1 << size) - 1 for size in self.sizes) + 1

    @property
    def products(self) -> int:
        """Planes of products of the node's masks that must be dealt: single masks are free."""
        pairs = self.count - 1
        return (1 << pairs) - 1 + (2 << pairs) - 2 - 2 * pairs

    @property
    def dealt(self) -> int:
        """Bits that party 1 is told an element."""
        return self.monomials + self.products


@cache
def blocks_for(window: int) -> Blocks:
    """Return the cheapest cut of a window: dealt bits plus four times the opened bits, which are on the critical path.

    Raises:
        ProgramError: the window is too wide for one node.
    """
    cuts = [_cut(window, count) for count in range(1, MOST_BLOCKS + 1) if math.ceil((window - 1) / count) <= LARGEST_BLOCK]
    if not cuts:
        raise ProgramError(f"a window of {window} bits cannot be compared in one node; at most {LARGEST_BLOCK * MOST_BLOCKS + 1} bits fit")
    return min(cuts, key=lambda blocks: blocks.dealt + 4 * blocks.opened)


def _cut(window: int, count: int) -> Blocks:
    short, longer = divmod(window - 1, count)
    return Blocks(window, tuple(short + (i < longer) for i in range(count) if short + (i < longer)))
