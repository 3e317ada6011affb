"""How far the answers of a program are from those of its Keras model.

The program is evaluated in the clear, in the integers modulo 2^64 of the servers, with roundings up and down as the servers' are. This runs
where the owner is, before anything is shared, and tells nobody anything.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import Inaccurate, InputError, ModelError, WindowError
from protocols.mpc import plaintext
from protocols.mpc.encoding import bounds, encoded, rows
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.weights import Conv2D, Dense
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.program import Program, infer
from protocols.selfcheck.examples import Real, drawn
from protocols.selfcheck.report import TOLERANCE, Check
from protocols.selfcheck.rounded_inputs import blamed
from protocols.selfcheck.verdict import judged, named

if TYPE_CHECKING:
    from protocols.lowering import Lowered

WORK = 1 << 24
"""Multiplications in a comparison, if that is not fewer than `LEAST` examples."""
LEAST, MOST = 4, 256
"""Examples of a comparison."""
DRAWN = 16
"""Of them, at most, where they are drawn."""
TOGETHER = 32
"""Examples that are evaluated at a time."""
ROUNDING = b"rounded in check"


def compare(
    model: Any,
    lowered: Lowered,
    *,
    calibration: Any = None,
    check: Any = None,
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
        CoarseOutput: a number of the answer is small beside the largest, and off by as much as itself; see `verdict.py`.
    """
    x, source = _examples(model, lowered, calibration, check)
    x = x.astype(np.float32).astype(np.float64)  # what Keras reads
    expected = _answers(model, lowered.program, x)
    finite = np.isfinite(expected).reshape(len(x), -1).all(axis=1)
    undefined = len(x) - int(finite.sum())
    if undefined == len(x):
        raise Inaccurate(f"model {model.name!r}: Keras' own outputs are NaN or infinite on all of {len(x)} {named(source)}")
    if undefined and source != "drawn":
        raise Inaccurate(
            f"model {model.name!r}: Keras' own outputs are NaN or infinite on {undefined} of {len(x)} {named(source)}, the first is "
            f"number {int(finite.argmin())}; the private program would answer with numbers there. Leave these out, or mend the model"
        )
    x, expected = x[finite], expected[finite]
    if clip is not None:
        expected = expected.clip(-clip, clip)
    found, labels = _computed(model.name, lowered, x, source)
    expected = expected.reshape(found.shape)

    def answers(inputs: Real) -> Real:
        found = _answers(model, lowered.program, inputs)
        return found if clip is None else found.clip(-clip, clip)

    blame = partial(blamed, lowered.program, answers, x, expected, found)
    compared = judged(model.name, lowered, expected, found, labels, source=source, tolerance=tolerance, blamed=blame)
    return replace(compared, undefined=undefined)


def _examples(model: Any, lowered: Lowered, calibration: Any, check: Any) -> tuple[Real, str]:
    program = lowered.program
    if check is not None:
        given = _given(program, check, "check")
        low, high = bounds(program)
        near = [(np.minimum(end, np.float32(end)), np.maximum(end, np.float32(end))) for end in (low, high)]
        if not ((given >= near[0][0]) & (given <= near[1][1])).all():
            raise ModelError("check samples lie outside of input_range, or are not finite")
        return given, "check"
    count = int(np.clip(WORK // multiplications(program), LEAST, MOST))
    if calibration is not None:
        samples = _given(program, calibration, "calibration")
        return samples[np.unique(np.linspace(0, len(samples) - 1, count).round().astype(int))], "calibration"
    low, high = (np.broadcast_to(end, program.input_shape) for end in bounds(program))
    spread = lowered.spread
    from protocols.lowering.ends import tensors_of  # noqa: PLC0415  needs Keras

    whole = [np.full(math.prod(one.shape[1:]), "int" in str(one.dtype)) for one in tensors_of(model, "inputs").tensors]
    if any(each.any() for each in whole):
        spread = replace(spread, whole=spread.whole | np.concatenate(whole).reshape(spread.whole.shape))
    return drawn(min(count, DRAWN), low, high, spread), "drawn"


def _given(program: Program, examples: Any, what: str) -> Real:
    try:
        return rows(program, examples, f"{what} sample").astype(np.float64)
    except InputError as error:
        raise ModelError(f"{what} samples: {error}") from None


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


def _answers(model: Any, program: Program, x: Real) -> Real:
    """Keras' own, in parts."""
    from keras import ops, tree  # noqa: PLC0415  a model of it is at hand

    from protocols.lowering.ends import tensors_of  # noqa: PLC0415  as above

    found, dtypes = [], [one.dtype for one in tensors_of(model, "inputs").tensors]
    for start in range(0, len(x), TOGETHER):
        part = x[start : start + TOGETHER]
        if isinstance(program.inputs, msgspec.UnsetType):
            given = ops.cast(part, dtypes[0])
        else:
            cut = program.inputs.cut(part)
            each = [ops.cast(one, dtype) for one, dtype in zip(cut.values() if isinstance(cut, dict) else cut, dtypes, strict=True)]
            given = dict(zip(cut, each, strict=True)) if isinstance(cut, dict) else each
        answer = model(given, training=False)
        arrays = tree.map_structure(lambda one: np.asarray(ops.convert_to_numpy(ops.cast(one, "float32")), np.float64), answer)
        outputs = program.outputs
        found.append(tree.flatten(arrays)[0] if isinstance(outputs, msgspec.UnsetType) else outputs.joined(arrays, "output"))
    return np.concatenate(found)


def _computed(name: str, lowered: Lowered, x: Real, source: str) -> tuple[Real, npt.NDArray[np.int64] | None]:
    """Return the program's outputs, and its labels."""
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
                fast=True,
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
        f"model {name!r}: {named(source)} leave the window of a calibrated layer (of {calibrated}), {what}; give more samples as "
        "calibration=, or a larger margin="
    )
