"""Examples in memory, from which batches of any choice can be taken. Knows nothing of models and of privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from privacy.errors import SamplingRefused


class Examples:
    """A nest of arrays with the same leading axis.

    Args:
        x: inputs: an array (N, ...), or a list, tuple or dict of such.
        y: targets, likewise.
        weight: (N,) or None: the weight of each example's loss.

    Raises:
        SamplingRefused: not arrays (a `tf.data.Dataset` or a generator decides itself what is in a batch), or of different lengths.
    """

    def __init__(self, x: Any, y: Any, weight: Any = None) -> None:
        if y is None:
            tf.nest.map_structure(_array, x)  # a data set has its targets in it: that is not what is wrong
            raise SamplingRefused("y is missing: private training needs inputs and targets as arrays")
        self._arrays = tf.nest.map_structure(_array, (x, y) if weight is None else (x, y, weight))
        lengths = {len(array) for array in tf.nest.flatten(self._arrays)}
        if len(lengths) != 1:
            raise SamplingRefused(f"the arrays have {sorted(lengths)} examples: one number is needed")
        if weight is not None and np.ndim(self._arrays[2]) != 1:
            raise SamplingRefused(f"sample_weight has shape {np.shape(self._arrays[2])}: one weight an example, (N,), is needed")
        self._length = lengths.pop()

    def __len__(self) -> int:
        return int(self._length)

    def __repr__(self) -> str:
        return f"<{len(self)} examples>"

    def take(self, indices: Any) -> Any:
        """(x, y) or (x, y, weight) of these examples."""
        return tf.nest.map_structure(lambda array: _narrow(array[indices]), self._arrays)

    def parted(self, fraction: float) -> tuple[Examples, Any]:
        """Split into examples to train on and arrays (x, y) or (x, y, weight) to validate with: the last ones, as in Keras.

        Args:
            fraction: of the examples that are for validation, between 0 and 1.

        Raises:
            SamplingRefused: nothing would be left to train on, or to validate with.
        """
        start = math.floor(len(self) * (1.0 - fraction)) if 0.0 < fraction < 1.0 else 0
        if not 0 < start < len(self):
            raise SamplingRefused(
                f"validation_split={fraction} leaves {start} of {len(self)} examples to train on: a fraction that leaves some, and some to "
                "validate with, is needed"
            )
        first, last = (
            tf.nest.map_structure(lambda array, part=part: array[part], self._arrays) for part in (slice(start), slice(start, None))
        )
        return Examples(*first), last

    def weighted(self, of_classes: Mapping[int, float]) -> Examples:
        """Give each example the weight of its class, as Keras' `class_weight`; 1 for classes that are not named.

        Raises:
            SamplingRefused: the examples have weights already, or several targets, of which none tells a class.
        """
        x, y, *weight = self._arrays
        if weight:
            raise SamplingRefused("class_weight and sample_weight were both given: give their products as sample_weight")
        if tf.nest.is_nested(y):
            raise SamplingRefused("class_weight was given for several targets: give sample_weight, one weight an example")
        wide = y.ndim > 1 and y.shape[-1] != 1
        classes = np.rint(y.argmax(-1) if wide else y.reshape(len(y), -1)[:, 0]).astype(np.int64)
        if classes.ndim != 1 or (not wide and y.size != len(y)):
            raise SamplingRefused(f"class_weight was given for targets of shape {y.shape}: one class an example is needed")
        return Examples(x, y, np.array([of_classes.get(int(one), 1.0) for one in classes], np.float32))

    @property
    def batch(self) -> Any:
        """The specification of a batch of any size, a nest of `tf.TensorSpec` as `take` gives arrays."""
        return tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), _narrow(array[:0]).dtype), self._arrays)


def _array(values: Any) -> Any:
    if isinstance(values, (tf.data.Dataset, tf.RaggedTensor, tf.SparseTensor, str)) or not hasattr(values, "__array__"):
        raise SamplingRefused(
            f"{type(values).__name__} is not an array: each example has to be sampled by itself, with a probability that is accounted for. "
            "Give numpy arrays (or nests of them)"
        )
    return values if isinstance(values, np.ndarray) else np.asarray(values)


def _narrow(array: Any) -> Any:
    """Float64 becomes float32, as in Keras."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def count(batch: Any) -> int:
    """Return the number of examples of a batch."""
    return len(tf.nest.flatten(batch)[0])


def split(batch: Any, most: int | None) -> Sequence[Any]:
    """Split a batch into parts of at most `most` examples; no part where it is empty."""
    size = most or max(count(batch), 1)
    return [tf.nest.map_structure(lambda array, s=start: array[s : s + size], batch) for start in range(0, count(batch), size)]
