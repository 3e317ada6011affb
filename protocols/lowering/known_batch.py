"""Layers called with a known number of examples: with one, and with several, by which it shows whether examples mix.

With symbols of one example each shape in a `call` is a number, so that `shape(x)[0]`, `ones_like`, a class token that is broadcast, or
positions that are counted mean what they mean in Keras. That no operation moves anything between examples follows from the same call with
symbols of several (`EXAMPLES`): its graph has the same operations with the same settings, its constants are those of one example again and
again, and what only moves elements is tried on the numbers of several (`rules/operations.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protocols.lowering.nodes.numbers import EXAMPLES, number
from protocols.lowering.nodes.refusals import refuse
from protocols.mpc.engine.values import Shape

Array = npt.NDArray[Any]
INSTEAD = "operations inside of an example"


class Constant(NamedTuple):
    """A value that depends on no input, for one example and for several: rows with the batch axis in front, or the same array."""

    one: Array
    many: Array


class Symbol(NamedTuple):
    """What a symbol of a known number of examples stands for: a tensor of the graph around, and the values there."""

    tensor: Any
    known: dict[int, Any]


def constant(layer: Any, one: Any, many: Any) -> Constant:
    """Return a constant as it is for one example and for several.

    Raises:
        UnsupportedLayer: the second is neither the first again nor rows that are all the first.
    """
    first, second = number(one), number(many)
    rows = first.ndim > 0 and len(first) == 1 and second.shape == (EXAMPLES, *first.shape[1:]) and all(_same(first[0], row) for row in second)
    if not rows and not _same(first, second):
        raise refuse(layer, "it draws random numbers, or depends on how many examples there are", "a call() that gives one answer")
    return Constant(first if isinstance(one, int | float) else np.asarray(one), np.asarray(many))


def _same(first: Array, second: Array) -> bool:
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=True)


class TwinGraphs:
    """Graphs of one example, and beside each node its twin in the graph of several; `shape` tells that of the value at a position."""

    def __init__(self, keras: Any, shape: Callable[[int], Shape]) -> None:
        self._keras = keras
        self._shape = shape
        self._nodes: dict[int, Any] = {}
        self._partners: dict[int, Any] = {}
        self._symbols: dict[int, Symbol] = {}
        self._alive: list[Any] = []  # tensors, so that an id is one tensor's

    def symbol(self, tensor: Any) -> Symbol | None:
        """Return what a tensor stands for, None for what an operation gives."""
        return self._symbols.get(id(tensor))

    def of(self, node: Any) -> Any:
        """Return the twin of a node; a node for any number of examples is its own."""
        return self._nodes.get(id(node), node)

    def known(self, node: Any) -> bool:
        """Whether a node is of a graph of one example."""
        return id(node) in self._nodes

    def call(self, run: Callable[[Any], Any], layer: Any, structure: Any, known: dict[int, Any]) -> list[Any]:
        """Call with symbols, and the constants that are `known`, in the places of tensors; return the results for one example.

        Args:
            run: called twice, with what stands in the structure's place.
            layer: whose call it is.
            structure: of tensors and settings.
            known: positions and constants by the ids of tensors.

        Raises:
            UnsupportedLayer: examples mix, or numbers are drawn at random.
        """
        symbols: dict[int, tuple[Any, Any]] = {}
        arguments = [self._keras.tree.map_structure(lambda x, n=n: self._filled(x, n, known, symbols), structure) for n in (1, EXAMPLES)]
        with _inlined(layer):
            first, second = ([one for one in self._keras.tree.flatten(run(each)) if one is not None] for each in arguments)
        self._alive += [symbols, first, second]
        return self._paired(layer, first, second)

    def _filled(
        self, value: Any, examples: int, known: dict[int, Any], symbols: dict[int, tuple[Any, Any]], beside: Sequence[int] = ()
    ) -> Any:
        """What stands in the place of a tensor; `beside` is the shape of what it is the mask of."""
        if not isinstance(value, self._keras.KerasTensor):
            return value
        found = known.get(id(value))
        if isinstance(found, Constant):
            return self._keras.ops.convert_to_tensor(found[examples > 1], value.dtype)
        if id(value) not in symbols:
            shape = beside[: len(value.shape) - 1] if found is None else self._shape(found)
            pair = symbols[id(value)] = tuple(self._keras.KerasTensor((n, *shape), value.dtype) for n in (1, EXAMPLES))
            for one in pair:
                self._symbols[id(one)] = Symbol(value, known)
            self._partners[id(pair[0])] = pair[1]
            carried = mask_of(value)
            if carried is not None:
                for n, one in zip((1, EXAMPLES), pair, strict=True):
                    put_mask(one, self._filled(carried, n, known, symbols, shape))
        return symbols[id(value)][examples > 1]

    def _paired(self, layer: Any, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        """The results for one example, constants as such; below them each node finds its twin."""
        symbolic = self._keras.KerasTensor
        mixed = refuse(layer, "it does other things for several examples than for one", INSTEAD)
        if len(first) != len(second) or any(isinstance(a, symbolic) != isinstance(b, symbolic) for a, b in zip(first, second, strict=True)):
            raise mixed
        waiting = [(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, symbolic)]
        while waiting:
            one, two = waiting.pop()
            if one is two or self._partners.get(id(one)) is two:
                continue
            if id(one) in self._partners or id(two) in self._symbols:
                raise mixed
            (operation, node), (other, twin) = origin(one), origin(two)
            layers = self._keras.layers.Layer
            if type(operation) is not type(other) or (isinstance(operation, layers) and operation is not other):
                raise mixed
            if len(node.input_tensors) != len(twin.input_tensors) or len(node.output_tensors) != len(twin.output_tensors):
                raise mixed
            self._nodes[id(node)] = twin
            self._alive += [node, twin]
            self._partners.update((id(a), b) for a, b in zip(node.output_tensors, twin.output_tensors, strict=True))
            if self._partners[id(one)] is not two:
                raise mixed
            waiting += zip(node.input_tensors, twin.input_tensors, strict=True)
            masks = ((mask_of(a), mask_of(b)) for a, b in zip(node.output_tensors, twin.output_tensors, strict=True))
            waiting += [(a, b) for a, b in masks if isinstance(a, symbolic) and isinstance(b, symbolic)]
        return [a if isinstance(a, symbolic) else constant(layer, a, b) for a, b in zip(first, second, strict=True)]

    def check(self, operation: Any, node: Any, place: int) -> None:
        """Refuse a result of a graph of one example that has not one row, or in that of several not as many.

        Raises:
            UnsupportedLayer: examples mix.
        """
        if self.known(node):
            rows = [tuple(each.output_tensors[place].shape) for each in (node, self.of(node))]
            if rows[0][:1] not in ((1,), (None,)) or rows[1][:1] not in ((EXAMPLES,), (None,)) or rows[0][1:] != rows[1][1:]:
                raise refuse(operation, f"it gives shape {rows[0]} for one example and {rows[1]} for {EXAMPLES}", INSTEAD)

    def same_settings(self, operation: Any, node: Any) -> None:
        """Refuse an operation that is set otherwise for several examples than for one.

        Raises:
            UnsupportedLayer: examples mix.
        """
        other = origin(self.of(node).output_tensors[0])[0]
        if other is operation:
            return
        for name, value in vars(operation).items():
            if name.startswith("_") or name == "name":
                continue
            if repr(value) != repr(getattr(other, name, None)):
                raise refuse(operation, f"its {name} is {value} for one example and {getattr(other, name, None)} for {EXAMPLES}", INSTEAD)


@contextmanager
def _inlined(layer: Any) -> Iterator[None]:
    """As long as this lasts, what a layer within gives for symbols is found in its call where Keras cannot tell it."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    with internals.symbolic_calls(layer, _told_or_followed):
        yield


def _told_or_followed(layer: Any, symbolic_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    import keras  # noqa: PLC0415  only the owner reads Keras models

    try:
        results = symbolic_call(*args, **kwargs)
        if not any(None in one.shape for one in _symbols(keras, results)):
            return results
    except (TypeError, ValueError):  # it takes what the layer that it extends does not, or cannot say
        pass
    results = layer.call(*args, **kwargs)
    return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x, results)


def _symbols(keras: Any, structure: Any) -> list[Any]:
    return [one for one in keras.tree.flatten(structure) if isinstance(one, keras.KerasTensor)]


def origin(tensor: Any) -> tuple[Any, Any]:
    """Return the operation that made a tensor, and the node of that call."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return internals.origin(tensor)


def mask_of(tensor: Any) -> Any:
    """Return the mask that a tensor carries, or None."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return internals.mask_of(tensor)


def put_mask(tensor: Any, mask: Any) -> None:
    """Make a tensor carry a mask."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    internals.put_mask(tensor, mask)
