"""Whether a program is let pass: its answers beside those of Keras, and what is said where they differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from protocols.errors import CoarseOutput, FaintOutput, Imprecise, Inaccurate
from protocols.lowering import Lowered
from protocols.selfcheck.examples import Real
from protocols.selfcheck.report import TOLERANCE, Check

PROBABILITY = 0.02
"""An error of a probability that is let pass where all of them are small, if the tolerance is not less."""
RESOLVED = 2.0**-11 + 2.0**-13
"""What a curve may be off by, whatever it gives, so that smaller outputs are not resolved; less, if a smaller tolerance is asked for."""
NOTICED = 0.01
"""An error that is told, as a part of the range of the outputs."""
SMALL, LOST = 0.01, 0.1
"""Of several outputs one that is so small beside the largest is looked at by itself, and told if it is off by such a part of its range."""
NOTHING = 0.5
"""A number of the answer that is off by this part of its largest value has no digit that is right."""
LEAST = 4
"""Examples below which nothing is said of numbers of an answer by themselves: one may be near 0 on all of them."""
WHAT_HELPS = (
    "What helps: samples like the inputs as calibration=, input_range=(low, high) close to the inputs, arrays for features of different "
    "scales, a Normalization at the beginning"
)


def judged(
    name: str,
    lowered: Lowered,
    expected: Real,
    found: Real,
    labels: npt.NDArray[np.int64] | None,
    *,
    source: str,
    tolerance: float | None,
    blamed: Callable[[], str],
) -> Check:
    """Judge what a comparison has shown.

    An error above the tolerance is refused, unless outputs are so small that fixed point does not resolve them: that, and errors of more
    than 1 % of the range of the outputs, are warned of.

    Args:
        name: of the model.
        lowered: what was made of it.
        expected: Keras' answers.
        found: those of the program, of the same shape.
        labels: of the program.
        source: where the examples are from.
        tolerance: as a part of the largest output, or None.
        blamed: a sentence about the feature that is to blame, made only where it is needed.

    Raises:
        Inaccurate: the program is refused.
    """
    error, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    lost = np.zeros(len(expected))
    if labels is not None:
        lost = expected.max(axis=1) - np.take_along_axis(expected, labels[:, None], 1)[:, 0]
    check = Check(len(expected), source, error, largest, None if labels is None else int((lost > 0).sum()))
    if tolerance is None:
        return check
    allowed = tolerance * largest
    passed = _let_pass(expected.reshape(len(expected), -1, *lowered.program.output_shape[-1:])) if lowered.bounded else 0.0
    allowed = max(allowed, min(tolerance, passed))
    examples = f"{len(expected)} {named(source)}"
    if max(error, lost.max() / 2) <= allowed:
        if not _told_imprecise(name, expected, found, examples, blamed, passed) and (not lowered.bounded or expected.min() < 0):
            _tell_coarse(name, expected, found, examples, tolerance)
        return check
    if max(error, lost.max() / 2) <= RESOLVED * min(1.0, tolerance / TOLERANCE):
        warnings.warn(
            f"model {name!r}: on {examples} its outputs are at most {largest:.3g}, and those of the private program differ by up to "
            f"{error:.3g}: outputs below {RESOLVED:.2g} are not resolved in fixed point. Multiply the weights of its last layer by a "
            f"constant, such as {2 ** int(np.ceil(np.log2(1 / max(largest, 1e-30))))}, and divide its answers by it; "
            "or leave a last activation to those who ask",
            FaintOutput,
            stacklevel=2,
        )
        return check
    what = f"outputs differ by up to {error:.3g}" if error > allowed else f"labels differ where outputs are {lost.max():.3g} apart"
    few = f" {lowered.coarse[0]}: give it a range of its own, with arrays as input_range=(low, high)." if lowered.coarse else blamed()
    raise Inaccurate(
        f"model {name!r}: on {examples} the private program does not give Keras' answers: {what}, of at most {largest:.3g}; {allowed:.3g} "
        f"are allowed (tolerance={tolerance:g}).{few} {WHAT_HELPS}; or a larger tolerance=, or None, if this is good enough"
    )


def _let_pass(expected: Real) -> float:
    """Return the error of a probability that always passes: of n that add up to 1, half of what each has where all are alike, if less."""
    n = expected.shape[-1]
    alternatives = n > 1 and bool((np.abs(expected.sum(axis=-1) - 1) < 1e-3).all())
    return min(PROBABILITY, 0.5 / n) if alternatives else PROBABILITY


def _told_imprecise(name: str, expected: Real, found: Real, examples: str, blamed: Callable[[], str], passed: float) -> bool:
    """Warn of an error that is let pass and is more than `NOTICED`; return whether it is."""
    error, width = float(np.abs(found - expected).max()), float(np.ptp(expected))
    if error <= passed or not 0 < NOTICED * width < error:
        return False
    warnings.warn(
        f"model {name!r}: on {examples} its private answers differ by up to {error:.3g} from Keras', whose range is {width:.3g}. "
        f"{blamed()} {WHAT_HELPS}",
        Imprecise,
        stacklevel=3,
    )
    return True


def _tell_coarse(name: str, expected: Real, found: Real, examples: str, tolerance: float) -> None:
    """Warn of numbers of an answer that are so small beside the largest that the fixed point keeps next to nothing of them.

    The tolerance is a part of the largest output, so that a regression of two targets of 10^3 and 10^-6 is within it whatever it says of
    the second. Refused it is not: that number may mean nothing, as the logit of a class that was pruned. Fewer than `LEAST` examples tell
    nothing. Probabilities are not told of: that one of them is next to nothing is an answer.
    """
    if len(expected) < LEAST:
        return
    y, z = (table.reshape(-1, table.shape[-1]) for table in (expected, found))
    each, widths, sizes = np.abs(z - y).max(axis=0), np.ptp(y, axis=0), np.abs(y).max(axis=0)
    lost = (sizes > 0) & (each > max(NOTHING, tolerance) * sizes)
    lost |= (widths > 0) & (sizes < SMALL * sizes.max()) & (each > LOST * widths)
    coarse = np.flatnonzero(lost)
    if not coarse.size:
        return
    k, more = int(coarse[0]), f", and {coarse.size - 1} more" if coarse.size > 1 else ""
    warnings.warn(
        f"model {name!r}: number {k} of its answer{more} is at most {sizes[k]:.2g} on {examples}, and the private program is off by up to "
        f"{each[k]:.2g} there: beside outputs of up to {sizes.max():.3g} next to nothing is kept of it. Scale the targets of the model to "
        "one size, multiply it by a constant in the last layer and divide its answers by that, or give it a last layer of its own",
        CoarseOutput,
        stacklevel=3,
    )


def named(source: str) -> str:
    """Say what the examples are."""
    return "inputs drawn from input_range" if source == "drawn" else f"{source} samples"
