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

from protocols.lowering.nodes.numbers import EXAMPLES, number, replaced
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
    """Return a constant as it is for one example and for several; a weight stands for what stands in its place.

    Raises:
        UnsupportedLayer: the second is neither the first again nor rows that are all the first.
    """
    first, second = number(one), number(many)
    again = first.ndim > 0 and len(first) == 1 and second.shape == (EXAMPLES, *first.shape[1:])
    if not (again and all(_same(first[0], row) for row in second)) and not _same(first, second):
        raise refuse(layer, "it draws random numbers, or depends on how many examples there are", "a call() that gives one answer")
    return Constant(first if isinstance(one, int | float) or replaced(one) else np.asarray(one), np.asarray(many))


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
        self._masks: dict[int, Any] = {}
        self._alive: list[Any] = []  # tensors, so that an id is one tensor's

    def symbol(self, tensor: Any) -> Symbol | None:
        """Return what a tensor stands for, None for what an operation gives."""
        return self._symbols.get(id(tensor))

    def of(self, node: Any) -> Any:
        """Return the twin of a node; a node for any number of examples is its own."""
        return self._nodes.get(id(node), node)

    def mask(self, tensor: Any) -> Any:
        """Return the mask that a tensor carries when the model runs, or None."""
        return self._masks.get(id(tensor), mask_of(tensor))

    def carry(self, layer: Any, node: Any, within: Sequence[Symbol], known: dict[int, Any]) -> None:
        """Find out which masks the results of a call carry when the model runs, where the graph does not tell.

        There masks travel with tensors: what comes out of a call has the mask that it was given inside, of which its symbol outside
        knows nothing. If not all results have one, the layer is asked, as Keras does, for those of the layers before.

        Args:
            layer: a layer or an operation.
            node: of the call.
            within: the masks of its results inside, if it was followed.
            known: positions and constants by the ids of tensors.
        """
        for one in node.output_tensors:
            self._masks.pop(id(one), None)  # of another call of what is around
        first = next(iter((*node.arguments.args, *node.arguments.kwargs.values())), None)
        before = [one for one in self._keras.tree.flatten(first) if id(one) in self._masks]
        masks = [one if one.tensor is not None else None for one in within] or [None] * len(node.output_tensors)
        if not isinstance(layer, self._keras.layers.Layer) or not (before or any(masks)):
            return
        if None in masks and layer.supports_masking:
            previous = node.arguments.kwargs.get("mask")
            previous = self._keras.tree.map_structure(self.mask, first) if previous is None else previous
            asked = self._keras.tree.flatten(layer.compute_mask(first, previous))
            asked += [None] * (len(masks) - len(asked))
            masks = [b if b is not None or a is None else Symbol(a, known) for a, b in zip(asked, masks, strict=False)]
        for one, mask in zip(node.output_tensors, masks, strict=True):
            self._masks[id(one)] = self._standing_for(mask) if mask is not None else None

    def _standing_for(self, symbol: Symbol) -> Any:
        """Make a tensor of its own for a value elsewhere."""
        if not isinstance(symbol.tensor, self._keras.KerasTensor):
            return symbol.tensor
        mask = self._keras.KerasTensor(symbol.tensor.shape, symbol.tensor.dtype)
        self._symbols[id(mask)] = symbol
        self._alive += [mask, symbol.tensor]
        return mask

    def alone(self, operation: Any, node: Any, known: dict[int, Any]) -> None:
        """Try an operation of a graph for any number of examples on some: what it gives for each must be what it gives for that one alone.

        Raises:
            UnsupportedLayer: examples mix.
        """
        if self.known(node):
            return
        given: list[tuple[Array | None, Array]] = []
        for place, one in enumerate(node.input_tensors):
            found = known[id(one)]
            if isinstance(found, Constant):
                given.append((found.one, found.many))
            else:
                shape = (EXAMPLES, *self._shape(found))
                spread = (np.arange(1, 1 + np.prod(shape)).reshape(shape) * (0.6180339887 + place * 0.1)) % 1
                numbers = 0.5 + spread if "float" in one.dtype else spread > 0.5
                given.append((None, numbers))

        def results(example: int | None) -> list[Array]:
            several = example is None
            places = iter(zip(node.input_tensors, given, strict=True))

            def filled(value: Any) -> Any:
                if not isinstance(value, self._keras.KerasTensor):
                    return value
                one, (constant_of_one, many) = next(places)
                alone = many[example : example + 1] if constant_of_one is None and example is not None else constant_of_one
                return self._keras.ops.convert_to_tensor(many if several else alone, one.dtype)

            args, kwargs = node.arguments.convert(filled)
            found = self._keras.tree.flatten(operation.call(*args, **kwargs))
            return [self._keras.ops.convert_to_numpy(one).astype(np.float64) for one in found]

        try:
            together, singles = results(None), {example: results(example) for example in (0, 1, EXAMPLES - 1)}
        except Exception as error:  # of Keras' backend
            raise refuse(operation, "it can be run for some numbers of examples only", "operations for any number of examples") from error
        for example, single in singles.items():
            for all_, one in zip(together, single, strict=True):
                same = len(all_) == EXAMPLES and len(one) == 1 if all_.ndim and one.ndim else False
                if not same or not np.allclose(all_[example : example + 1], one, rtol=1e-2, atol=1e-3, equal_nan=True):
                    raise refuse(operation, "it gives an example something else among others than alone", INSTEAD)

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
        """Return what stands in the place of a tensor; `beside` is the shape of what it is the mask of."""
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
            carried = self.mask(value)
            if carried is not None:
                for n, one in zip((1, EXAMPLES), pair, strict=True):
                    put_mask(one, self._filled(carried, n, known, symbols, shape))
        return symbols[id(value)][examples > 1]

    def _paired(self, layer: Any, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        """Return the results for one example, constants as such; below them each node finds its twin."""
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
