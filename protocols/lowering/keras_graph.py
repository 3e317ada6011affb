"""Reads the graph of a Keras model: Sequential, functional, nested, with shared layers."""

from __future__ import annotations

from typing import Any

from protocols.errors import ModelError
from protocols.lowering import convolution_layers, nonlinear_layers, sequence_layers  # noqa: F401  registers rules
from protocols.lowering import network as net
from protocols.lowering.layers import RULES, Builder
from protocols.lowering.network import Node
from protocols.lowering.refusals import refuse, unknown


def read(model: Any) -> list[Node]:
    """The nodes of a model in an order in which they can be computed; the first is the input, the last the output.

    Raises:
        ModelError: not a built Keras model with one input and one output of known shape.
        UnsupportedLayer: a layer has no rule.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    if not isinstance(model, keras.Model):
        raise ModelError(f"a {type(model).__name__} was given; a keras.Model is needed")
    if not model.built or not getattr(model, "inputs", None):
        raise ModelError(f"model {model.name!r} has no graph; use Sequential with an Input layer, or the functional API, and build it")
    if _own_call(model):
        raise ModelError(f"model {model.name!r} computes with a call() of its own; use Sequential or the functional API without one")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(f"model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is supported")
    reader = _Reader(keras.Model)
    first = model.inputs[0]
    start = reader.builder.add(net.Start, model, [], _known(model, first))
    last = reader.value(model.outputs[0], {id(first): start})
    return _reached(reader.builder.nodes, last)


def _known(model: Any, tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.shape[1:])
    if None in shape or not shape:
        raise ModelError(f"model {model.name!r} has inputs of shape {shape}; all axes but the batch must be known, at least one")
    if "float" not in tensor.dtype:
        raise ModelError(f"model {model.name!r} has {tensor.dtype} inputs; floating point is needed: keras.Input(shape, dtype='float32')")
    return tuple(int(n) for n in shape)


def _own_call(model: Any) -> bool:
    """Whether a class of the user's replaces what the graph says."""
    return not type(model).call.__module__.startswith("keras.")


PLAIN = {"training", "key", "value", "query", "inputs"}
"""Arguments of a call that a rule knows, or that make no difference at inference."""


class _Reader:
    def __init__(self, model_class: type) -> None:
        self.builder = Builder()
        self._model_class = model_class

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
                _check_call(operation, node)
                known[id(current)] = self._applied(operation, current, [known[id(one)] for one in node.input_tensors])
        return known[id(tensor)]

    def _applied(self, operation: Any, tensor: Any, inputs: list[int]) -> int:
        if isinstance(operation, self._model_class):
            return self._nested(operation, inputs)
        rule = RULES.get(type(operation).__name__)
        if rule is None or not type(operation).__module__.startswith("keras.") or ".layers." not in type(operation).__module__:
            raise unknown(operation, sorted(RULES))
        if getattr(operation, "quantization_mode", None) is not None:
            raise refuse(operation, f"its weights are quantised to {operation.quantization_mode}", "the model before quantize()")
        position = rule(self.builder, operation, inputs)
        found, expected = self.builder.shape(position), tuple(tensor.shape[1:])
        if found != expected:
            raise ModelError(f"layer {operation.name!r} gives shape {expected} in Keras and {found} here; please report this")
        return position

    def _nested(self, model: Any, inputs: list[int]) -> int:
        if not getattr(model, "inputs", None) or _own_call(model):
            raise refuse(model, "a nested model with a call() of its own", "a nested Sequential or functional model")
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise refuse(model, "a nested model with several inputs or outputs", "its layers, directly")
        return self.value(model.outputs[0], {id(model.inputs[0]): inputs[0]})


def _check_call(operation: Any, node: Any) -> None:
    """Refuses calls with masks, states and the like."""
    given = [name for name, value in node.arguments.kwargs.items() if name not in PLAIN and value is not None and value is not False]
    if given:
        raise refuse(operation, f"it is called with {', '.join(given)}", "the layer called with its inputs only")


def _origin(tensor: Any) -> tuple[Any, Any]:
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index]


def _reached(nodes: list[Node], last: int) -> list[Node]:
    """Up to the output, which comes last."""
    if not nodes[last].inputs:
        raise ModelError("the model gives its input back: there is nothing to compute in private")
    return nodes[: last + 1]
