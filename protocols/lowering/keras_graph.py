"""Reads the graph of a Keras model: Sequential, functional, nested, with shared layers, with `keras.ops` between them.

A layer that has no rule of its own, the user's or one of Keras, is followed into its `call`: what it does with symbolic inputs is a graph,
too, and only what a rule knows may be in it (`known_batch.py`). Values that depend on no input are computed before a rule is asked for.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering.calls import effective, implicit_masks, named, settings_of, short, told
from protocols.lowering.ends import Tensors, known_shape, tensors_of
from protocols.lowering.known_batch import Constant, Symbol, TwinGraphs, constant, origin
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.numbers import EXAMPLES, number
from protocols.lowering.nodes.refusals import WHY, refuse, unknown, unknown_operation
from protocols.lowering.nodes.training import BatchNormalised, Dropped, Noisy
from protocols.lowering.rules import conditions, contractions, convolution_layers, nonlinear_layers, reductions, sequence_layers  # noqa: F401  registers rules
from protocols.lowering.rules.arithmetic import Operand
from protocols.lowering.rules.layers import RULES, Rule
from protocols.lowering.rules.operations import MOVED, OPERATIONS, PUT_BESIDE, Call
from protocols.lowering.rules.trained_layers import TRAINED, penalised
from protocols.lowering.rules.wrappers import REWRITTEN
from protocols.mpc.inputs.structure import Structure


class Read(NamedTuple):
    """What is read of a model.

    Attributes:
        nodes: in an order in which they can be computed; the first is the input, the last the output.
        inputs: what lies in the row that is the input, None if there is one input.
        outputs: what lies in the row that is the output, None if there is one output.
    """

    nodes: list[Node]
    inputs: Structure | None
    outputs: Structure | None


def read_all(model: Any, *, training: bool = False) -> Read:
    """Return the nodes of a model: several inputs are one row that is cut, several outputs are joined to one.

    Args:
        model: a built Keras model.
        training: read what it computes in a training, where some layers do something else.

    Raises:
        ModelError: not a built Keras model with inputs of known shape.
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
    takes, gives = tensors_of(model, "inputs"), tensors_of(model, "outputs")
    reader = _Reader(keras, training=training)
    known = reader.started(model, takes)
    values = [reader.value(one, known) for one in gives.tensors]
    found = [one for one in values if not isinstance(one, Constant)]
    if len(found) < len(values):
        raise ModelError(f"an output of model {model.name!r} does not depend on its input: there is nothing to compute in private")
    last, outputs = found[0], gives.structure([reader.builder.shape(x) for x in found])
    if outputs is not None:
        rows = [reader.builder.add(net.Shaped, model, [x], (part.size,)) for x, part in zip(found, outputs.parts, strict=True)]
        last = reader.builder.add(net.Joined, model, rows, (outputs.size,), axis=0)
    inputs = takes.structure([known_shape(model, one) for one in takes.tensors])
    return Read(reached(reader.builder.nodes, last), inputs, outputs)


def _own_call(model: Any) -> bool:
    """Whether a class of the user's replaces what the graph says."""
    return not type(model).call.__module__.startswith("keras.")


BY_MASKS = ("Maximum", "Minimum", "Multiply")
"""Layers that leave out what the masks of their inputs hide."""
OF_SHAPES = ("OnesLike", "ZerosLike", "FullLike", "EmptyLike")
"""Operations whose results depend on the shapes of values only."""
Known = dict[int, "int | Constant"]
"""Positions of private values, and constants, by the ids of tensors."""


