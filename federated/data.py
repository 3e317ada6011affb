"""The data of an owner: arrays, a `tf.data.Dataset`, or a `keras.utils.PyDataset`. It never leaves the owner; its repr shows no record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from federated.errors import DataError


class Data:
    """Examples that a Keras model can be fitted to.

    Args:
        source: a pair (x, y) of arrays with the examples along the first axis; or a finite `tf.data.Dataset` of batches (x, y); or a
            `keras.utils.PyDataset`. Data sets keep their own batches and their own order.

    Raises:
        DataError: it is none of these, or x and y do not fit together, or there is no example.
    """

    def __init__(self, source: Any) -> None:
        self.pair = _pair(source) if isinstance(source, tuple) else None
        self.source = source
        self._least: int | None = None
        self._fitting: dict[tuple[int, int | None], bool] = {}
        self._count = len(self.pair[0]) if self.pair else None
        if self.pair is None and not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
            raise DataError(f"a {type(source).__qualname__} is no data: give a pair (x, y) of arrays, a tf.data.Dataset or a PyDataset")

    def __repr__(self) -> str:
        return f"<Data, {'not yet counted' if self._count is None else self._count} examples>"

    def count(self) -> int:
        """The number of examples. A data set is read once for it.

        Raises:
            DataError: it is empty, or without end.
        """
        if self._count is None:
            lengths = [_batch_length(batch) for batch in self.batches()]
            self._count, self._least = sum(lengths), min(lengths, default=0)
        if self._count == 0:
            raise DataError("the data set is empty: at least one example is needed")
        return self._count

    def least_batch(self) -> int:
        """Examples in the smallest batch of a data set. For data sets only."""
        self.count()
        assert self._least is not None
        return self._least

    def labels_fit(self, width: int, ignored: int | None) -> bool:
        """Whether all labels are integers from 0 to `width` - 1, or `ignored`. A data set is read once for it."""
        if (width, ignored) not in self._fitting:
            parts = [self.pair[1]] if self.pair else (batch[1] for batch in self.batches())
            self._fitting[width, ignored] = all(_within(np.asarray(part), width, ignored) for part in parts)
        return self._fitting[width, ignored]

    def shuffled(self, seed: list[int]) -> tuple[Any, Any]:
        """The pair of arrays in an order made from the seed. For arrays only."""
        assert self.pair is not None
        order = np.random.default_rng(seed).permutation(len(self.pair[0]))
        return self.pair[0][order], self.pair[1][order]

    def batches(self) -> Iterable[Any]:
        """The batches (x, y) of a data set, once. For data sets only."""
        cardinality = getattr(self.source, "cardinality", None)
        if cardinality is not None:
            if int(cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
                raise DataError("the data set has no end: use take(n), so that an epoch ends")
            return (batch for batch in self.source)
        return (self.source[i] for i in range(len(self.source)))


def _pair(source: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(source) != 2:
        raise DataError(f"a tuple of {len(source)} was given: (x, y) is expected")
    x, y = (np.asarray(part) for part in source)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or not len(x):
        raise DataError(f"x has shape {x.shape} and y has shape {y.shape}: both need the same number of examples, at least one")
    return x, y


def _within(labels: Any, width: int, ignored: int | None) -> bool:
    counted = labels if ignored is None else labels[labels != ignored]
    return bool(((counted >= 0) & (counted < width)).all())


def _batch_length(batch: Any) -> int:
    labels: Any = batch[1] if isinstance(batch, tuple) and len(batch) >= 2 else None
    while isinstance(labels, (dict, list, tuple)) and labels:  # of several outputs
        labels = next(iter(labels.values() if isinstance(labels, dict) else labels))
    if labels is None or not getattr(labels, "shape", ()):
        raise DataError("the data set does not give batches (x, y): use batch(n) on a tf.data.Dataset")
    return int(labels.shape[0])
