"""The end of a program with noisy answers: the outputs clipped to [-B, B], then the noise of both servers.

With s = 2^drop, B' = floor(B / (scale s)) and t(x) the rounded value of x / s:

    clip(x) = relu(t(x + B' s)) - relu(t(x - (B' - 1) s)) - B'

lies in [-B', B'] for every x, however the two roundings turn out: the upper threshold is one step below B', because the first rounding
may go up where the second goes down.

**Rounds**: 3, both selections at once, for each answer. **Bytes**: two selections for each output (`selection.py`).
"""

from __future__ import annotations

import math

import numpy as np

from protocols import program as ops
from protocols.discrete_gaussian import REACH
from protocols.errors import WindowError
from protocols.lowering.emission import LABEL_WINDOW, Value, Writer
from protocols.lowering.intervals import Interval
from protocols.lowering.network import Node
from protocols.lowering.rounding import hold, window_bits
from protocols.noisy_answers import NoisyAnswers

LEAST_STEPS = 64
"""A clip is at least so many steps of the fixed point, so that rounding is not what the client sees."""


def noisy(writer: Writer, output: Value, node: Node, answers: NoisyAnswers) -> Value:
    """Appends the clip and the noise to a program.

    Args:
        writer: of the program.
        output: its output until now.
        node: that made it, for errors.
        answers: the settings.

    Returns:
        The noisy output. Its range has room for all the noise that is possible, so that the arg max of it is exact.

    Raises:
        WindowError: the outputs, or the noise, do not fit the fixed point; the clip is too small for it.
    """
    clipped, steps = _clipped(writer, writer.share(output), node, answers.clip)
    sensitivity = answers.steps_apart(math.prod(clipped.shape), steps, clipped.scale)
    sigma = math.ceil(answers.noise_multiplier * sensitivity * (1 + 1e-12))
    largest = steps + 2 * REACH * sigma
    if window_bits(2.0 * largest, 0) > LABEL_WINDOW:
        raise WindowError(
            f"noise_multiplier={answers.noise_multiplier:g} with {math.prod(clipped.shape)} outputs clipped to {answers.clip:g}: the noise "
            f"would reach {largest * clipped.scale:.3g}, the fixed point holds {2.0 ** (LABEL_WINDOW - 3) * clipped.scale:.3g} here; "
            "give a smaller noise_multiplier"
        )
    reach = np.full(clipped.shape, float(largest))
    bounds = Interval(-reach, reach, clipped.range.samples)
    return writer.put(ops.AddNoise(clipped.position, sigma), "share", clipped.scale, bounds)


def _clipped(writer: Writer, x: Value, node: Node, clip: float) -> tuple[Value, int]:
    """The value cut to [-B', B'], and B'."""
    reach = clip / x.scale
    held = hold(Interval(x.range.low - reach, x.range.high + reach, x.range.samples), x.scale, node, margin=1.0)
    step, scale = 1 << held.drop, x.scale * 2.0**held.drop
    steps = math.floor(clip / scale)
    if steps < LEAST_STEPS:
        raise WindowError(
            f"clip={clip:g} is {steps} steps of the fixed point, which has steps of {scale:.3g} here; at least {LEAST_STEPS} are needed: "
            f"clip={LEAST_STEPS * scale:.3g}"
        )

    def over(threshold: int) -> int:
        shifted = writer.put(ops.Combine((x.position,), (1,), -threshold * step), "share", x.scale, x.range)
        return writer.put(ops.Select(shifted.position, held.drop, held.window), "share", scale, x.range).position

    below, above = over(-steps), over(steps - 1)
    writer.report(node, clip, held.window, held.drop, held.source)
    ends = np.full(x.shape, float(steps))
    bounds = Interval(-ends, ends, np.clip(x.range.samples / step, -steps, steps))
    clipped = writer.put(ops.Combine((below, above), (1, -1), -steps), "share", scale, bounds)
    return clipped, steps