class _Reader:
    def __init__(self, keras: Any, *, training: bool) -> None:
        self.builder = NetworkBuilder()
        self._keras, self._training, self._said = keras, training, False
        self._draws = training
        self._masks: Sequence[Symbol] = ()  # of what the layer that was followed last gives
        self.builder.follow = self._function
        self._twins = TwinGraphs(keras, self.builder.shape)

    def started(self, model: Any, takes: Tensors) -> Known:
        """Begin with the input, and where each tensor of it is: parts of one row, if there are several."""
        shapes = [known_shape(model, one) for one in takes.tensors]
        if takes.kind is None:
            return {id(takes.tensors[0]): self.builder.add(net.Start, model, [], shapes[0])}
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)]).tolist()
        start = self.builder.add(net.Start, model, [], (ends[-1],))
        known: Known = {}
        for one, shape, first, last in zip(takes.tensors, shapes, ends, ends[1:], strict=False):
            part = self.builder.add(net.Taken, model, [start], (last - first,), axis=0, indices=tuple(range(first, last)))
            known[id(one)] = self.builder.add(net.Shaped, model, [part], shape)
        return known

    def value(self, tensor: Any, known: Known) -> int | Constant:
        """Return the position of a Keras tensor's value, or a constant; `known` has those computed. Iterative: graphs can be deep."""
        waiting = [tensor]
        while waiting:
            current = waiting[-1]
            symbol = self._twins.symbol(current)
            if id(current) in known:
                waiting.pop()
                continue
            if symbol is not None:
                known[id(current)] = self.value(*symbol)
                continue
            operation, node = origin(current)
            missing = [one for one in node.input_tensors if id(one) not in known]
            if missing:
                waiting += reversed(missing)
            else:
                found, masks = self._penalised(operation, self._applied(operation, node, known)), self._masks
                self._masks = ()
                self._twins.carry(operation, node, masks, known)
                for place, (one, value) in enumerate(zip(node.output_tensors, found, strict=True)):
                    self._check_shape(operation, node, place, value)
                    known[id(one)] = value
        return known[id(tensor)]

    def _penalised(self, operation: Any, found: Sequence[int | Constant]) -> Sequence[int | Constant]:
        """Add what a layer adds to the loss of a training for each value that it gives."""
        if not self._draws or getattr(operation, "activity_regularizer", None) is None:
            return found
        if any(isinstance(one, Constant) for one in found):
            raise refuse(operation, "its activity_regularizer is on a value that depends on no input", "the layer without it")
        return [penalised(self._keras, self.builder, operation, one) for one in found if not isinstance(one, Constant)]

    def _applied(self, operation: Any, node: Any, known: Known) -> Sequence[int | Constant]:
        """All results of an operation."""
        given = [known[id(one)] for one in node.input_tensors]
        constants = sum(isinstance(one, Constant) for one in given)
        if isinstance(operation, self._keras.Model):
            return self._nested(operation, node, known) if not constants else self._inside(operation, node, known)
        if getattr(operation, "quantization_mode", None) is not None:
            raise refuse(operation, f"its weights are quantised to {operation.quantization_mode}", "the model before quantize()")
        name, module = type(operation).__name__, type(operation).__module__
        if module.startswith("keras.") and ".ops." in module:
            folded = name in OF_SHAPES or constants == len(given) or (name == "Multiply" and self._vanishes(node, known))
            return self._folded(operation, node, known) if folded else self._operated(operation, node, known)
        rule = None if constants else _rule(operation, training=self._trains(node))
        if rule is not None:
            if name in BY_MASKS and any(self._twins.mask(one) is not None for one in node.input_tensors):
                raise refuse(
                    operation, "its inputs carry masks, where it computes otherwise", f"keras.ops.{name.lower()}, which knows none"
                )
            beside = named(self._keras, operation, node, rule, self._twins.mask)
            inputs = [known[id(one)] for one in node.input_tensors if not any(one is value for value in beside.values())]
            masks = {key: self._operand(value, known) for key, value in beside.items()}
            before = len(self.builder.nodes)
            found = rule(self.builder, operation, inputs, **masks)
            if not self._draws and any(isinstance(one, BatchNormalised | Dropped | Noisy) for one in self.builder.nodes[before:]):
                raise refuse(operation, "it is called with training=True in a prediction", "the layer called without training=True")
            return found if isinstance(found, list) else [found]
        if name in WHY or not isinstance(operation, self._keras.layers.Layer):
            raise unknown(operation, sorted(RULES))
        if name in REWRITTEN and module.startswith("keras."):
            return self._rewritten(operation, node, known)
        return self._inside(operation, node, known)

    def _check_masks(self, layer: Any, node: Any) -> None:
        name = type(layer).__name__
        if name in BY_MASKS and any(self._twins.mask(one) is not None for one in node.input_tensors):
            raise refuse(layer, "its inputs carry masks, where it computes otherwise", f"keras.ops.{name.lower()}, which knows none")

    def _trains(self, node: Any) -> bool:
        """Whether a layer is called in a training: in the `call` of another one as that says, in a graph as the graph is."""
        said = node.arguments.kwargs.get("training") if self._said else None
        return self._training if said is None else bool(said)

    @contextmanager
    def _within(self, node: Any, *, said: bool = False) -> Iterator[None]:
        """Train what is inside of a call if the call does; with `said` it may say otherwise: what Keras does with graphs hears nobody."""
        before = self._training, self._said
        self._training, self._said = self._trains(node), said
        try:
            yield
        finally:
            self._training, self._said = before

    def _rewritten(self, layer: Any, node: Any, known: Known) -> list[int | Constant]:
        rule = REWRITTEN[type(layer).__name__]
        carried = [self._twins.mask(one) for one in node.input_tensors]  # found again by whom it is handed to
        given = {name: value for name, value in effective(node.arguments.kwargs).items() if not any(value is mask for mask in carried)}
        taken = list(inspect.signature(rule).parameters)[2:]
        if set(given) - set(taken) or not 1 <= len(node.arguments.args) <= len(taken):
            raise refuse(layer, f"it is called with {', '.join(given) or 'more than its input'}", "the layer called with its input only")
        structure = (node.arguments.args, given)
        outputs = self._twins.call(lambda each: rule(self._keras, layer, *each[0], **each[1]), layer, structure, known)
        with self._within(node):
            return [self._result(output, known) for output in outputs]

    def _result(self, value: Any, known: Known) -> int | Constant:
        return value if isinstance(value, Constant) else self.value(value, known)

    def _operand(self, value: Any, known: Known) -> Any:
        if isinstance(value, self._keras.KerasTensor):
            found = self.value(value, known)
            return np.asarray(found.one) if isinstance(found, Constant) else found
        if isinstance(value, list | tuple):
            return [None if one is None else self._operand(one, known) for one in value]
        return value if isinstance(value, bool) else np.asarray(value)

    def _vanishes(self, node: Any, known: Known) -> bool:
        """Whether a product has a factor 0."""
        factors = (self._operand(each, known) for each in (*node.arguments.args, *node.arguments.kwargs.values()))
        return any(isinstance(each, np.ndarray) and each.size and not number(each).any() for each in factors)

    def _folded(self, operation: Any, node: Any, known: Known) -> list[Constant]:
        """Compute the results of an operation that depend on no input."""
        results = []
        for examples, of in ((1, node), (EXAMPLES, self._twins.of(node))):
            places = iter(node.input_tensors)

            def filled(value: Any, examples: int = examples, places: Any = places) -> Any:
                if not isinstance(value, self._keras.KerasTensor):
                    return value
                one = next(places)
                found = known[id(one)]
                numbers = found[examples > 1] if isinstance(found, Constant) else np.zeros((examples, *self.builder.shape(found)))
                return self._keras.ops.convert_to_tensor(numbers, one.dtype)

            args, kwargs = of.arguments.convert(filled)
            called = origin(of.output_tensors[0])[0]
            results.append(self._keras.tree.flatten(called.call(*args, **kwargs)))
        return [constant(operation, one, many) for one, many in zip(*results, strict=True)]

    def _operated(self, operation: Any, node: Any, known: Known) -> list[int]:
        name = type(operation).__name__
        rule = OPERATIONS.get(name)
        if rule is None:
            raise unknown_operation(operation)
        tree, symbolic, twin = self._keras.tree, self._keras.KerasTensor, self._twins.of(node)
        called = origin(twin.output_tensors[0])[0]
        if name not in MOVED:
            self._twins.same_settings(operation, node)

        def operand(each: Any, other: Any = None) -> Operand | None:
            if isinstance(each, symbolic):
                found = known[id(each)]
                return number(found.one) if isinstance(found, Constant) else found
            if each is None or isinstance(each, str | slice | type(...)):
                return None
            if other is not None and name not in MOVED:
                constant(operation, each, other)  # or it is refused; what comes back no longer tells which weight it was
            return number(each)

        pairs = zip(*(tree.flatten((of.arguments.args, of.arguments.kwargs)) for of in (node, twin)), strict=True)
        flat = [operand(*pair) for pair in pairs]
        bound = inspect.signature(operation.call).bind(*node.arguments.args, **node.arguments.kwargs).arguments
        named = {key: operand(each) for key, each in bound.items() if not isinstance(each, list | tuple | dict)}

        def run(arrays: Sequence[Any], alone: bool = False) -> Any:
            places, values = iter(node.input_tensors), iter(arrays)

            def filled(value: Any) -> Any:
                if isinstance(value, symbolic):
                    found = known[id(next(places))]
                    value = found.many if isinstance(found, Constant) else next(values)
                    constants = isinstance(found, Constant)
                else:
                    constants = value is not None
                return np.zeros_like(value, np.int32) if constants and alone and name in PUT_BESIDE else value

            args, kwargs = twin.arguments.convert(filled)
            return called.call(*args, **kwargs)

        shapes = [tuple(one.shape[1:]) for one in node.output_tensors]
        whole = all("int" in str(one.dtype) or one.dtype == "bool" for one in node.input_tensors)
        dtypes = [str(one.dtype) for one in node.output_tensors]
        result = rule(self.builder, Call(operation, [x for x in flat if x is not None], shapes, run, named, whole, dtypes))
        self._twins.alone(operation, node, known)
        return result if isinstance(result, list) else [result]

    def _inside(self, layer: Any, node: Any, known: Known) -> list[int | Constant]:
        """Write what a layer computes in its `call`."""
        settings = settings_of(layer, node) | implicit_masks(self._keras, layer, node, self._twins.mask)
        if "training" in inspect.signature(layer.call).parameters:
            settings["training"] = self._trains(node)
        for value in self._keras.tree.flatten(settings):
            if isinstance(value, self._keras.KerasTensor):
                self.value(value, known)
        structure = (node.arguments.args, settings)
        found = self._called(lambda each: layer.call(*each[0], **each[1]), layer, structure, known, training=self._trains(node))
        try:
            with self._within(node, said=True):
                results = [self._result(one, known) for one in found]
        except UnsupportedLayer as error:
            raise UnsupportedLayer(f"layer {layer.name!r} ({type(layer).__name__}) cannot be shared: inside of it, {error}") from None
        self._masks = [Symbol(self._twins.mask(one), known) for one in found]
        return results

    def _called(self, run: Callable[[Any], Any], layer: Any, structure: Any, known: Known, *, training: bool = False) -> list[Any]:
        try:
            with warnings.catch_warnings(), told(layer, training=training):
                warnings.simplefilter("ignore")  # whoever built the model has seen them
                return self._twins.call(run, layer, structure, known)
        except UnsupportedLayer:
            raise
        except Exception as error:  # code of the user's, or of Keras
            why = f"its call() cannot be followed: {short(error)}"
            raise refuse(layer, why, "layers and keras.ops of fixed shapes, which compute with symbols") from error

    def _function(self, layer: Any, function: Callable[[Any], Any], position: int) -> int:
        """Write what a function of the user's, such as an activation, makes of a value."""
        start = self._keras.KerasTensor((None, *self.builder.shape(position)), "float32")
        known: Known = {id(start): position}
        (found,) = self._called(function, layer, start, known)
        value = self._result(found, known)
        if isinstance(value, Constant):
            raise refuse(layer, "its activation does not depend on its input", "a function of it")
        return value

    def _check_shape(self, operation: Any, node: Any, place: int, value: int | Constant) -> None:
        if isinstance(value, Constant):
            return
        self._twins.check(operation, node, place)
        found, expected = self.builder.shape(value), tuple(node.output_tensors[place].shape[1:])
        if len(found) != len(expected) or any(n not in (m, None) for m, n in zip(found, expected, strict=True)):
            raise ModelError(f"layer {operation.name!r} gives shape {expected} in Keras and {found} here; please report this")

    def _nested(self, model: Any, node: Any, known: Known) -> list[int | Constant]:
        if not getattr(model, "inputs", None) or _own_call(model):
            return self._inside(model, node, known)
        free = any(None in one.shape[1:] for one in model.inputs)
        masked = implicit_masks(self._keras, model, node, self._twins.mask)
        if free or masked or len(model.inputs) != len(node.input_tensors):  # constants are among them, or a mask
            return self._inside(model, node, known)
        inside = {id(own): known[id(one)] for own, one in zip(model.inputs, node.input_tensors, strict=True)}
        with self._within(node):
            results = [self.value(one, inside) for one in model.outputs]
        self._masks = [Symbol(self._twins.mask(one), inside) for one in model.outputs]
        return results


