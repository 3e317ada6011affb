"""Arrays of the user's in the clear: finite numbers, tables of them, weights, and what scores compare. What is none is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError

LARGEST = 1e100
"""The largest element of a column of data lies between 1 / LARGEST and LARGEST, or is 0: its square is a float64, too."""

NAMED = 5
"""Places that an error names, at most."""


def plain(name: str, given: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an array as numpy reads it.

    Raises:
        InputError: rows are of different lengths, or values are masked.
    """
    masked = int(np.count_nonzero(given.mask)) if isinstance(given, np.ma.MaskedArray) else 0
    if masked:
        raise InputError(f"{name} has {masked} masked values: there is no form for what is missing; fill them")
    try:
        return np.asarray(given)
    except ValueError:
        raise InputError(f"{name} has rows of different lengths: an array is needed") from None


def numbers(name: str, given: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return finite numbers of any shape.

    Raises:
        InputError: they are none.
    """
    read = plain(name, given)
    if read.dtype.kind not in "biuf":
        raise InputError(f"{name} is made of {read.dtype}: numbers are needed")
    found = read.astype(np.float64)
    bad = ~np.isfinite(found)
    if bad.any():
        places = sorted(set(np.nonzero(bad)[-1].tolist()))
        where = "columns" if found.ndim > 1 else "places"
        told = f"{places[:NAMED]}{' and more' if len(places) > NAMED else ''}"
        raise InputError(f"{name} has NaN or infinite values in {where} {told}: finite numbers are needed")
    return found


def table(name: str, given: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return a table of data, (examples, columns).

    Raises:
        InputError: it is none, or a column is so large or small that its squares are no numbers.
    """
    rows = numbers(name, given)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{name} has shape {rows.shape}: a table (examples, features) is needed")
    _moderate(name, np.abs(rows).max(0))
    return rows


def target(given: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return y as one number an example, (examples, 1).

    Raises:
        InputError: it is none.
    """
    found = numbers("y", given)
    if found.ndim != 1:
        raise InputError(f"y has shape {found.shape}: one target an example is needed")
    return table("y", found.reshape(-1, 1))


def own_weights(given: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return weights of examples that are here, (n,).

    Raises:
        InputError: they are no weights.
    """
    found = numbers("sample_weight", given)
    if found.ndim != 1:
        raise InputError(f"sample_weight has shape {found.shape}: one number an example is needed")
    if not ((found >= 0).all() and found.any()):
        raise InputError("sample_weight has values below 0, or none above 0: weights of at least 0 are needed")
    _moderate("sample_weight", found.max(keepdims=True))
    return found


def _moderate(name: str, largest: npt.NDArray[np.float64]) -> None:
    """Refuse columns by their largest elements."""
    far = np.nonzero((largest > LARGEST) | ((largest > 0) & (largest < 1 / LARGEST)))[0].tolist()
    if far:
        raise InputError(
            f"{name} has at most {largest[far[0]]:g} in column {far[0]}: from {1 / LARGEST:g} to {LARGEST:g} is possible, scale the column"
        )


def weights_of_rows(given: npt.ArrayLike | None, rows: int) -> npt.NDArray[np.float64]:
    """Return weights for scores in the clear.

    Raises:
        InputError: they are no weights, or not as many as rows.
    """
    weights = np.ones(rows) if given is None else own_weights(given)
    if weights.shape != (rows,) or not rows:
        raise InputError(f"there are {len(weights)} weights for a score of {rows} rows: as many are needed, and one at least")
    return weights


def true_numbers(given: npt.ArrayLike, found: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the targets that a score compares with those that were found.

    Raises:
        InputError: they are no numbers, or of another shape.
    """
    true = numbers("y", given)
    if true.shape != found.shape:
        raise InputError(f"y has shape {true.shape}; {found.shape} is needed")
    return true


def true_labels(given: npt.ArrayLike, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the labels that a score compares with those that were found.

    Raises:
        InputError: they have another shape, are missing, or are strings where those of the fit are none, or the other way round.
    """
    true = plain("y", given)
    if true.shape != found.shape:
        raise InputError(f"y has shape {true.shape}; {found.shape} is needed, one label a row")
    present("y", true)
    kinds = [array.dtype.kind for array in (true, found)]
    if "O" not in kinds and (kinds[0] in "US") != (kinds[1] in "US"):
        raise InputError(f"y is made of {true.dtype}, and the labels of the fit are made of {found.dtype}: none of them can be right")
    return true


def present(name: str, labels: npt.NDArray[Any]) -> None:
    """Refuse labels that are missing: NaN, NaT and what else is not equal to itself, or None.

    Raises:
        InputError: there are some.
    """
    if labels.dtype.kind in "mM":
        missing = np.isnat(labels)
    else:
        missing = np.array([label is None or label != label for label in labels.tolist()], bool)
    if missing.any():
        raise InputError(f"{name} has {int(missing.sum())} labels that are missing (NaN, NaT or None): leave these examples out")
