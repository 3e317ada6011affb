"""What a program computes, in the clear: slow, obviously right, and the oracle of every test.

Integers modulo 2^64 in plain numpy; none of the kernels of this package. Where the protocols need a sum to stay inside its window, this
raises, so that tests find windows that are too small.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from protocols.mpc.engine import loops
from protocols.mpc.engine.sides import Clear, Rounding
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.wires import INPUT
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program, infer


def evaluate(program: Program, weights: Sequence[Ring], x: Ring, *, rounding: Rounding | None = None) -> Ring:
    """Return the output (examples, *output_shape) of a program for integers `x` (examples, *input_shape); see `trace`."""
    return trace(program, weights, x, rounding=rounding)[-1]


def trace(program: Program, weights: Sequence[Ring], x: Ring, *, rounding: Rounding | None = None) -> list[Ring]:
    """Every value of a program, in order.

    Args:
        program: what to compute.
        weights: its weights as integers, in the shapes of `program.weights`.
        x: encoded examples.
        rounding: the random bits of truncation; all zero (rounding down) if None.

    Raises:
        WindowError: a sum, or a difference that an arg max compares, left its window: |Z| > 2^(drop + w - 1) - 2^(drop + 1).

    Noise is left out. The arg max is that of the exact values; a protocol that drops bits may choose another of those within 2^drop of
    the largest.
    """
    values = outputs(program, weights, x, range(len(program.ops)), rounding=rounding)
    return [values[position] for position in range(len(program.ops))]


def outputs(
    program: Program,
    weights: Sequence[Ring],
    x: Ring,
    wanted: Collection[int],
    *,
    rounding: Rounding | None = None,
    fast: bool = False,
) -> dict[int, Ring]:
    """Compute some values of a program by position; the others are forgotten as soon as nothing needs them. See `trace`.

    Args:
        program: what to compute.
        weights: its weights.
        x: encoded examples.
        wanted: positions of the values.
        rounding: the random bits of truncation.
        fast: whether kernels compute products with weights: no oracle for these then.
    """
    order = loops.Order.of(program.ops, wanted)
    clear = Clear(infer(program), weights, {INPUT: x}, rounding or _down, fast)
    return loops.meaning(program.ops, order, clear, wanted)


def _down(shape: Shape) -> Ring:
    return np.zeros(shape, np.uint64)
