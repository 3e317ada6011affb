"""Reverse-mode differentiation (Griewank and Walther, 2008, chapter 3): one walk back over the operations of a program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.tape import Tape

Rule = Callable[[Tape, int, int, int], int]
"""As `Operation.gradient`."""


def gradients(
    tape: Tape,
    ops: Sequence[Operation],
    known: Mapping[int, int],
    wanted: Collection[int],
    own: Mapping[int, Rule] | None = None,
    reads: Mapping[int, tuple[int, ...]] | None = None,
) -> dict[int, int]:
    """Write the gradients of a loss by the `wanted` values from those by the `known` ones.

    Nothing is written for values from which no way leads to a wanted one, so that the inputs of a network cost nothing.

    Args:
        tape: where they are written.
        ops: what has been written before.
        known: by the position of a value that of the gradient by it.
        wanted: positions of values.
        own: rules of values that are taken in place of those of their operations.
        reads: values whose own rule is that of a function of these values, written as many operations, which are passed over.

    Returns:
        By the position of a wanted value that of the gradient by it. It is left out where it is 0 for sure.

    Raises:
        ProgramError: an operation on the way has no gradient.
    """
    reads = reads or {}
    ops, leads = tuple(ops), leading(ops, wanted, reads)
    found: dict[int, list[int]] = {at: [gradient] for at, gradient in known.items()}
    for at in reversed(range(max(known) + 1)):
        sides = [(side, x) for side, x in enumerate(reads.get(at, ops[at].operands)) if leads[x]]
        if at not in found or not leads[at] or ops[at].flat or not sides:
            continue
        gradient, rule = tape.total(found[at]), (own or {}).get(at, ops[at].gradient)
        for side, x in sides:
            try:
                found.setdefault(x, []).append(rule(tape, at, gradient, side))
            except NotImplementedError:
                raise ProgramError(f"operation {at} ({type(ops[at]).__name__}) has no gradient: {ops[at].ungraded}") from None
    return {x: tape.total(found[x]) for x in wanted if x in found}


def leading(ops: Sequence[Operation], wanted: Collection[int], reads: Mapping[int, tuple[int, ...]]) -> list[bool]:
    """Say of each value whether it changes smoothly with a wanted one."""
    leads: list[bool] = []
    for at, op in enumerate(ops):
        leads.append(at in wanted or (not op.flat and any(leads[x] for x in reads.get(at, op.operands))))
    return leads
