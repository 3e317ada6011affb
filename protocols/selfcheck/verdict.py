"""Whether a program is let pass: its answers beside those of Keras, and what is said where they differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from protocols.errors import FaintOutput, Imprecise, Inaccurate
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
    """What a comparison has shown.

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
    if lowered.bounded:
        allowed = max(allowed, min(tolerance, PROBABILITY))
    examples = f"{len(expected)} {named(source)}"
    if max(error, lost.max() / 2) <= allowed:
        _warn_of_imprecision(name, lowered, expected, found, examples, blamed)
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


def _warn_of_imprecision(name: str, lowered: Lowered, expected: Real, found: Real, examples: str, blamed: Callable[[], str]) -> None:
    """Tell of an error that is let pass, and is more than `NOTICED`; or of a small output that is lost beside large ones."""
    error, width = float(np.abs(found - expected).max()), float(np.ptp(expected))
    if lowered.bounded and error <= PROBABILITY:
        return
    if 0 < NOTICED * width < error:
        warnings.warn(
            f"model {name!r}: on {examples} its private answers differ by up to {error:.3g} from Keras', whose range is {width:.3g}. "
            f"{blamed()} {WHAT_HELPS}",
            Imprecise,
            stacklevel=3,
        )
        return
    y, z = (table.reshape(-1, table.shape[-1]) for table in (expected, found))
    each, widths, sizes = np.abs(z - y).max(axis=0), np.ptp(y, axis=0), np.abs(y).max(axis=0)
    faint = np.flatnonzero((widths > 0) & (sizes < SMALL * sizes.max()) & (each > LOST * widths))
    if len(faint):
        k = int(faint[0])
        warnings.warn(
            f"model {name!r}: on {examples} output {k} differs by up to {each[k]:.3g} from Keras', whose range is {widths[k]:.3g}: it is "
            f"lost beside outputs up to {sizes.max():.3g}. Multiply it by a constant in the last layer, and divide its answers by that",
            FaintOutput,
            stacklevel=3,
        )


def named(source: str) -> str:
    """What the examples are."""
    return "inputs drawn from input_range" if source == "drawn" else f"{source} samples"
