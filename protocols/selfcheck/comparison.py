"""How far the answers of a program are from those of its Keras model.

The program is evaluated in the clear, in the integers modulo 2^64 of the servers, with roundings up and down as the servers' are. This runs
where the owner is, before anything is shared, and tells nobody anything.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from protocols import linear, plaintext
from protocols.errors import CoarseOutput, Inaccurate, ModelError, WindowError
from protocols.fixed_point import decode
from protocols.inputs.encoding import bounds, encoded
from protocols.keystream import KeyStream
from protocols.program import Conv2D, Dense, MatMul, Program, infer
from protocols.selfcheck.examples import Real, drawn
from protocols.selfcheck.report import TOLERANCE, Check

if TYPE_CHECKING:
    from protocols.lowering import Lowered

PROBABILITY = 0.02
"""An error of a probability that is let pass where all of them are small, if the tolerance is not less."""
WORK = 1 << 24
"""Multiplications in a comparison, if that is not fewer than `LEAST` examples."""
LEAST, MOST = 4, 256
"""Examples of a comparison."""
DRAWN = 16
"""Of them, at most, where they are drawn."""
TOGETHER = 32
"""Examples that are evaluated at a time."""
NOTHING = 0.5
"""A number of the answer that is off by this part of its largest value has no digit that is right."""
ROUNDING = b"rounded in check"


def compare(
    model: Any,
    lowered: Lowered,
    *,
    calibration: npt.ArrayLike | None = None,
    check: npt.ArrayLike | None = None,
    clip: float | None = None,
    tolerance: float | None = TOLERANCE,
) -> Check:
    """Compare a program with its model. Blocks; meant for a thread.

    Args:
        model: the Keras model.
        lowered: what was made of it.
        calibration: the samples that it was calibrated on; some of them are taken, evenly.
        check: samples to compare on instead, all of them.
        clip: to which noisy answers are cut. Noise itself is left out.
        tolerance: the largest error that is accepted, as a part of the largest output; None: any is.

    Raises:
        Inaccurate: the error is larger, or a label differs by more than that; or a sample leaves the window of a calibrated layer; or
            Keras' own outputs are NaN or infinite, on all inputs or on some of those that were given.
        ModelError: `check` does not fit the model.

    Warns:
        CoarseOutput: a number of the answer is small beside the largest, and off by as much as itself; see `_tell_coarse`.
    """
    x, source = _examples(model, lowered, calibration, check)
    x = x.astype(np.float32).astype(np.float64)  # what Keras reads
    expected = _answers(model, x)
    finite = np.isfinite(expected).reshape(len(x), -1).all(axis=1)
    undefined = len(x) - int(finite.sum())
    if undefined == len(x):
        raise Inaccurate(f"model {model.name!r}: Keras' own outputs are NaN or infinite on all of {len(x)} {_named(source)}")
    if undefined and source != "drawn":
        raise Inaccurate(
            f"model {model.name!r}: Keras' own outputs are NaN or infinite on {undefined} of {len(x)} {_named(source)}, the first is "
            f"number {int(finite.argmin())}; the private program would answer with numbers there. Leave these out, or mend the model"
        )
    x, expected = x[finite], expected[finite]
    if clip is not None:
        expected = expected.clip(-clip, clip)
    found, labels = _computed(model.name, lowered, x, source)
    return replace(_judged(model, lowered, expected, found, labels, source, tolerance), undefined=undefined)


def _examples(model: Any, lowered: Lowered, calibration: npt.ArrayLike | None, check: npt.ArrayLike | None) -> tuple[Real, str]:
    program = lowered.program
    if check is not None:
        given = np.asarray(check, np.float64)
        low, high = bounds(program)
        if given.shape[1:] != program.input_shape or not len(given):
            raise ModelError(f"check samples of shape {given.shape} were given; {('n', *program.input_shape)} with n >= 1 is needed")
        near = [(np.minimum(end, np.float32(end)), np.maximum(end, np.float32(end))) for end in (low, high)]
        if not ((given >= near[0][0]) & (given <= near[1][1])).all():
            raise ModelError("check samples lie outside of input_range, or are not finite")
        return given, "check"
    count = int(np.clip(WORK // multiplications(program), LEAST, MOST))
    if calibration is not None:
        samples = np.asarray(calibration, np.float64)
        return samples[np.unique(np.linspace(0, len(samples) - 1, count).round().astype(int))], "calibration"
    low, high = (np.broadcast_to(end, program.input_shape) for end in bounds(program))
    spread = lowered.spread
    if "int" in str(model.inputs[0].dtype):
        spread = replace(spread, whole=np.ones_like(spread.whole))
    return drawn(min(count, DRAWN), low, high, spread), "drawn"


def multiplications(program: Program) -> int:
    """How many an example takes, at least 1."""
    values, found = infer(program), 1
    for op, value in zip(program.ops, values, strict=True):
        match op:
            case Dense(_, weight) | Conv2D(_, weight):
                shape = program.weights[weight]
                found += value.size * math.prod(shape[:-1])
            case MatMul(x):
                found += value.size * values[x].shape[-1]
            case _:
                found += value.size
    return found


def _answers(model: Any, x: Real) -> Real:
    """Keras' own, in parts."""
    from keras import ops  # noqa: PLC0415  a model of it is at hand

    dtype = model.inputs[0].dtype
    parts = [model(ops.cast(x[start : start + TOGETHER], dtype), training=False) for start in range(0, len(x), TOGETHER)]
    return np.concatenate([np.asarray(ops.convert_to_numpy(ops.cast(part, "float32")), np.float64) for part in parts])


