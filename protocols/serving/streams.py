"""How the randomness of one example is streamed that is larger than the memory for it: see `supply.py`."""

from __future__ import annotations

import msgspec

from protocols.errors import TooLarge
from protocols.mpc import inference
from protocols.mpc.engine import segments
from protocols.mpc.engine.segments import PARTS
from protocols.mpc.program import Program


class Window(msgspec.Struct, frozen=True):
    """How randomness is streamed; it follows from the program and the memory for it, and all three parties know both.

    Attributes:
        segment: bytes of a segment, at most, but of one operation that needs more.
        room: bytes that a server holds of one example at once.
    """

    segment: int
    room: int


def largest_operation(program: Program) -> int:
    """Return the bytes of randomness that the largest operation needs for one example: no server can do with less memory."""
    return max(inference.layout(program).sizes(1).values(), default=0)


def window(program: Program, memory: int) -> Window | None:
    """Return how the randomness of one example is streamed within so many bytes; None where it need not be.

    Raises:
        TooLarge: one operation alone needs more.
    """
    size, most = inference.layout(program).bytes_per_example, largest_operation(program)
    if size <= memory:
        return None
    if most > memory:
        raise TooLarge(f"one example needs {size:,} bytes of randomness at a server, {most:,} of them at once for one operation")
    segment = max(1, memory // PARTS)
    return Window(segment, min(memory, segments.room(inference.segments(program, segment))))
