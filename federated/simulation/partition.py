"""Splits one data set among owners, for simulations.

Deterministic by seed; every example goes to exactly one owner, and every owner gets at least one.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from federated.errors import DataError

Indices = npt.NDArray[np.intp]
SHARDS = 2
"""Pieces of the examples sorted by label that each owner gets with `by="label"`, as in McMahan et al., 2017, section 3."""


class Part(NamedTuple):
    """What one owner holds: `x[i]` belongs to `y[i]`."""

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]


def partition(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    owners: int,
    alpha: float | None = None,
    seed: int = 0,
    by: Literal["iid", "label", "quantity", "dirichlet"] | None = None,
) -> list[Part]:
    """Split examples among owners.

    - "iid": shuffled, parts of equal size (to within one example).
    - "dirichlet": the examples of each label are divided in proportions drawn from Dirichlet(alpha) (Hsu et al., 2019, arXiv:1909.06335).
      A small alpha gives each owner few labels; a large one is iid.
    - "label": sorted by label, cut into 2 pieces an owner, which are dealt at random (McMahan et al., 2017, arXiv:1602.05629).
    - "quantity": iid parts of sizes drawn from Dirichlet(alpha).

    Owners that would get nothing get an example of the largest part.

    Args:
        x: (n, ...) features.
        y: (n,) labels for "dirichlet" and "label"; (n, ...) otherwise.
        owners: how many parts, from 1 to n.
        alpha: concentration, above 0, for "dirichlet" and "quantity" (there 1.0 if None).
        seed: of the split.
        by: None: "iid", or "dirichlet" if alpha is given.

    Returns:
        The parts; copies, in shuffled order.

    Raises:
        DataError: the arrays do not fit together, or cannot be split so.

    Example:
        >>> [len(part.x) for part in partition(np.zeros((10, 2)), np.zeros(10), owners=3)]
        [4, 3, 3]
    """
    by = by or ("iid" if alpha is None else "dirichlet")
    _check(x, y, owners, alpha, by)
    rng = np.random.default_rng(seed)
    match by:
        case "iid":
            parts = np.array_split(rng.permutation(len(x)), owners)
        case "dirichlet":
            parts = _by_dirichlet(y, owners, alpha or 1.0, rng)
        case "label":
            parts = _by_label(y, owners, rng)
        case _:
            parts = _cut(rng.permutation(len(x)), rng.dirichlet(np.full(owners, alpha or 1.0)))
    _give_to_the_empty(parts)
    return [Part(x[part], y[part]) for part in parts]


def _check(x: npt.NDArray[Any], y: npt.NDArray[Any], owners: int, alpha: float | None, by: str) -> None:
    if by not in ("iid", "label", "quantity", "dirichlet"):
        raise DataError(f"by={by!r}; these are known: 'iid', 'label', 'quantity', 'dirichlet'")
    if len(x) != len(y):
        raise DataError(f"x has {len(x)} examples and y has {len(y)}: each example needs its label")
    if not 1 <= owners <= len(x):
        raise DataError(f"{len(x)} examples cannot be split among {owners} owners: from 1 to {len(x)} owners are possible")
    if by in ("label", "dirichlet") and y.ndim != 1:
        raise DataError(f"y has shape {y.shape}: by={by!r} needs one label an example, shape (n,)")
    if alpha is not None and by in ("iid", "label"):
        raise DataError(f"alpha={alpha} means nothing with by={by!r}: leave it out, or use 'dirichlet' or 'quantity'")
    if (alpha is None and by == "dirichlet") or (alpha is not None and not 0.0 < alpha < np.inf):
        raise DataError(f"alpha={alpha}: by={by!r} needs a finite number above 0")


def _by_dirichlet(y: npt.NDArray[Any], owners: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    pieces: list[list[Indices]] = [[] for _ in range(owners)]
    for label in np.unique(y):
        examples = rng.permutation(np.flatnonzero(y == label))
        for owner, piece in enumerate(_cut(examples, rng.dirichlet(np.full(owners, alpha)))):
            pieces[owner].append(piece)
    return [rng.permutation(np.concatenate(some)) for some in pieces]


def _by_label(y: npt.NDArray[Any], owners: int, rng: np.random.Generator) -> list[Indices]:
    shuffled = rng.permutation(len(y))
    shards = np.array_split(shuffled[np.argsort(y[shuffled], kind="stable")], SHARDS * owners)
    dealt = rng.permutation(len(shards)).reshape(owners, SHARDS)
    return [rng.permutation(np.concatenate([shards[i] for i in hand])) for hand in dealt]


def _cut(examples: Indices, proportions: npt.NDArray[np.float64]) -> list[Indices]:
    """Consecutive pieces with these proportions, to within one example."""
    return np.split(examples, np.rint(np.cumsum(proportions)[:-1] * len(examples)).astype(int))


def _give_to_the_empty(parts: list[Indices]) -> None:
    for i, part in enumerate(parts):
        if not len(part):
            largest = max(range(len(parts)), key=lambda j: len(parts[j]))
            parts[i], parts[largest] = parts[largest][-1:], parts[largest][:-1]
