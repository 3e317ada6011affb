"""The graph of a Keras model as the public nodes of a training, and the numbers that are shared for it. Only the owner needs Keras.

The graph is read by the rules that also read it for predictions (`lowering/keras_graph.py`). Where a trainable weight stands in it is found
by reading other numbers in its place, no two alike: a node that has them in their order has the weight. Two readings with different numbers
tell what depends on a trainable weight in any other way, which is refused. All other numbers stay as they are in a training.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering.folding import fold, padded
from protocols.lowering.keras_graph import read
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.curves import CURVES
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.nodes.numbers import in_place
from protocols.mpc.engine.values import Shape
from protocols.owner.compiled_curves import curved
from protocols.training.networks import layers as made
from protocols.training.networks import nonlinear
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import Variable, Weight
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.window import WEIGHTS

KNOWN = (
    "Dense, convolutions, poolings, rectifiers and other activations, sums, products, joins and moves of elements can be, and a softmax or"
    " a sigmoid at the end"
)
VANISHED = 2.0 ** -(FRACTION - 2)
"""Weights of which all are below this are a few steps of fixed point."""
STEP = 2.0**-40
"""Numbers in the place of weights are so far apart."""


class ReadModel(NamedTuple):
    """What is read of a model.

    Attributes:
        layers: public nodes; the last one gives logits, or the numbers that are compared.
        example: the shape of what it takes.
        outputs: how many numbers it gives.
        variables: its weights: those that are trained, in the order of Keras, then those that stay.
        kept: those that stay, by name.
        ending: "softmax" or "sigmoid" if it ends in one, which then belongs to the loss.
    """

    layers: tuple[AnyLayer, ...]
    example: Shape
    outputs: int
    variables: tuple[Variable, ...]
    kept: dict[str, Real]
    ending: str | None


def network(model: Any, *, squares: bool, endings: Collection[str] = ("softmax", "sigmoid")) -> ReadModel:
    """Read a model.

    Args:
        model: what is read.
        squares: whether its outputs are compared as they are.
        endings: activations at its end that belong to the loss; others but a softmax are activations as elsewhere.

    Raises:
        UnsupportedLayer: a layer cannot be trained on shares. It is named.
        ModelError: the model cannot be read, or a weight does not fit.
    """
    reading = _Reading(model)
    nodes, ending = reading.nodes, _ending(reading.nodes[-1])
    if ending not in (*endings, "softmax"):
        ending = None
    if ending:
        nodes = nodes[:-1]
    layers = [reading.layer(at) for at in range(1, len(nodes))]
    shape = nodes[-1].shape
    if len(shape) > 1:
        if not squares:
            raise UnsupportedLayer(f"{_name(nodes[-1])} gives outputs of shape {shape}: a cross-entropy needs one axis of classes")
        layers.append(made.ShapedLayer((len(layers),), (math.prod(shape),)))
    unread = [variable.path for variable in reading.variables if reading.names[id(variable)] not in reading.used]
    if unread or not layers:
        raise ModelError(
            f"the weights {unread} of model {model.name!r} do not move its outputs: leave them out, or freeze their layers"
            if unread
            else f"model {model.name!r} has no layer to train"
        )
    trained = tuple(Variable(reading.names[id(one)], tuple(one.shape)) for one in reading.variables)
    kept = tuple(Variable(name, array.shape, trained=False) for name, array in reading.kept.items())
    return ReadModel(tuple(layers), nodes[0].shape, math.prod(shape), (*trained, *kept), reading.kept, ending)


class _Reading:
    """The nodes of a model, read twice with numbers of its own in the place of trainable weights."""

    def __init__(self, model: Any) -> None:
        self.variables: list[Any] = list(model.trainable_variables)
        self.names = _names(self.variables)
        self.used: set[str] = set()
        self.kept: dict[str, Real] = {}
        starts = np.cumsum([0, *(math.prod(one.shape) for one in self.variables)])
        self._places: list[dict[int, Real]] = []
        for first, step in ((1.0, STEP), (2.0, -STEP)):
            numbers = [first + step * np.arange(start, stop) for start, stop in itertools.pairwise(starts)]
            self._places.append({id(one): x.reshape(tuple(one.shape)) for one, x in zip(self.variables, numbers, strict=True)})
        self.nodes, self._others = (self._read(model, places) for places in self._places)

    def _read(self, model: Any, places: dict[int, Real]) -> list[Node]:
        import keras  # noqa: PLC0415  only the owner needs Keras

        numbers = [(one, keras.ops.convert_to_tensor(places[id(one)], one.dtype)) for one in self.variables]
        with keras.StatelessScope(state_mapping=numbers), in_place(places):  # what a call() computes with weights is seen, too
            return fold(read(model), padded)

    def _variable(self, array: Real, reading: int) -> Any:
        """Return the trainable weight whose numbers, and no others, an array has in their order; None if there is none."""
        for variable in self.variables:
            numbers = self._places[reading][id(variable)]
            if numbers.size == array.size and np.array_equal(numbers.reshape(-1), array.reshape(-1)):
                return variable
        return None

    def weight(self, at: int, field: str) -> Weight | None:
        """Return a weight of a node, None if it has none.

        Raises:
            UnsupportedLayer: it depends on trainable weights in another way than having one of them.
            ModelError: it is too large, or vanishes.
        """
        first, second = (getattr(nodes[at], field) for nodes in (self.nodes, self._others))
        if first is None:
            return None
        if np.array_equal(first, second):
            return Weight(self._constant(self.nodes[at], first), first.shape)
        variables = [self._variable(array, reading) for reading, array in enumerate((first, second))]
        if variables[0] is None or variables[0] is not variables[1]:
            raise UnsupportedLayer(
                f"{_name(self.nodes[at])} computes with its weights before it uses them, which is not trained on shares: freeze it"
            )
        name = self.names[id(variables[0])]
        self.used.add(name)
        return Weight(name, first.shape)

    def _constant(self, node: Node, array: Real) -> str:
        largest = float(np.abs(array).max())
        if 0 < largest < VANISHED or largest > 2.0**WEIGHTS:
            raise ModelError(
                f"{_name(node)} has numbers up to {largest:.1e} that stay as they are: in fixed point they must lie between"
                f" {VANISHED:.1e} and {2.0**WEIGHTS:g}"
            )
        name = f"kept{len(self.kept)}"
        self.kept[name] = np.array(array)
        return name

    def layer(self, at: int) -> AnyLayer:
        """Return the public node.

        Raises:
            UnsupportedLayer: there is none for it.
        """
        node, inputs = self.nodes[at], self.nodes[at].inputs
        if node.kind == "StopGradient":
            raise UnsupportedLayer(f"{_name(node)} stops gradients, which is not done on shares: freeze the layers before it")
        if _said(node) != _said(self._others[at]):
            raise UnsupportedLayer(f"{_name(node)} multiplies or adds a trainable number, which is not trained on shares: freeze it")
        match node:
            case net.Product():
                return made.ProductLayer(inputs, self._present(at, "kernel"), self.weight(at, "bias"))
            case net.Convolution():
                kernel, bias = self._present(at, "kernel"), self.weight(at, "bias")
                return made.ConvolutionLayer(inputs, kernel, bias, node.strides, node.padding, node.dilation, node.groups)
            case net.Affine():
                shift = self.weight(at, "shift") if node.shift.any() else None
                if (node.scale == 1).all() and shift is not None:
                    return made.ShiftedLayer(inputs, shift)
                return made.AffineLayer(inputs, self._present(at, "scale"), shift)
            case net.Shifted():
                return made.ShiftedLayer(inputs, self._present(at, "shift"))
            case net.Rescale(scale=scale, offset=offset):
                return made.RescaleLayer(inputs, scale, offset)
            case net.Rectify(slope=slope, threshold=threshold, maximum=maximum):
                return nonlinear.RectifierLayer(inputs, slope, threshold, maximum)
            case net.Curved(curve=curve):
                return curved(inputs, curve, _name(node))
            case net.MaxPool(size=size, strides=strides, padding=padding):
                return nonlinear.MaxPoolLayer(inputs, size, strides, padding)
            case net.AveragePool(size=size, strides=strides, padding=padding):
                return made.AveragePoolLayer(inputs, size, strides, padding)
            case net.Largest(smallest=smallest):
                return nonlinear.ExtremeLayer(inputs, smallest)
            case net.Multiplied():
                return made.MultipliedLayer(inputs)
            case net.Sum(signs=signs):
                return made.SumLayer(inputs, signs)
        return _moved(node)

    def _present(self, at: int, field: str) -> Weight:
        weight = self.weight(at, field)
        assert weight is not None  # only biases and shifts may be missing
        return weight


def _names(variables: Sequence[Any]) -> dict[int, str]:
    """A name for each weight: its own, and which layer with weights it is in."""
    names: dict[int, str] = {}
    layers: dict[str, int] = {}
    for index, one in enumerate(variables):
        layer = layers.setdefault(str(one.path).rpartition("/")[0], len(layers))
        name = f"{one.name}{layer}"
        names[id(one)] = name if name not in names.values() else f"{name} {index}"
    return names


def _moved(node: Node) -> AnyLayer:
    match node:
        case net.Shaped():
            return made.ShapedLayer(node.inputs, node.shape)
        case net.Permuted(axes=axes):
            return made.PermutedLayer(node.inputs, axes)
        case net.Taken(axis=axis, indices=indices):
            return made.TakenLayer(node.inputs, axis, indices)
        case net.Padded(padding=padding):
            return made.PaddedLayer(node.inputs, padding)
        case net.Joined(axis=axis):
            return made.JoinedLayer(node.inputs, axis)
        case net.Softmax():
            raise UnsupportedLayer(f"{_name(node)} has a softmax that is not the end of the model: only there it is trained on shares")
    raise UnsupportedLayer(f"{_name(node)} cannot be trained on shares; {KNOWN}")


def _said(node: Node) -> tuple[Any, ...]:
    """What a node says beside its weights, and its name, which Keras counts up where a layer is followed into its call."""
    fields = (getattr(node, field.name) for field in dataclasses.fields(node) if field.name != "layer")
    return tuple(value for value in fields if not isinstance(value, np.ndarray))


def _ending(node: Node) -> str | None:
    if isinstance(node, net.Softmax):
        return None if node.log else "softmax"
    names = (name for name in ("sigmoid", "softplus", "exponential") if isinstance(node, net.Curved) and node.curve is CURVES[name])
    return next(names, None)


def _name(node: Node) -> str:
    return f"layer {node.layer!r} ({node.kind})"


def unvanished(layers: Sequence[Any]) -> None:
    """Refuse kernels that are not zero and would be: a network of zeros does not learn.

    Raises:
        ModelError: it names the layer.
    """
    for layer in layers:
        for kernel in (one for one in layer.trainable_variables if "kernel" in one.name):
            largest = float(abs(kernel.numpy()).max())
            if 0 < largest < VANISHED:
                raise ModelError(
                    f"the kernel of layer {layer.name!r} has weights up to {largest:.1e}, which vanish in fixed point: begin with weights"
                    f" above {VANISHED:.1e}, or with zeros"
                )