NEUTRAL = {"__init__", "build", "get_config", "from_config", "compute_output_shape", "compute_output_spec"}
"""What a class of its own may define without computing something else than the layer that it extends."""


def _rule(layer: Any, *, training: bool) -> Rule | None:
    """Return the rule of a layer: that of its class, or of the one of Keras that it extends without another way to compute."""
    own: set[str] = set()
    for kind in type(layer).__mro__:
        if kind.__module__.startswith("keras.") and (".layers." in kind.__module__ or ".activations." in kind.__module__):
            found = TRAINED.get(kind.__name__) if training else None
            found = found or RULES.get(kind.__name__)
            return found if not own & vars(kind).keys() else None
        own |= {name for name, value in vars(kind).items() if callable(value) or isinstance(value, property | classmethod)} - NEUTRAL
    return None


def reached(nodes: list[Node], last: int) -> list[Node]:
    """Keep the input, and those that the output needs; it comes last."""
    if not nodes[last].inputs:
        raise ModelError("the model gives its input back: there is nothing to compute in private")
    needed, waiting = {0, last}, [last]
    while waiting:
        missing = set(nodes[waiting.pop()].inputs) - needed
        needed |= missing
        waiting += missing
    moved = {position: place for place, position in enumerate(sorted(needed))}
    return [replace(nodes[position], inputs=tuple(moved[x] for x in nodes[position].inputs)) for position in moved]
