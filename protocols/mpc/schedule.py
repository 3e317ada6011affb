"""In which order a program runs, so that operations that do not wait for each other share their rounds."""

from __future__ import annotations

from functools import lru_cache

from protocols.mpc.local import operands
from protocols.mpc.operations.instructions import Argmax, ClampedInput, Open, Piecewise, Select, Truncate
from protocols.mpc.program import Program

INTERACTIVE = (ClampedInput, Open, Truncate, Select, Piecewise, Argmax)
"""The operations that need messages; all others are computed by each server alone."""


@lru_cache(maxsize=64)
def stages(program: Program) -> tuple[tuple[int, ...], ...]:
    """Groups of positions: everything local that is ready, then everything interactive that is ready, and so on."""
    done: set[int] = set()
    waiting = list(range(len(program.ops)))
    groups: list[tuple[int, ...]] = []
    while waiting:
        group: list[int] = []
        for position in waiting:
            op = program.ops[position]
            if not isinstance(op, INTERACTIVE) and done.issuperset(operands(op)):
                group.append(position)
                done.add(position)
        if not group:
            group = [position for position in waiting if done.issuperset(operands(program.ops[position]))]
            done.update(group)
        waiting = [position for position in waiting if position not in done]
        groups.append(tuple(group))
    return tuple(groups)
