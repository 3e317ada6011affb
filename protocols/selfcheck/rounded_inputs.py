"""Which feature of the input is to blame where answers differ: the one whose rounding alone moves Keras' own answer the most.

Nothing is computed here unless answers do differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from protocols.mpc.encoding import bounds, encoded, steps
from protocols.mpc.inputs.ranges import place
from protocols.mpc.program import Program
from protocols.selfcheck.examples import Real

MOST = 512
"""Features that are tried."""
PART = 0.25
"""Of an error, that rounding the input must explain to be named."""


def rounded(program: Program, x: Real) -> Real:
    """Return what the integers of examples (n, *shape) stand for."""
    step, _ = steps(program)
    origin = np.zeros(()) if program.ranges is None else program.ranges.table(program.ranges.origin)
    whole: Real = encoded(program, x).view(np.int64).astype(np.float64)
    return whole * step + origin


def blamed(program: Program, answers: Callable[[Real], Real], x: Real, expected: Real, found: Real) -> str:
    """Explain the error of the worst example by one feature, in a sentence; empty if the input does not explain it.

    Args:
        program: of the model.
        answers: Keras' own.
        x: examples (n, *shape).
        expected: Keras' answers to them.
        found: the program's.
    """
    error = np.abs(found - expected).reshape(len(x), -1).max(axis=1)
    worst = int(error.argmax())
    example, kept = x[worst : worst + 1], rounded(program, x[worst : worst + 1])
    moved = _moved(answers(kept.astype(np.float32).astype(np.float64)), expected[worst])
    if not moved[0] >= PART * error[worst]:
        return ""
    features = np.arange(x.shape[-1])[:MOST]
    each = np.repeat(example, len(features), axis=0)
    each[features, ..., features] = kept[0, ..., features]
    alone = _moved(answers(each.astype(np.float32).astype(np.float64)), expected[worst])
    feature = int(alone.argmax())
    step = float(steps(program)[0][..., feature].max())
    low, high = (np.broadcast_to(end, program.input_shape)[..., feature] for end in bounds(program))
    return (
        f" Rounding its inputs to steps moves Keras' own answers by {moved[0]:.3g}, that of feature {place(feature)} alone by "
        f"{alone[feature]:.3g}: it has steps of {step:.3g} in a range from {low.min():.3g} to {high.max():.3g}. Give it a range of its own."
    )


def _moved(answers: Real, expected: Real) -> Real:
    """How far answers are from another one, each at most."""
    far: Real = np.nan_to_num(np.abs(answers.reshape(len(answers), -1) - expected.reshape(1, -1)), nan=np.inf).max(axis=1)
    return far