def _computed(name: str, lowered: Lowered, x: Real, source: str) -> tuple[Real, npt.NDArray[np.int64] | None]:
    """The program's outputs, and its labels."""
    program, stream = lowered.program, KeyStream(ROUNDING)
    last = len(program.ops) - 1
    wanted = {last} if program.label is None else {last, program.label.x}
    outputs, labels = [], []
    for start in range(0, len(x), TOGETHER):
        part = encoded(program, x[start : start + TOGETHER])
        try:
            values = plaintext.outputs(
                program,
                lowered.weights,
                part,
                wanted,
                rounding=lambda shape: stream.words(shape) & np.uint64(1),
                product=linear.product,
            )
        except WindowError:
            raise _left(name, lowered, source) from None
        if program.checked and values[last][:, -1].any():
            raise _left(name, lowered, source)
        found = values[last][:, :-1] if program.checked else values[last]
        outputs.append(decode(found, program.output_scale))
        if program.label is not None:
            labels.append(values[program.label.x].view(np.int64).argmax(axis=1))
    return np.concatenate(outputs), np.concatenate(labels) if labels else None


def _left(name: str, lowered: Lowered, source: str) -> Inaccurate:
    calibrated = ", ".join(repr(layer.name) for layer in lowered.layers if layer.source != "proved")
    what = "so there would be no answer for them" if lowered.program.checked else "so answers for them would be noise"
    return Inaccurate(
        f"model {name!r}: {_named(source)} leave the window of a calibrated layer (of {calibrated}), {what}; give more samples as "
        "calibration=, or a larger margin="
    )


def _judged(
    model: Any,
    lowered: Lowered,
    expected: Real,
    found: Real,
    labels: npt.NDArray[np.int64] | None,
    source: str,
    tolerance: float | None,
) -> Check:
    expected = expected.reshape(found.shape)
    error, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    lost = np.zeros(len(expected))
    if labels is not None:
        lost = expected.max(axis=1) - np.take_along_axis(expected, labels[:, None], 1)[:, 0]
    check = Check(len(expected), source, error, largest, None if labels is None else int((lost > 0).sum()))
    if tolerance is None:
        return check
    allowed = tolerance * largest
    last = (len(expected), -1, *lowered.program.output_shape[-1:])
    if lowered.bounded:
        allowed = max(allowed, min(tolerance, _let_pass(expected.reshape(last))))
    if error > allowed or lost.max() > 2 * allowed:
        what = f"outputs differ by up to {error:.3g}" if error > allowed else f"labels differ where outputs are {lost.max():.3g} apart"
        few = f" {lowered.coarse[0]}: give it a range of its own, with arrays as input_range=(low, high)." if lowered.coarse else ""
        raise Inaccurate(
            f"model {model.name!r}: on {len(expected)} {_named(source)} the private program does not give Keras' answers: {what}, of at "
            f"most {largest:.3g}; {allowed:.3g} are allowed (tolerance={tolerance:g}).{few} What helps: samples like the inputs as "
            "calibration=, input_range=(low, high) close to the inputs, arrays for features of different scales, a Normalization at the "
            "beginning; or a larger tolerance=, or None, if this is good enough"
        )
    if not lowered.bounded or expected.min() < 0:
        _tell_coarse(model, expected.reshape(last), found.reshape(last), source, tolerance)
    return check


def _let_pass(expected: Real) -> float:
    """The error of a probability that is accepted always: of n that add up to 1, half of what each has where all are alike, if less."""
    n = expected.shape[-1]
    alternatives = n > 1 and bool((np.abs(expected.sum(axis=-1) - 1) < 1e-3).all())
    return min(PROBABILITY, 0.5 / n) if alternatives else PROBABILITY


def _tell_coarse(model: Any, expected: Real, found: Real, source: str, tolerance: float) -> None:
    """Warn of numbers of an answer that are so small beside the largest that the fixed point keeps nothing of them.

    The tolerance is a part of the largest output, so that a regression of two targets of 10^3 and 10^-6 is within it whatever it says of
    the second. Refused it is not: that number may mean nothing, as the logit of a class that was pruned. Fewer than `LEAST` examples tell
    nothing: a logit may be near 0 on all of them. Nor are probabilities told: that one of them is next to nothing is an answer.

    Values are (examples, places, numbers).
    """
    if len(expected) < LEAST:
        return
    error, largest = np.abs(found - expected).max(axis=(0, 1)), np.abs(expected).max(axis=(0, 1))
    coarse = np.flatnonzero((largest > 0) & (error > max(NOTHING, tolerance) * largest))
    if not coarse.size:
        return
    first, more = int(coarse[0]), f", and {coarse.size - 1} more" if coarse.size > 1 else ""
    warnings.warn(
        f"model {model.name!r}: number {first} of its answer{more} is at most {largest[first]:.2g} on {len(expected)} {_named(source)}, "
        f"and the private program is off by up to {error[first]:.2g} there: beside outputs of up to {largest.max():.3g} nothing is kept of "
        "it. Scale the targets of the model to one size, or give it a last layer of its own for each",
        CoarseOutput,
        stacklevel=2,
    )


def _named(source: str) -> str:
    return "inputs drawn from input_range" if source == "drawn" else f"{source} samples"
