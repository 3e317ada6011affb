"""Data sets: how many examples they have, read once and never for ever, and what their batches are like."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from federated.errors import DataError
from federated.records.nest import Element, leaves, mapped

MOST_UNKNOWN = 1 << 14
"""Batches after which a data set that does not know its own length counts as one without end."""
MOST_KNOWN = 1 << 24
"""Batches that an epoch may have, if the data set knows how many there are."""
INFINITE, UNKNOWN = -1, -2
"""Of `tf.data.Dataset.cardinality()`."""


@dataclass(frozen=True)
class Survey:
    """What reading a data set once has shown.

    Attributes:
        examples: in all batches.
        least: in the smallest batch; 0 if there is none.
        elements: of the first batch: a tuple of nests of `Element`, for x, y and perhaps sample_weight; None if there is none.
    """

    examples: int
    least: int
    elements: tuple[Any, ...] | None


def check_form(source: Any) -> None:
    """Refuse what is no data set that can be read again and again.

    Raises:
        DataError: saying what is needed instead.
    """
    if is_pydataset(source):
        return
    if not is_tensorflow(source):
        raise DataError(f"a {type(source).__qualname__} is no data for an owner: {_instead(source)}")
    specification = source.element_spec
    if not (isinstance(specification, tuple) and len(specification) in (2, 3)):
        raise DataError("the data set does not give batches (x, y) or (x, y, sample_weight): use map(), and for an autoencoder (x, x)")
    for one in leaves(specification):
        if getattr(one, "shape", None) is not None and one.shape.rank == 0:
            raise DataError("the data set does not give batches (x, y), but single examples: use batch(n) on the tf.data.Dataset")


def batches(source: Any) -> Iterator[Any]:
    """Yield the batches of a data set, once.

    Raises:
        DataError: it has no end, or says so.
    """
    if is_tensorflow(source):
        count = int(source.cardinality())
        if count == INFINITE:
            raise DataError("the data set has no end: use take(n), so that an epoch ends")
        yield from source
        return
    length = source.num_batches
    if length is None:
        raise DataError("the data set has no end, its num_batches is None: give it the number of batches of an epoch")
    for i in range(length):
        yield source[i]


def survey(source: Any, stop: threading.Event) -> Survey:
    """Read a data set once. It may take long: not for the event loop.

    Args:
        source: a `tf.data.Dataset` or a `keras.utils.PyDataset`.
        stop: ends it early.

    Raises:
        DataError: it has no end, or its batches are none.
    """
    count = int(source.cardinality()) if is_tensorflow(source) else source.num_batches
    if count is not None and count > MOST_KNOWN:
        raise DataError(f"the data set has more than {MOST_KNOWN:,} batches, which is as good as no end: use take(n)")
    examples, least, elements = 0, 0, None
    for number, batch in enumerate(batches(source)):
        if count == UNKNOWN and number >= MOST_UNKNOWN:
            raise DataError(
                f"the data set does not know its length and gave {MOST_UNKNOWN:,} batches without an end: use take(n), or, if it has one, "
                "say so by apply(tf.data.experimental.assert_cardinality(batches))"
            )
        length = _length(batch)
        examples, least = examples + length, length if elements is None else min(least, length)
        if elements is None:
            elements = tuple(None if part is None else mapped(Element.of, part) for part in batch)
        if stop.is_set():
            raise DataError("reading the data set was interrupted: nobody waits for it any more")
    return Survey(examples, least, elements)


def is_tensorflow(source: Any) -> bool:
    """Whether it is a `tf.data.Dataset`, found out without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(source, tensorflow.data.Dataset)


def is_pydataset(source: Any) -> bool:
    """Whether it is a `keras.utils.PyDataset`, found out without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(source, keras.utils.PyDataset)


def _length(batch: Any) -> int:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise DataError("the data set does not give batches (x, y) or (x, y, sample_weight): a batch of it is something else")
    y: Any = list(batch)[1]
    label = next(leaves(y), None)
    shape: Any = getattr(label, "shape", ())
    if label is None or not len(shape):
        raise DataError("the data set does not give batches (x, y), but single examples, or no labels: use batch(n) on a tf.data.Dataset")
    return int(shape[0])


def _instead(source: Any) -> str:
    if hasattr(source, "__next__"):
        return "it can be read once only: give arrays (x, y), or tf.data.Dataset.from_generator(function, ...).batch(n)"
    if isinstance(source, list):
        return "is it x and y, or batches, or several inputs? Give a tuple (x, y) of arrays"
    if hasattr(source, "__array__") or hasattr(source, "ndim"):
        return "labels are missing: give (x, y); for an autoencoder (x, x)"
    if isinstance(source, dict):
        return "give a tuple (x, y), where x may be a dict of inputs"
    if hasattr(source, "__len__") and not isinstance(source, (str, bytes)):
        return "give what it loads as arrays (x, y), or a keras.utils.PyDataset whose __getitem__(i) gives its batch i as NumPy arrays"
    return "give a pair (x, y) of arrays, a tf.data.Dataset of batches or a keras.utils.PyDataset"
