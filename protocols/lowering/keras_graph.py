"""Reads the graph of a Keras model: Sequential, functional, nested, with shared layers, with `keras.ops` between them.

A layer that has no rule of its own, the user's or one of Keras, is followed into its `call`: what it does with symbolic inputs is a graph,
too, and only what a rule knows may be in it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import Builder
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.numbers import number
from protocols.lowering.nodes.refusals import WHY, refuse, unknown, unknown_operation
from protocols.lowering.rules import contractions, convolution_layers, nonlinear_layers, reductions, sequence_layers  # noqa: F401  registers rules
from protocols.lowering.rules.arithmetic import Operand
from protocols.lowering.rules.layers import RULES
from protocols.lowering.rules.operations import OPERATIONS, Call
from protocols.lowering.rules.trained_layers import TRAINED
from protocols.lowering.rules.wrappers import REWRITTEN


def read(model: Any, *, training: bool = False) -> list[Node]:
    """The nodes of a model in an order in which they can be computed; the first is the input, the last the output.

    Args:
        model: a built Keras model.
        training: read what it computes in a training, where some layers do something else.

    Raises:
        ModelError: not a built Keras model with one input and one output of known shape.
        UnsupportedLayer: a layer, or an operation in it, has no rule.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    if not isinstance(model, keras.Model):
        raise ModelError(f"a {type(model).__name__} was given; a keras.Model is needed")
    if not model.built or not getattr(model, "inputs", None):
        raise ModelError(f"model {model.name!r} has no graph; use Sequential with an Input layer, or the functional API, and build it")
    if _own_call(model):
        raise ModelError(
            f"model {model.name!r} computes with a call() of its own; use Sequential or the functional API without one, or wrap it: "
            "keras.Model(x, model(x)) with x = keras.Input(shape)"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(f"model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is supported")
    reader = _Reader(keras, training=training)
    first = model.inputs[0]
    start = reader.builder.add(net.Start, model, [], _known(model, first))
    last = reader.value(model.outputs[0], {id(first): start})
    return _reached(reader.builder.nodes, last)


def _known(model: Any, tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.shape[1:])
    if None in shape or not shape:
        raise ModelError(f"model {model.name!r} has inputs of shape {shape}; all axes but the batch must be known, at least one")
    if "float" not in tensor.dtype and "int" not in tensor.dtype:
        raise ModelError(f"model {model.name!r} has {tensor.dtype} inputs; numbers are needed: keras.Input(shape, dtype='float32')")
    return tuple(int(n) for n in shape)


def _own_call(model: Any) -> bool:
    """Whether a class of the user's replaces what the graph says."""
    return not type(model).call.__module__.startswith("keras.")


PLAIN = {"training", "key", "value", "query", "inputs"}
"""Arguments of a call that a rule knows, or that make no difference at inference."""


class _Reader:
    def __init__(self, keras: Any, *, training: bool) -> None:
        self.builder = Builder()
        self._keras, self._training, self._said = keras, training, False
        self._followed: list[Any] = []  # their tensors stay alive, so that an id is one tensor's

    def value(self, tensor: Any, known: dict[int, int]) -> int:
        """The position of a Keras tensor's value; `known` has those that were computed. Iterative: graphs can be deep."""
        waiting = [tensor]
        while waiting:
            current = waiting[-1]
            if id(current) in known:
                waiting.pop()
                continue
            operation, node = _origin(current)
            missing = [one for one in node.input_tensors if id(one) not in known]
            if missing:
                waiting += reversed(missing)
            else:
                positions = self._applied(operation, node, known)
                for one, position in zip(node.output_tensors, positions, strict=True):
                    self._check_shape(operation, one, position)
                    known[id(one)] = position
        return known[id(tensor)]

    def _applied(self, operation: Any, node: Any, known: dict[int, int]) -> list[int]:
        """The positions of all results of an operation."""
        if isinstance(operation, self._keras.Model):
            return self._nested(operation, node, known)
        if getattr(operation, "quantization_mode", None) is not None:
            raise refuse(operation, f"its weights are quantised to {operation.quantization_mode}", "the model before quantize()")
        module, name = type(operation).__module__, type(operation).__name__
        if module.startswith("keras.") and ".ops." in module:
            return self._operated(operation, node, known)
        if module.startswith("keras.") and ".layers." in module and name in RULES:
            rule = TRAINED.get(name, RULES[name]) if self._trains(node) else RULES[name]
            named = _named(self._keras, operation, node)
            inputs = [known[id(one)] for one in node.input_tensors if not any(one is value for value in named.values())]
            masks = {key: self._operand(value, known) for key, value in named.items()}
            found = rule(self.builder, operation, inputs, **masks)
            return found if isinstance(found, list) else [found]
        if name in WHY or not isinstance(operation, self._keras.layers.Layer):
            raise unknown(operation, sorted(RULES))
        if name in REWRITTEN and module.startswith("keras."):
            return self._rewritten(operation, node, known)
        return self._inside(operation, node, known)

    def _trains(self, node: Any) -> bool:
        """Whether a layer is called in a training: in the `call` of another one as that says, in a graph as the graph is."""
        said = node.arguments.kwargs.get("training") if self._said else None
        return self._training if said is None else bool(said)

    def _rewritten(self, layer: Any, node: Any, known: dict[int, int]) -> list[int]:
        rule = REWRITTEN[type(layer).__name__]
        carried = [_mask_of(one) for one in node.input_tensors]  # found again by whom it is handed to
        given = {name: value for name, value in _given(node).items() if not any(value is mask for mask in carried)}
        taken = list(inspect.signature(rule).parameters)[2:]
        if set(given) - set(taken) or not 1 <= len(node.arguments.args) <= len(taken):
            raise refuse(layer, f"it is called with {', '.join(given) or 'more than its input'}", "the layer called with its input only")
        outputs = self._keras.tree.flatten(rule(self._keras, layer, *node.arguments.args, **given))
        self._followed.append(outputs)
        with self._within(node):
            return [self.value(output, known) for output in outputs]

    def _operand(self, value: Any, known: dict[int, int]) -> Any:
        if isinstance(value, self._keras.KerasTensor):
            return self.value(value, known)
        if isinstance(value, list | tuple):
            return [None if one is None else self._operand(one, known) for one in value]
        return value if isinstance(value, bool) else np.asarray(value)

    def _operated(self, operation: Any, node: Any, known: dict[int, int]) -> list[int]:
        rule = OPERATIONS.get(type(operation).__name__)
        if rule is None:
            raise unknown_operation(operation)
        tree = self._keras.tree

        def operand(each: Any) -> Operand | None:
            if isinstance(each, self._keras.KerasTensor):
                return known[id(each)]
            return None if each is None or isinstance(each, str | slice | type(...)) else number(each)

        flat = [operand(each) for each in tree.flatten((node.arguments.args, node.arguments.kwargs))]
        bound = inspect.signature(operation.call).bind(*node.arguments.args, **node.arguments.kwargs).arguments
        named = {name: operand(each) for name, each in bound.items() if not isinstance(each, list | tuple | dict)}

        def run(arrays: list[Any]) -> Any:
            places = {id(one): array for one, array in zip(node.input_tensors, arrays, strict=True)}
            args, kwargs = node.arguments.convert(lambda x: places.get(id(x), x))
            return operation.call(*args, **kwargs)

        shapes = [tuple(one.shape[1:]) for one in node.output_tensors]
        result = rule(self.builder, Call(operation, [x for x in flat if x is not None], shapes, run, named))
        return result if isinstance(result, list) else [result]

    def _inside(self, layer: Any, node: Any, known: dict[int, int]) -> list[int]:
        """What a layer computes in its `call`."""
        try:
            first, second = (_outputs(self._keras, layer, node, training=self._trains(node)) for _ in range(2))
        except Exception as error:  # code of the user's, or of Keras
            raise refuse(layer, f"its call() cannot be followed: {_short(error)}", "layers and keras.ops of fixed shapes") from error
        self._followed += [first, second]
        if not all(isinstance(one, self._keras.KerasTensor) for one in first) or _constants(first, known) != _constants(second, known):
            raise refuse(layer, "its call() draws random numbers, or does not depend on its inputs", "a call() that gives one answer")
        try:
            with self._within(node, said=True):
                return [self.value(one, known) for one in first]
        except UnsupportedLayer as error:
            raise UnsupportedLayer(f"layer {layer.name!r} ({type(layer).__name__}) cannot be shared: inside of it, {error}") from None

    def _check_shape(self, operation: Any, tensor: Any, position: int) -> None:
        found, expected = self.builder.shape(position), tuple(tensor.shape[1:])
        if len(found) != len(expected) or any(n not in (m, None) for m, n in zip(found, expected, strict=True)):
            raise ModelError(f"layer {operation.name!r} gives shape {expected} in Keras and {found} here; please report this")

    def _nested(self, model: Any, node: Any, known: dict[int, int]) -> list[int]:
        if not getattr(model, "inputs", None) or _own_call(model):
            return self._inside(model, node, known)
        if len(model.inputs) != len(node.input_tensors):
            raise refuse(model, "a nested model that is called with a mask", "its layers, directly")
        inside = {id(own): known[id(one)] for own, one in zip(model.inputs, node.input_tensors, strict=True)}
        with self._within(node):
            return [self.value(one, inside) for one in model.outputs]

    @contextmanager
    def _within(self, node: Any, *, said: bool = False) -> Iterator[None]:
        """What is inside of a call trains if the call does; with `said` it may say otherwise: what Keras does with graphs hears nobody."""
        before = self._training, self._said
        self._training, self._said = self._trains(node), said and before[0]
        try:
            yield
        finally:
            self._training, self._said = before


def _implicit_masks(keras: Any, layer: Any, node: Any) -> dict[str, Any]:
    """The masks of its inputs that Keras hands to a layer when it runs, and does not always note in the graph."""
    parameters = inspect.signature(layer.call).parameters
    given = inspect.signature(layer.call).bind_partial(*node.arguments.args, **node.arguments.kwargs).arguments
    tensors = {name: value for name, value in given.items() if _holds_tensors(keras, value) and not name.endswith("mask")}
    masks = {}
    for name, value in tensors.items():
        named = f"{name}_mask" if len(tensors) > 1 else "mask"
        found = keras.tree.map_structure(_mask_of, value)
        if named in parameters and given.get(named) is None and any(one is not None for one in keras.tree.flatten(found)):
            masks[named] = found
    return masks


def _holds_tensors(keras: Any, value: Any) -> bool:
    return any(isinstance(one, keras.KerasTensor) for one in keras.tree.flatten(value))


def _given(node: Any) -> dict[str, Any]:
    """What a call names beside its inputs."""
    return {name: value for name, value in node.arguments.kwargs.items() if name not in PLAIN and value is not None and value is not False}


def _named(keras: Any, layer: Any, node: Any) -> dict[str, Any]:
    """The arguments of a call that change its result and are not inputs: masks, `use_causal_mask` and the like.

    Raises:
        UnsupportedLayer: the layer's rule knows no such argument.
    """
    given = _given(node) | _implicit_masks(keras, layer, node)
    known = inspect.signature(RULES[type(layer).__name__]).parameters
    strange = [name for name in given if name not in known]
    if strange:
        raise refuse(layer, f"it is called with {', '.join(strange)}", "the layer called with its inputs only")
    return given


def _outputs(keras: Any, layer: Any, node: Any, *, training: bool) -> list[Any]:
    """What `call` makes of the symbolic inputs; a `call` that takes the masks off its inputs finds them there the next time."""
    settings = {**node.arguments.kwargs, **_implicit_masks(keras, layer, node)}
    if "training" in inspect.signature(layer.call).parameters:
        settings["training"] = training
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    masks = [(one, _mask_of(one)) for one in node.input_tensors]
    internals.call_context(layer).set_value("training", training)  # for layers inside that are not told
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever built the model has seen them
            outputs: list[Any] = keras.tree.flatten(layer.call(*node.arguments.args, **settings))
    finally:
        internals.leave_call(layer)
    for one, mask in masks:
        if mask is not None:
            internals.put_mask(one, mask)
    return outputs


def _constants(tensors: list[Any], known: dict[int, int]) -> list[bytes]:
    """All constants in a graph, in a fixed order: the same in two graphs of one function."""
    found, waiting, seen = [], list(tensors), set(known)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        _, node = _origin(tensor)
        found += list(_arrays(node))
        waiting += node.input_tensors
    return found


def _arrays(node: Any) -> Iterator[bytes]:
    for each in (*node.arguments.args, *node.arguments.kwargs.values()):
        if hasattr(each, "numpy"):
            yield np.asarray(each).tobytes()


def _short(error: Exception) -> str:
    """The first sentence of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]


def _origin(tensor: Any) -> tuple[Any, Any]:
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return internals.origin(tensor)


def _mask_of(tensor: Any) -> Any:
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return internals.mask_of(tensor)


def _reached(nodes: list[Node], last: int) -> list[Node]:
    """The input, and those that the output needs; it comes last."""
    if not nodes[last].inputs:
        raise ModelError("the model gives its input back: there is nothing to compute in private")
    needed, waiting = {0, last}, [last]
    while waiting:
        missing = set(nodes[waiting.pop()].inputs) - needed
        needed |= missing
        waiting += missing
    moved = {position: place for place, position in enumerate(sorted(needed))}
    return [replace(nodes[position], inputs=tuple(moved[x] for x in nodes[position].inputs)) for position in moved]
