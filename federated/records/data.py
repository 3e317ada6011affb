"""The data of an owner: arrays, a `tf.data.Dataset`, or a `keras.utils.PyDataset`. It never leaves the owner; its repr shows no record."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from federated.errors import DataError
from federated.records.batches import Survey, batches, check_form, survey
from federated.records.nest import Element, NestedExamples, examples, leaves, mapped


class Data:
    """Examples that a Keras model can be fitted to.

    Args:
        source: a tuple (x, y) or (x, y, sample_weight), where x and y are arrays, or dicts, tuples or lists of them, with the examples
            along the first axis; or a finite `tf.data.Dataset` of batches of these; or a `keras.utils.PyDataset`. Data sets keep their
            own batches and their own order, and are read more than once: first to count the examples. One that does not know its own
            length may have 16,384 batches; tell it the number by `tf.data.experimental.assert_cardinality` if there are more.

    Attributes:
        arrays: the examples; None if they are in a data set.

    Raises:
        DataError: it is none of these, or x and y do not fit together, or there is no example.
    """

    def __init__(self, source: Any) -> None:
        self.arrays: NestedExamples | None = examples(source) if isinstance(source, tuple) else None
        self.source = source
        self._survey: Survey | None = None
        self._reading = threading.Lock()
        self._fitting: dict[tuple[int, int | None, int | str], bool] = {}
        self._elements: tuple[Any, ...] | None = None
        if self.arrays is None:
            check_form(source)

    def __repr__(self) -> str:
        return f"<Data, {self.count() if self.counted else 'not yet counted'} examples>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_reading"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _reading=threading.Lock())

    @property
    def counted(self) -> bool:
        """Whether `count` is there at once: arrays are counted, a data set has to be read."""
        return self.arrays is not None or self._survey is not None

    def count(self, stop: threading.Event | None = None) -> int:
        """Count the examples. A data set is read once for it, which may take long.

        Args:
            stop: ends the reading early.

        Raises:
            DataError: it is empty, or without end.
        """
        if self.arrays is not None:
            return self.arrays.size
        found = self._surveyed(stop)
        if found.examples == 0:
            raise DataError("the data set is empty: at least one example is needed")
        return found.examples

    def _surveyed(self, stop: threading.Event | None = None) -> Survey:
        with self._reading:
            if self._survey is None:
                self._survey = survey(self.source, stop or threading.Event())
        return self._survey

    def least_batch(self) -> int:
        """Examples in the smallest batch of a data set. For data sets only."""
        return self._surveyed().least

    def elements(self) -> tuple[Any, ...]:
        """Return what x and y (and sample_weight, if there is one) are like: nests of `Element`."""
        if self._elements is None:
            given = self._surveyed().elements if self.arrays is None else tuple(mapped(Element.of, p) for p in self.arrays if p is not None)
            assert given is not None  # it would not have been counted
            self._elements = given
        return self._elements

    def ranks(self) -> tuple[Any, ...]:
        """How many axes the arrays of an example have, in their order; None where that is not known."""
        return tuple(None if one.shape is None else len(one.shape) for part in self.elements() for one in leaves(part))

    def labels_fit(self, width: int, ignored: int | None, part: int | str = 0) -> bool:
        """Whether all labels are integers from 0 to `width` - 1, or `ignored`. A data set is read once for it.

        Args:
            width: how many classes there are.
            ignored: a label that is none of them and does not count.
            part: which of the arrays of labels, if there are several: its number, or its key in a dict.
        """
        key = (width, ignored, part)
        if key not in self._fitting:
            labels = [self.arrays.y] if self.arrays else (batch[1] for batch in self.batches())
            chosen = (y[part] if isinstance(part, str) else list(leaves(y))[part] for y in labels)
            self._fitting[key] = all(_within(np.asarray(one), width, ignored) for one in chosen)
        return self._fitting[key]

    def shuffled(self, seed: list[int]) -> NestedExamples:
        """Return the arrays in an order made from the seed. For arrays only."""
        assert self.arrays is not None
        return self.arrays.take(np.random.default_rng(seed).permutation(self.arrays.size))

    def batches(self) -> Iterable[Any]:
        """Return the batches (x, y) or (x, y, sample_weight) of a data set, once. For data sets only."""
        return batches(self.source)

    @property
    def given(self) -> dict[str, Any]:
        """The data as arguments of `model.fit` and `model.evaluate`."""
        return {"x": self.source} if self.arrays is None else dict(zip(("x", "y", "sample_weight"), self.arrays, strict=True))


def _within(labels: Any, width: int, ignored: int | None) -> bool:
    counted = labels if ignored is None else labels[labels != ignored]
    return bool(((counted >= 0) & (counted < width)).all())
