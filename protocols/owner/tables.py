"""Files of an owner's data as arrays: `.npy`, `.npz` and `.csv`. Nothing is unpickled."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError

Array = npt.NDArray[Any]


class Tables(NamedTuple):
    """The arrays of a file by the end of their names ("" for a file of one array), and the record ids of their rows."""

    arrays: dict[str, Array]
    ids: list[str] | None


def read(path: Path, *, labels: str | None = None, ids: str | None = None) -> Tables:
    """Return the arrays of a file.

    Args:
        path: `.npy`: one array. `.npz`: each of its arrays, by its name. `.csv` with names in its first line: `.x` has the numbers of all
            columns but `labels`, which become `.y` (integers if all of them are).
        labels: column of a `.csv`.
        ids: column of a `.csv`, or array of an `.npz`, with record ids; it is not shared.

    Raises:
        InputError: the file cannot be read, or has no such column, or something in it is no number.
    """
    if path.suffix != ".csv" and labels is not None:
        raise InputError(f"{path}: a column of labels is named for a .csv; in other files an array of integers, one an example, is labels")
    if path.suffix == ".npy" and ids is not None:
        raise InputError(f"{path}: a .npy holds one array and no record ids; put both into an .npz")
    try:
        match path.suffix:
            case ".npy":
                return Tables({"": np.load(path, allow_pickle=False)}, None)
            case ".npz":
                return _archive(path, ids)
            case ".csv":
                with open(path, newline="", encoding="utf-8-sig") as file:
                    return _sheet(path, list(csv.reader(file)), labels, ids)
    except (OSError, ValueError, EOFError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}") from None
    raise InputError(f"{path}: files that can be shared end in .npy, .npz or .csv")


def _archive(path: Path, ids: str | None) -> Tables:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if ids is None:
        return Tables({f".{name}": array for name, array in arrays.items()}, None)
    if ids not in arrays:
        raise InputError(f"{path} has no array {ids!r}; it has {', '.join(arrays)}")
    found = [str(one) for one in arrays.pop(ids)]
    return Tables({f".{name}": array for name, array in arrays.items()}, found)


def _sheet(path: Path, lines: Sequence[Sequence[str]], labels: str | None, ids: str | None) -> Tables:
    if len(lines) < 2:
        raise InputError(f"{path} has {len(lines)} lines: one with the names of the columns and one an example are needed")
    names, rows = list(lines[0]), [line for line in lines[1:] if line]
    for number, line in enumerate(lines[1:], 2):
        if line and len(line) != len(names):
            raise InputError(f"{path}, line {number}: {len(line)} values for {len(names)} columns")
    for column in (labels, ids):
        if column is not None and names.count(column) != 1:
            raise InputError(f"{path} has {names.count(column)} columns {column!r}, one is needed; it has {', '.join(names)}")
    features = [index for index, name in enumerate(names) if name not in (labels, ids)]
    arrays: dict[str, Array] = {}
    if features:
        arrays[".x"] = np.array([[_number(path, names[i], row[i]) for i in features] for row in rows])
    if labels is not None:
        arrays[".y"] = _labels(path, labels, [row[names.index(labels)] for row in rows])
    return Tables(arrays, None if ids is None else [row[names.index(ids)] for row in rows])


def _labels(path: Path, column: str, words: Sequence[str]) -> Array:
    try:
        return np.array([int(word) for word in words])
    except ValueError:
        return np.array([_number(path, column, word) for word in words])


def _number(path: Path, column: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path}, column {column!r}: {word!r} is no number; fill or remove it, or name the column as labels or ids")
    return number
