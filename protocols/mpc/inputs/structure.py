"""Several tensors as one row: how the inputs and outputs of a model that has several lie in the rows that are masked and opened.

The structure is public: names, shapes, and whether they come in a list or a dict. Nothing here knows Keras.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, ModelError, ProgramError

Shape = tuple[int, ...]
Array = npt.NDArray[Any]


class NamedShape(msgspec.Struct, frozen=True):
    """One tensor: its name, and the shape of an example of it."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """Numbers of an example."""
        return math.prod(self.shape)


class Structure(msgspec.Struct, frozen=True):
    """Several tensors, one after the other in a row.

    Attributes:
        kind: how a user gives or gets them.
        parts: in the order of the row.
    """

    kind: Literal["list", "dict"]
    parts: tuple[NamedShape, ...]

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return sum(part.size for part in self.parts)

    @property
    def shapes(self) -> Any:
        """As in Keras: (None, *shape) of each, in a list or a dict."""
        return self._held([(None, *part.shape) for part in self.parts])

    def check(self, what: str, row: Shape) -> None:
        """Refuse a structure that does not fit the rows of a program: for whoever is told it.

        Raises:
            ProgramError: it does not.
        """
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names) or any(not part.shape or min(part.shape) < 1 for part in self.parts):
            raise ProgramError(f"{what}s of shapes {[part.shape for part in self.parts]} and names {names} make no sense")
        if row != (self.size,):
            raise ProgramError(f"{len(names)} {what}s of together {self.size} numbers do not fit a row of shape {row}")

    def joined(self, values: Any, what: str) -> Array:
        """Return rows (n, size) of what a user gave: an array (n, *shape) for each tensor, in a list or a dict.

        Raises:
            InputError: it has another structure, shapes, or numbers of examples.
        """
        arrays, expected = [], self._held([("n", *part.shape) for part in self.parts])
        for part, value in zip(self.parts, self._each(values, what), strict=True):
            try:
                array = np.asarray(value)
            except ValueError as error:
                raise InputError(f"{what} {part.name!r} is no array: {error}") from None
            if array.dtype.kind not in "fiub":
                raise InputError(f"{what} {part.name!r} has dtype {array.dtype}; real numbers are needed")
            if array.shape[1:] != part.shape or not array.size:
                raise InputError(f"{what} {part.name!r} has shape {array.shape}; {expected} with n >= 1 is needed")
            arrays.append(array)
        if len({len(array) for array in arrays}) > 1:
            raise InputError(f"{what}s have {', '.join(str(len(array)) for array in arrays)} examples; as many of each are needed")
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)

    def cut(self, rows: Array) -> Any:
        """Return the tensors of rows (n, size), in a list or a dict."""
        return self._held(self._pieces(rows))

    def cut_by_name(self, rows: Array) -> dict[str, Array]:
        """Return the tensors of rows (n, size) by their names."""
        return {part.name: piece for part, piece in zip(self.parts, self._pieces(rows), strict=True)}

    def place(self, element: int) -> str:
        """Return how an element of a row is named: its index in an example of its tensor, and the name of that."""
        for part in self.parts:
            if element < part.size:
                index = ", ".join(str(int(i)) for i in np.unravel_index(element, part.shape))
                return f"{index if len(part.shape) == 1 else f'({index})'} of input {part.name!r}"
            element -= part.size
        raise AssertionError  # rows are as long as their tensors together

    def range_of(self, given: Any) -> Any:
        """Return the range of a row: (low, high) for all tensors, or by name, each a number or an array that is broadcast to an example.

        Raises:
            ModelError: a name is missing or unknown, or a range is no pair.
        """
        if not isinstance(given, Mapping):
            if not isinstance(given, str | tuple | list) or (not isinstance(given, str) and len(given) != 2):
                raise ModelError(f"input_range={given!r}; a pair (low, high), or one by name, is needed: {self._example}")
            if not isinstance(given, str) and not all(np.ndim(end) == 0 for end in given):
                raise ModelError(f"input_range=(low, high) of arrays for {len(self.parts)} inputs; give it by name: {self._example}")
            return given
        names = [part.name for part in self.parts]
        if set(given) != set(names):
            raise ModelError(f"input_range has the names {sorted(map(str, given))}; the inputs are {names}: {self._example}")
        ends: list[list[Array]] = [[], []]
        for part in self.parts:
            try:
                low, high = given[part.name]
                for side, end in zip(ends, (low, high), strict=True):
                    side.append(np.broadcast_to(np.asarray(end, np.float64), part.shape).reshape(-1))
            except (TypeError, ValueError):
                raise ModelError(
                    f"input_range of {part.name!r}: a pair (low, high) is needed, each a number or an array that fits {part.shape}"
                ) from None
        return np.concatenate(ends[0]), np.concatenate(ends[1])

    def first(self, values: Any) -> Any:
        """Return the first example of each tensor, in a list or a dict."""
        return self._held([value[0] for value in self._each(values, "value")])

    def ranges(self, low: Array, high: Array) -> dict[str, tuple[Array, Array]]:
        """Return the range of each tensor, in the shape of an example, of the ends of those of a row."""
        ends = [self._pieces(np.broadcast_to(end, (1, self.size))) for end in (low, high)]
        return {part.name: (least[0], most[0]) for part, least, most in zip(self.parts, *ends, strict=True)}

    def _pieces(self, rows: Array) -> list[Array]:
        ends = np.cumsum([0, *(part.size for part in self.parts)])
        cuts = zip(self.parts, ends, ends[1:], strict=False)
        return [rows[:, start:stop].reshape(len(rows), *part.shape) for part, start, stop in cuts]

    @property
    def _example(self) -> str:
        return "input_range={" + ", ".join(f'"{part.name}": (low, high)' for part in self.parts) + "}"

    def _each(self, values: Any, what: str) -> Sequence[Any]:
        names = [part.name for part in self.parts]
        if isinstance(values, Mapping):
            if set(values) != set(names):
                raise InputError(f"{what}s {sorted(map(str, values))} were given; {names} are needed")
            return [values[name] for name in names]
        if self.kind == "dict" or not isinstance(values, list | tuple) or len(values) != len(names):
            raise InputError(f"{what}s are needed in a {self.kind}, as the Keras model takes them: {self.shapes}")
        return values

    def _held(self, values: list[Any]) -> Any:
        return values if self.kind == "list" else {part.name: value for part, value in zip(self.parts, values, strict=True)}
