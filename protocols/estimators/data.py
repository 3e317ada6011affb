"""Data of a fit: what is checked in the clear, what is stored for it, and how stored numbers relate to those of the user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError
from protocols.estimators.settings import Array, Data
from protocols.training.functions import FRACTION
from protocols.training.terms import SharedArray

WEIGHT_ERROR = 1e-3
"""Of all weights together: how much of them fixed point may change."""


@dataclass(frozen=True)
class Scale:
    """Of columns: what is stored is (x - center) * factor.

    Attributes:
        center: (columns,).
        factor: (columns,).
    """

    center: Array
    factor: Array

    @classmethod
    def none(cls, columns: int) -> Scale:
        """Return that of numbers that are stored as they are."""
        return cls(np.zeros(columns), np.ones(columns))

    def stored(self, x: Array) -> Array:
        """What is stored of x."""
        result: Array = (x - self.center) * self.factor
        return result


def table(name: str, x: npt.ArrayLike) -> Array:
    """A table of finite numbers, (examples, columns).

    Raises:
        InputError: it is none.
    """
    rows = np.asarray(x)
    if rows.dtype.kind not in "biuf":
        raise InputError(f"{name} is made of {rows.dtype}: numbers are needed")
    rows = rows.astype(np.float64)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{name} has shape {rows.shape}: a table (examples, features) is needed")
    if not np.isfinite(rows).all():
        raise InputError(f"{name} has NaN or infinite values in columns {sorted(set(np.nonzero(~np.isfinite(rows))[1].tolist()))}")
    return rows


def as_many(x: Data, y: Data, weights: Data | None) -> int:
    """How many examples.

    Raises:
        InputError: of something there are more or fewer.
    """
    counts = [_length(one) for one in (x, y, weights) if one is not None]
    if len(set(counts)) > 1:
        names = [name for name, one in (("x", x), ("y", y), ("sample_weight", weights)) if one is not None]
        told = ", ".join(f"{count} of {name}" for name, count in zip(names, counts, strict=True))
        raise InputError(f"there are {told}: they must be as many")
    return counts[0]


def _length(data: Data) -> int:
    shape = data.shape if isinstance(data, SharedArray) else np.shape(data)
    if not shape:
        raise InputError("a number was given where an array of examples is needed")
    return int(shape[0])


def own_weights(weights: npt.ArrayLike) -> Array:
    """Weights that are here, (n,).

    Raises:
        InputError: they are no weights.
    """
    found = np.asarray(weights)
    if found.dtype.kind not in "biuf" or found.ndim != 1:
        raise InputError(f"sample_weight is {found.dtype} of shape {found.shape}: one number an example is needed")
    found = found.astype(np.float64)
    if not (np.isfinite(found).all() and (found >= 0).all() and found.sum() > 0):
        raise InputError("sample_weight has values below 0, NaN or infinity, or none above 0: weights of at least 0 are needed")
    return found


def shared_weights(weights: SharedArray) -> SharedArray:
    """The same, of weights that are shared.

    Raises:
        InputError: they are no single column of numbers.
    """
    if weights.content != "numbers" or weights.shape[1] != 1:
        raise InputError(f"{weights.name!r} has {weights.shape[1]} {weights.content} an example: one weight an example is needed, a float")
    return weights


def storable(weights: Array) -> Array:
    """Weights over the largest of them, (n, 1).

    Raises:
        InputError: they differ so much that small ones vanish in fixed point.
    """
    scaled: Array = (weights / weights.max()).reshape(-1, 1)
    stored = np.round(scaled * 2.0**FRACTION) / 2.0**FRACTION
    if np.abs(stored - scaled).sum() > WEIGHT_ERROR * scaled.sum():
        raise InputError(
            f"the weights of examples are from {weights[weights > 0].min():g} to {weights.max():g}: the small ones vanish beside the"
            f" largest in {FRACTION} fractional bits; use weights that differ less"
        )
    return scaled
