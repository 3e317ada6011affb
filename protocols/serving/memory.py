"""How the memory for one kind of answer is divided: into chunks of whole examples, or into streams of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocols.errors import TooLarge
from protocols.mpc import inference
from protocols.mpc.program import Program
from protocols.serving.hosting import MOST_MEMORY
from protocols.serving.streams import Window, largest_operation, window
from protocols.serving.ticket import Reveal

CHUNK_BYTES = 24 << 20
LARGEST_CHUNK = 64


@dataclass(frozen=True)
class MemoryPlan:
    """What is dealt for a program within a memory.

    Attributes:
        how: an example is streamed; None: whole.
        chunk: examples of a chunk.
        capacity: the most examples that fit.
    """

    how: Window | None
    chunk: int
    capacity: int


def memory_plan(program: Program, memory: int) -> MemoryPlan:
    """Return how randomness is dealt within so many bytes.

    Raises:
        TooLarge: one operation alone needs more.
    """
    how = window(program, memory)
    if how is not None:
        return MemoryPlan(how, 1, memory // how.room)
    size = inference.layout(program).bytes_per_example
    return MemoryPlan(None, _chunk_size(size, memory // size), memory // size)


def memory_plans(name: str, program: Program, reveal: Sequence[Reveal], memory: int) -> dict[Reveal, MemoryPlan]:
    """Return how randomness is dealt for each of the kinds of answer that a model gives, within so many bytes together.

    Raises:
        TooLarge: one operation alone needs more than the part of its kind.
    """
    part = min(memory, MOST_MEMORY) // len(reveal)
    programs = {kind: program.for_label() if kind == "label" else program for kind in reveal}
    try:
        return {kind: memory_plan(one, part) for kind, one in programs.items()}
    except TooLarge as error:
        raise TooLarge(
            f"model {name!r}: {error}, and {memory:,} bytes are allowed for {len(reveal)} kinds of answer; serve fewer kinds, or with more "
            f"memory, up to {MOST_MEMORY:,} bytes ({len(reveal) * max(map(largest_operation, programs.values())):,} are needed; "
            "share(memory=) cuts operations)"
        ) from None


def _chunk_size(size: int, capacity: int) -> int:
    """Return the largest power of two of examples that fits `CHUNK_BYTES`, half the capacity, and `LARGEST_CHUNK`."""
    most = max(1, min(CHUNK_BYTES // size, capacity // 2, LARGEST_CHUNK))
    return 1 << (most.bit_length() - 1)
