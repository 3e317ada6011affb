"""Shapes of a batch as users of Keras write them, in Python and in R, compared with those of a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from protocols.errors import InputError, SharingError
from protocols.opaque import whole_number

NA = -(1 << 31)
"""How R's missing integer arrives."""


def check_shape(what: str, given: Any, expected: tuple[int | None, ...], model: str) -> None:
    """Check that a shape is the one of a model; the number of examples, which is the first, may be anything from 1, or unknown.

    Args:
        what: name of the argument, for the error.
        given: a sequence of whole numbers, or None or R's NA for the number of examples.
        expected: (None, *shape).
        model: its name.

    Raises:
        InputError: it is another shape, or none.
    """
    if not isinstance(given, list | tuple | np.ndarray):
        raise InputError(
            f"{what} of type {type(given).__name__} is no shape: model {model!r} has {expected}, with the number of examples first"
        )
    sizes = list(given)
    try:
        shape = (*(None if _unknown(size) else whole_number(size) for size in sizes[:1]), *(whole_number(size) for size in sizes[1:]))
    except SharingError:
        raise InputError(f"{what}={sizes} is no shape: whole numbers are needed, model {model!r} has {expected}") from None
    batch = shape[0] if shape else None
    if not shape or (batch is not None and batch < 1) or shape[1:] != expected[1:]:
        raise InputError(f"{what} is {shape}, but model {model!r} has {expected}: give that, or connect to another model by its name")


def _unknown(size: Any) -> bool:
    return (
        size is None or (isinstance(size, float | np.floating) and math.isnan(size)) or (isinstance(size, int | np.integer) and size == NA)
    )
