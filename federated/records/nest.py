"""Arrays in the forms in which Keras takes them: one, or a dict, tuple or list of several with the examples along the first axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from federated.errors import DataError

NUMBERS = "biuf"
"""Kinds of dtypes that are numbers to Keras."""
EXPECTED = (
    "expected (x, y) or (x, y, sample_weight), where x and y are arrays, or dicts, tuples or lists of arrays, with the examples along the "
    "first axis"
)


@dataclass(frozen=True)
class Element:
    """What one array, or one component of a data set, is like for a single example.

    Attributes:
        shape: of one example; None where a size is not known; None for a shape of which nothing is known.
        text: whether its values are texts.
    """

    shape: tuple[int | None, ...] | None
    text: bool

    @staticmethod
    def of(value: Any) -> Element:
        """Of an array, a tensor or a `tf.TensorSpec`, the first axis of which are the examples."""
        shape = value.shape
        if getattr(shape, "rank", 0) is None:  # a tf.TensorShape of which nothing is known
            return Element(None, _is_text(value.dtype))
        return Element(tuple(None if size is None else int(size) for size in shape)[1:], _is_text(value.dtype))


class NestedExamples(NamedTuple):
    """Examples as nests of arrays.

    Attributes:
        x: the inputs.
        y: the labels.
        sample_weight: of each example's loss; None: 1.
    """

    x: Any
    y: Any
    sample_weight: Any = None

    @property
    def size(self) -> int:
        """How many."""
        return len(next(leaves(self.y)))

    @property
    def given(self) -> tuple[Any, ...]:
        """(x, y), or (x, y, sample_weight) if there are weights."""
        return (self.x, self.y) if self.sample_weight is None else tuple(self)

    def take(self, some: Any) -> NestedExamples:
        """Take some of them, by a slice or an array of indices."""
        if isinstance(self.x, np.ndarray) and isinstance(self.y, np.ndarray) and self.sample_weight is None:  # nearly all data
            return NestedExamples(self.x[some], self.y[some])
        return NestedExamples(*(None if part is None else mapped(lambda array: array[some], part) for part in self))


def examples(source: tuple[Any, ...]) -> NestedExamples:
    """Understand a tuple (x, y) or (x, y, sample_weight).

    Raises:
        DataError: it is something else, or its parts have not the same number of examples, or none.
    """
    if len(source) not in (2, 3):
        raise DataError(f"a tuple of {len(source)} was given; {EXPECTED}")
    for stacked in (False, True):  # a list of arrays is one of inputs; one of rows, if that does not fit
        found = NestedExamples(*(None if part is None and i == 2 else _nest(part, stacked=stacked) for i, part in enumerate(source)))
        lengths = {array.shape[0] if array.ndim else -1 for part in found if part is not None for array in leaves(part)}
        if len(lengths) == 1 and min(lengths) > 0:
            break
    else:
        shapes = {name: _shapes(part) for name, part in zip(("x", "y", "sample_weight"), found, strict=True) if part is not None}
        told = " and ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        raise DataError(f"{told}: all need the same number of examples, at least one; {EXPECTED}")
    for part in leaves(found.sample_weight):
        if part.dtype.kind not in NUMBERS:
            raise DataError(f"sample_weight has dtype {part.dtype}: numbers are expected")
    return found


def leaves(part: Any) -> Iterator[Any]:
    """Yield the arrays of a nest; those of a dict in the order of its keys, as Keras has them. Of None there are none."""
    if isinstance(part, dict):
        for key in sorted(part):
            yield from leaves(part[key])
    elif isinstance(part, (tuple, list)):
        for one in part:
            yield from leaves(one)
    elif part is not None:
        yield part


def mapped(function: Callable[[Any], Any], part: Any) -> Any:
    """Build a nest of the same form, of what the function makes of each array."""
    if isinstance(part, dict):
        return {key: mapped(function, value) for key, value in part.items()}
    if isinstance(part, (tuple, list)):
        return type(part)([mapped(function, one) for one in part]) if type(part) in (tuple, list) else function(part)
    return function(part)


def _nest(part: Any, *, stacked: bool) -> Any:
    if isinstance(part, dict):
        if not part or not all(isinstance(key, str) for key in part):
            raise DataError(f"a dict with {len(part)} keys was given: names of inputs or outputs are expected as keys; {EXPECTED}")
        return {key: _nest(value, stacked=stacked) for key, value in part.items()}
    if isinstance(part, tuple) and any(_is_array(one) for one in part):
        return tuple(_nest(one, stacked=stacked) for one in part)
    if isinstance(part, list) and not stacked and any(_is_array(one) for one in part):
        return [_nest(one, stacked=stacked) for one in part]
    try:
        array = np.asarray(part)
    except Exception:  # whatever the class of somebody else raises
        raise DataError(f"a {type(part).__qualname__} makes no array: its rows have other lengths; {EXPECTED}") from None
    if array.dtype == object and not (array.size and all(isinstance(one, (str, bytes)) for one in array.flat)):
        raise DataError(f"a {type(part).__qualname__} makes no array of numbers or texts; {EXPECTED}")
    return array


def _is_array(value: Any) -> bool:
    """Whether it has examples along an axis: an array or a tensor, not a number and no list of numbers."""
    return bool(getattr(value, "ndim", 0)) or isinstance(value, dict)


def _is_text(dtype: Any) -> bool:
    return str(getattr(dtype, "name", dtype)).startswith(("str", "object", "bytes"))  # NumPy's and TensorFlow's names


def _shapes(part: Any) -> str:
    shapes = [str(array.shape) for array in leaves(part)]
    return ", ".join(shapes[:8]) or "()"
