"""Datasets of several owners as one: what it is, and one party's part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from protocols.datasets.dataset import Dataset, alike, check_records
from protocols.errors import InputError
from protocols.mpc.parties.exchange import Ring


def joined(datasets: Sequence[Dataset], axis: int, handle: bytes) -> Dataset:
    """Join datasets of several owners: below each other (axis 0: each has other examples), or beside each other (axis 1: each has other
    features of the same examples).

    Raises:
        InputError: they do not fit each other.
    """
    if not datasets:
        raise InputError("there is no name of data: at least one is needed")
    if axis not in (0, 1):
        raise InputError(f"axis={axis}: 0 puts the examples of several owners below each other, 1 their features beside each other")
    first, *others = datasets
    for other in others:
        _check_pair(first, other, axis)
    name, binary = "+".join(dataset.name for dataset in datasets), all(dataset.binary for dataset in datasets)
    signs = all(dataset.signs for dataset in datasets)
    if axis:
        shape = first.shape[0], sum(dataset.shape[1] for dataset in datasets)
        return Dataset(name, shape, first.content, handle, first.records, binary, signs=signs)
    summing = all(dataset.summing for dataset in datasets)
    shape = sum(dataset.shape[0] for dataset in datasets), max(dataset.shape[1] for dataset in datasets)
    known = [dataset.records for dataset in datasets]
    records = _stacked(known) if all(known) else b""
    return Dataset(name, shape, first.content, handle, records, binary, summing, first.example, signs)


def _check_pair(first: Dataset, other: Dataset, axis: int) -> None:
    both = f"{first.name!r} and {other.name!r}"
    if first.content != other.content:
        raise InputError(f"{both} do not fit: {first.name!r} holds {first.content}, {other.name!r} {other.content}; load them one by one")
    if axis == 0:
        if first.content == "numbers" and first.shape[1] != other.shape[1]:
            raise InputError(
                f"{both} do not fit below each other: {first.shape[1]} and {other.shape[1]} features an example; owners of different"
                " examples need the same features in the same order (for different features of the same examples give axis=1)"
            )
        if not alike(first.example, other.example):
            raise InputError(
                f"{both} do not fit below each other: their examples had the shapes {first.example} and {other.example}; give them their"
                " axes in one order before they are shared"
            )
        return
    if first.content == "labels":
        raise InputError(f"{both} are labels: only features go beside each other (axis=1); load the labels of one owner")
    if first.shape[0] != other.shape[0]:
        raise InputError(
            f"{both} do not fit beside each other: {first.shape[0]} and {other.shape[0]} examples; owners of different features need the"
            " same examples in the same order (for different examples with the same features give axis=0)"
        )
    check_records(first, other)


def _stacked(known: Sequence[bytes]) -> bytes:
    return known[0] if len(known) == 1 else hashlib.sha256(b"confide stacked records" + b"".join(known)).digest()


def put_together(arrays: Sequence[Ring], axis: int) -> Ring:
    """Return one party's part of `joined`. Classes that only some owners have are public zeros at the others."""
    if axis == 0:
        width = max(array.shape[1] for array in arrays)
        arrays = [widened(array, width) for array in arrays]
    return np.concatenate(arrays, axis)


def widened(array: Ring, columns: int) -> Ring:
    """Add zeros for the classes that no label has: public zeros with masks of zero."""
    missing = columns - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing))) if missing else array
