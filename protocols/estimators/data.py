"""Data of a fit: what is checked in the clear, what is stored for it, and how stored numbers relate to those of the user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError
from protocols.estimators import arrays
from protocols.estimators.settings import Array, Data
from protocols.training.networks.functions import FRACTION

WEIGHT_ERROR = 1e-3
"""Of all weights together: how much of them fixed point may change."""


@dataclass(frozen=True)
class Scaling:
    """Of columns: what is stored is (x - center) * factor.

    Attributes:
        center: (columns,).
        factor: (columns,).
    """

    center: Array
    factor: Array

    @classmethod
    def none(cls, columns: int) -> Scaling:
        """Return that of numbers that are stored as they are."""
        return cls(np.zeros(columns), np.ones(columns))

    def stored(self, x: Array) -> Array:
        """Return what is stored of x."""
        result: Array = (x - self.center) * self.factor
        return result


ALIKE = 1e-4
"""The smallest eigenvalue of the correlations of columns, over the largest, from which on they are stored one by one."""


@dataclass(frozen=True)
class Basis:
    """How features are stored: x - center in other coordinates, from which coefficients come back as `back` times those of what is stored.

    Attributes:
        center: (columns,).
        back: (columns, stored columns).
        rank: directions in which the columns vary, as numpy tells them apart; None if they are not here.
        condition: the largest singular value over the smallest of these directions, where columns nearly follow from each other; else 1.
    """

    center: Array
    back: Array
    rank: int | None = None
    condition: float = 1.0

    @classmethod
    def none(cls, columns: int) -> Basis:
        """Return that of features that are stored as they are."""
        return cls(np.zeros(columns), np.eye(columns))


def based(rows: Array, scale: Scaling, stored: Array, bits: float) -> tuple[Basis, Array]:
    """Return how features that are here are stored, and what is, (n, columns).

    Columns are stored one by one if they are unlike each other. Columns that nearly follow from each other would be told apart by their
    last digits, and the condition number of X^T X is the square of that of X: for them it is the left singular vectors of X that are stored
    (Golub and Van Loan, 2013, section 5.5.2), zeros for directions in which X does not vary, so that all shapes stay.

    Args:
        rows: x - center times the roots of weights, zeros where a column is constant; (n, columns).
        scale: how columns are stored one by one.
        stored: what is stored then.
        bits: values below 2^bits may be stored.
    """
    norms = np.sqrt((stored**2).sum(0))
    unit = stored / np.where(norms > 0, norms, 1.0)
    values = np.linalg.eigvalsh(unit.T @ unit)[-int((norms > 0).sum()) or 1 :]
    if values[0] > ALIKE * values[-1] or not values[-1] > 0:
        return Basis(scale.center, np.diag(scale.factor), int((norms > 0).sum())), stored
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    rank = int((singular > max(rows.shape) * np.finfo(np.float64).eps * singular[0]).sum())
    up = 2.0**bits / np.abs(left[:, :rank]).max(0)
    padding = ((0, 0), (0, rows.shape[1] - rank))
    back = np.pad(right[:rank].T / singular[:rank] * up, padding)
    return Basis(scale.center, back, rank, float(singular[0] / singular[rank - 1])), np.pad(left[:, :rank] * up, padding)


def as_many(x: Data, y: Data, weights: Data | None) -> int:
    """Return how many examples there are, as many in all.

    Raises:
        InputError: of something there are more or fewer, or none.
    """
    given = {"x": x, "y": y} | ({} if weights is None else {"sample_weight": weights})
    counts = {name: _length(name, one) for name, one in given.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"there are {told}: they must be as many")
    return counts["x"]


def _length(name: str, data: Data) -> int:
    shape = data.shape if isinstance(data, SharedDataset) else arrays.plain(name, data).shape
    if not shape:
        raise InputError(f"{name} is {'missing' if data is None else 'no array'}: an array of examples is needed")
    if not shape[0]:
        raise InputError(f"{name} has shape {shape}: there is no example")
    return int(shape[0])


def shared_weights(weights: SharedDataset) -> SharedDataset:
    """Check weights that are shared.

    Raises:
        InputError: they are no single column of numbers.
    """
    if weights.content != "numbers" or weights.shape[1] != 1:
        raise InputError(f"{weights.name!r} has {weights.shape[1]} {weights.content} an example: one weight an example is needed, a float")
    return weights


def storable(weights: Array) -> Array:
    """Divide weights by the largest of them, (n, 1), as fixed point holds them.

    Raises:
        InputError: they differ so much that small ones vanish in fixed point.
    """
    scaled = (weights / weights.max()).reshape(-1, 1)
    stored: Array = np.round(scaled * 2.0**FRACTION) / 2.0**FRACTION
    if np.abs(stored - scaled).sum() > WEIGHT_ERROR * scaled.sum():
        raise InputError(
            f"the weights of examples are from {weights[weights > 0].min():g} to {weights.max():g}: the small ones vanish beside the"
            f" largest in {FRACTION} fractional bits; use weights that differ less"
        )
    return stored


def is_number(value: Any) -> bool:
    """Return whether a setting is a number, infinity among them."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and not math.isnan(value)


def labels(y: Data) -> tuple[Array, Array]:
    """Return numbers from 0 for labels that are here, and all labels.

    Raises:
        InputError: they are no labels, or of one class only.
    """
    if isinstance(y, SharedDataset):
        if y.content != "labels" or y.shape[1] < 2:
            raise InputError(f"{y.name!r} is no array of labels of at least two classes: store one integer an example, from 0")
        return np.zeros(0, int), np.arange(y.shape[1])
    found = arrays.plain("y", y)
    if found.ndim != 1:
        raise InputError(f"y has shape {found.shape}: one label an example is needed")
    arrays.present("y", found)
    if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.round(found)).all()):
        raise InputError("y has infinite or fractional values: labels are needed, LinearRegression fits numbers")
    try:
        names, numbers = np.unique(found, return_inverse=True)
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in found}))
        raise InputError(f"y has labels of several types, {kinds}: labels of one type are needed, so that they have an order") from None
    if len(names) < 2:
        raise InputError(f"y has one label only, {names[0]!r}: labels of at least two classes are needed")
    return numbers, names


def by_class(given: Mapping[Any, float] | str | None, labels: Array, counts: Array) -> Array:
    """Return the weight of each class.

    Args:
        given: label -> weight; else weights are balanced.
        labels: all of them.
        counts: how many examples each class has, by weight.

    Raises:
        InputError: weights are out of range, or of labels that there are not; or nothing is left.
    """
    if isinstance(given, Mapping):
        known = {label.item() if hasattr(label, "item") else label: place for place, label in enumerate(labels)}
        strangers = [label for label in given if label not in known]
        if strangers:
            raise InputError(f"class_weight names {strangers}, and the labels are {list(known)}")
        found = np.ones(len(known))
        for label, weight in given.items():
            if not is_number(weight) or not 0 <= weight < math.inf:
                raise InputError(f"class_weight has {weight!r} for {label!r}; numbers of at least 0 are needed")
            found[known[label]] = weight
    else:
        if not (counts > 0).all():
            raise InputError("class_weight='balanced', and a class has no example of any weight: its weight would be infinite")
        found = counts.sum() / (len(counts) * counts)
    if not (found * counts > 0).any():
        raise InputError("class_weight leaves no example with a weight above 0")
    return found
