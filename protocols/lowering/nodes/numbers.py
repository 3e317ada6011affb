"""The numbers of a model's weights while it is read: their own, or others in their place, by which they are found again in the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float64]
_IN_PLACE: ContextVar[Mapping[int, Real]] = ContextVar("numbers in place of weights")


def number(value: Any) -> Real:
    """Return a weight or a constant as float64, or what stands in its place."""
    return _IN_PLACE.get({}).get(id(value), np.asarray(value, np.float64))


@contextmanager
def in_place(numbers: Mapping[int, Real]) -> Iterator[None]:
    """Read other numbers in the place of weights, by their ids, as long as this lasts."""
    token = _IN_PLACE.set(numbers)
    try:
        yield
    finally:
        _IN_PLACE.reset(token)
