"""The end of a program with noisy answers: the outputs clipped to [-B, B], then the noise of both servers.

The clip holds for **every** ring element that the program before can end in, so also where a client sends inputs outside of the input range
and sums wrap around. With f = 2^fine and B' = floor(B / scale after rounding):

    t = round(f x / 2^drop)                            1 round
    clip = relu(t + B') - relu(t - B') - B'            3 rounds, both selections at once

Whatever f x is, t = (c >> drop) - 2^(w-1) - R + kappa h (`selection.py`) is an integer of at most 2^(65 - drop) + 2^(w-1), since c >> drop
and R are below 2^(64 - drop) and kappa h is 0 or that. The windows of the selections hold all of these and drop nothing, so they are exact,
and the clip lies in [-B', B']. `fine` makes drop large enough for this.

**Rounds**: 4 an answer. **Bytes**: a truncation and two selections for each output (`mpc/operations/selection.py`), each way.
"""

from __future__ import annotations

import math

import numpy as np

from protocols.errors import WindowError
from protocols.lowering.nodes.network import Node
from protocols.lowering.scales.emission import LABEL_WINDOW, Writer
from protocols.lowering.scales.intervals import Interval, combined
from protocols.lowering.scales.rounding import Held, hold, window_bits
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.parties.discrete_gaussian import REACH
from protocols.noisy_answers import NoisyAnswers

LEAST_STEPS = 64
"""A clip is at least so many steps of the fixed point, so that rounding is not what the client sees."""
LEAST_DROP = 67 - LABEL_WINDOW
"""2^(65 - drop) is half of the widest window then."""


def noisy(writer: Writer, output: RangedValue, node: Node, answers: NoisyAnswers) -> RangedValue:
    """Append the clip and the noise to a program.

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
    return writer.put(AddNoise(clipped.position, sigma), clipped.scale, bounds)


def _clipped(writer: Writer, x: RangedValue, node: Node, clip: float) -> tuple[RangedValue, int]:
    """Cut the value to [-B', B']; return it, and B'."""
    held = hold(x.range, x.scale, node, margin=writer.margin)
    scale = x.scale * 2.0**held.drop
    steps = math.floor(clip / scale)
    if steps < LEAST_STEPS:
        raise WindowError(
            f"clip={clip:g} is {steps} steps of the fixed point, which has steps of {scale:.3g} here; at least {LEAST_STEPS} are needed: "
            f"clip={LEAST_STEPS * scale:.3g}"
        )
    t = _rounded(writer, x, held, scale)
    window = window_bits(t.range.largest + steps, 0)
    if window > LABEL_WINDOW:
        raise WindowError(f"clip={clip:g} is beyond the fixed point, which has steps of {scale:.3g} here; give a smaller clip")

    def over(threshold: int) -> int:
        shifted = writer.put(Combine((t.position,), (1,), -threshold), scale, t.range)
        return writer.put(Select(shifted.position, 0, window), scale, t.range).position

    below, above = over(-steps), over(steps)
    writer.report(node, clip, held.window, held.drop, held.source)
    ends = np.full(x.shape, float(steps))
    bounds = Interval(-ends, ends, t.range.samples.clip(-steps, steps))
    return writer.put(Combine((below, above), (1, -1), -steps), scale, bounds), steps


def _rounded(writer: Writer, x: RangedValue, held: Held, scale: float) -> RangedValue:
    """Return the value on the given scale, with the range that it can have whatever the ring element is."""
    fine = max(0, LEAST_DROP - held.drop)
    drop = held.drop + fine
    if fine:
        x = writer.put(Combine((x.position,), (1 << fine,)), x.scale / 2.0**fine, combined([x.range], [1 << fine], 0))
    reach = np.full(x.shape, 2.0 ** (65 - drop) + 2.0 ** (held.window - 1))
    bounds = Interval(-reach, reach, np.rint(x.range.samples * 2.0**-drop))
    return writer.put(Truncate(x.position, drop, held.window), scale, bounds)
