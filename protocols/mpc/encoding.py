"""The input of a program as integers: with one scale for all elements, or in the unit of each feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError
from protocols.mpc.inputs.ranges import Ranges, place
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.numbers.ring import Ring

if TYPE_CHECKING:
    from protocols.mpc.program import Program

Real = npt.NDArray[np.float64]

INPUT_BITS = 16
"""Fractional bits of inputs up to 1 with one range for all; larger inputs have fewer, smaller ones more, up to"""
FINEST_INPUT = 32
WHOLE = 2.0**32
"""In one range that ends below this the step is at most 1, so that whole numbers are exact."""
FEATURE_BITS = 20
"""Steps of a feature with a range of its own, from its origin to its end: 2^19 to 2^20 of them."""


def input_scale(input_range: tuple[float, float], ranges: Ranges | None, step: float = math.inf) -> float:
    """Return the real number, or part of a unit, that the integer 1 stands for: a power of two, at most `step`, as its reader needs."""
    most = 2.0 ** math.floor(math.log2(step)) if step < math.inf else math.inf
    if ranges is not None:
        return min(2.0**-FEATURE_BITS, most)
    largest = max(map(abs, input_range))
    usual = 2.0 ** -min(FINEST_INPUT, INPUT_BITS - math.ceil(math.log2(largest)))
    return min(usual, most, 1.0 if largest <= WHOLE else math.inf)


def bounds(program: Program) -> tuple[Real, Real]:
    """Return the least and the largest input of each element: numbers, or arrays that are broadcast to an example."""
    if program.ranges is None:
        low, high = (np.float64(end) for end in program.input_range)
        return np.asarray(low), np.asarray(high)
    return program.ranges.table(program.ranges.low), program.ranges.table(program.ranges.high)


def steps(program: Program) -> tuple[Real, npt.NDArray[np.bool_]]:
    """Return what the integer 1 of each element stands for, and whether its range has more than one value; in the shape of an example."""
    low, high = bounds(program)
    unit = np.ones(()) if program.ranges is None else program.ranges.table(program.ranges.unit)
    step, varies = (np.broadcast_to(table, program.input_shape) for table in (unit * program.input_scale, low < high))
    return step, varies


def encoded(program: Program, x: Real) -> Ring:
    """Encode examples (n, *input_shape) as integers; what lies outside of the range becomes the nearest end of it."""
    if program.ranges is not None:
        return program.ranges.encoded(x, program.input_scale)
    return encode(np.clip(x, *program.input_range), program.input_scale)


def rows(program: Program, examples: Any, what: str = "input") -> npt.NDArray[Any]:
    """Return the examples (n, *input_shape) that a user gave: an array, or for a model of several inputs what its structure says.

    Raises:
        InputError: it has another structure, other shapes, or no real numbers.
    """
    if not isinstance(program.inputs, msgspec.UnsetType):
        return program.inputs.joined(examples, what)
    if isinstance(examples, Mapping):
        raise InputError(
            f"a dict of {len(examples)} arrays was given; the model has one input: give its array {('n', *program.input_shape)}"
        )
    try:
        x = np.asarray(examples)
    except ValueError as error:
        raise InputError(f"examples that are no array were given: {error}") from None
    if x.dtype.kind not in "fiub":
        raise InputError(f"examples of dtype {x.dtype} were given; real numbers are needed")
    if x.shape[1:] != program.input_shape or not x.size:
        hint = "; add a batch axis: x[None]" if x.shape == program.input_shape else ""
        if isinstance(examples, list | tuple) and len(examples) == 1 and x.shape[2:] == program.input_shape:
            hint = "; the model has one input: give its array, not a list of it"
        raise InputError(f"examples of shape {x.shape} were given; {('n', *program.input_shape)} with n >= 1 is needed{hint}")
    return x


def check_inside(program: Program, x: npt.NDArray[Any], name: str) -> None:
    """Refuse examples (n, *input_shape) that are not in the range of the model `name`.

    Raises:
        InputError: a value is NaN, infinite or outside; the message has the number of such values, and the ranges, but none of the values.
    """
    ends = bounds(program)
    if x.dtype.kind == "f":  # 0.1 of float32 is a little above 0.1
        with np.errstate(over="ignore"):
            ends = ends[0].astype(x.dtype), ends[1].astype(x.dtype)
    _check_whole(program, x, name)
    finite = np.isfinite(x)
    outside = ~((x >= ends[0]) & (x <= ends[1]) & finite)
    if not outside.any():
        return
    what = "outside of the range" if finite.all() else "NaN or infinite"
    count = f"{int(outside.sum())} of {x.size} values are {what}"
    if program.ranges is None:
        low, high = program.input_range
        raise InputError(
            f"{count}; model {name!r} answers for values from {low:g} to {high:g}. Scale the input as for training, or share the model "
            "with the range of its inputs, such as input_range=(-1, 1)"
        )
    first = np.argwhere(outside)[0][1:]
    low, high = (float(np.broadcast_to(end, x.shape[1:])[tuple(first)]) for end in bounds(program))
    where = place(first) if isinstance(program.inputs, msgspec.UnsetType) else program.inputs.place(int(first[0]))
    raise InputError(
        f"{count}, the first in feature {where}, for which model {name!r} answers from {low:g} to {high:g}. Scale the input as for "
        "training, or share the model with an input_range=(low, high) that holds it"
    )


def _check_whole(program: Program, x: npt.NDArray[Any], name: str) -> None:
    """Refuse fractions in an input that the model takes as integers, where Keras would cut them off."""
    if isinstance(program.integers, msgspec.UnsetType) or x.dtype.kind != "f":
        return
    parts = program.inputs.cut_by_name(x) if not isinstance(program.inputs, msgspec.UnsetType) else dict.fromkeys(program.integers, x)
    for each in program.integers:
        count = int((np.isfinite(parts[each]) & (np.rint(parts[each]) != parts[each])).sum())
        if count:
            raise InputError(
                f"{count} of {parts[each].size} values are no whole numbers, and input {each!r} of model {name!r} takes integers: round "
                "them, as for training"
            )
