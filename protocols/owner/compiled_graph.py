"""The graph of a Keras model as the public nodes of a training, and the numbers that are shared for it. Only the owner needs Keras.

The graph is read by the rules that also read it for predictions (`lowering/keras_graph.py`), and a few of its own where a layer does
something else in a training. Where a trainable weight stands in it is found by reading other numbers in its place, no two alike, twice: an
array tells whose numbers it has, in which places, and times what (`lowering/nodes/numbers.py`). What depends on a trainable weight in any
other way is refused. All other numbers stay as they are in a training, but for the statistics that a batch normalisation keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from protocols.curves.activations import Curve
from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering.folding import fold, padded
from protocols.lowering.forms import said
from protocols.lowering.keras_graph import reached, read_all
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node, Real
from protocols.lowering.nodes.numbers import Marks, Portion, in_place
from protocols.lowering.nodes.training import BatchNormalised, Dropped, Noisy, Penalised
from protocols.mpc.engine.values import Shape
from protocols.owner.objectives.endings import Compared, compared, without
from protocols.owner.objectives.penalties import check_activities
from protocols.training.networks import activity, attention, lookup, nonlinear, normalisation, random, roots
from protocols.training.networks import layers as made
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import Variable, Weight
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.window import WEIGHTS

KNOWN = (
    "Dense, convolutions, poolings, activations, normalisations, dropouts, embeddings, attention, recurrent layers, sums, products, joins"
    " and moves of elements can be"
)
VANISHED = 2.0 ** -(FRACTION - 2)
"""Weights of which all are below this are a few steps of fixed point."""
COMPUTED = (0.61803, -0.73909)
"""What each number of a trainable weight is for what a `call` computes of it, in both readings: never a number of a weight, times what."""
LARGEST_VARIANCE = 2.0**18
"""Statistics that are kept lie within it, as those of a step do."""


class ReadModel(NamedTuple):
    """What is read of a model.

    Attributes:
        layers: public nodes; the last one gives logits, or the numbers that are compared.
        example: the shape of what it takes.
        outputs: how many numbers it gives, of all outputs together.
        variables: its weights: those that are trained, in the order of Keras, then statistics that follow, then those that stay.
        kept: those that are not trained, by name.
        following: the variables of Keras that are statistics, in their order.
        endings: of each output "softmax" or a name of `CURVES` if it ends in one that belongs to its loss.
    """

    layers: tuple[AnyLayer, ...]
    example: Shape
    outputs: int
    variables: tuple[Variable, ...]
    kept: dict[str, Real]
    endings: tuple[str | None, ...]
    following: tuple[Any, ...] = ()


def network(model: Any, *heads: Compared) -> ReadModel:
    """Read a model.

    Args:
        model: what is read.
        heads: how each of its outputs is compared.

    Raises:
        UnsupportedLayer: a layer cannot be trained on shares. It is named.
        ModelError: the model cannot be read, or a weight does not fit.
    """
    reading = _Reading(model)
    check_activities(model, reading.nodes)
    endings = compared(reading.nodes, heads)
    if any(endings):
        reading.without(endings)
    nodes = reading.nodes
    for at in range(1, len(nodes)):
        reading.read(at)
    layers, shape = reading.layers, nodes[-1].shape
    if len(shape) > 1:
        reading.add(made.ShapedLayer((reading.at[-1],), (math.prod(shape),)))
    elif reading.at[-1] != len(layers):
        raise ModelError(f"{_name(nodes[-1])} is not the end of the network; please report this")
    unread = [variable.path for variable in reading.variables if reading.names[id(variable)] not in reading.used]
    if unread or not layers:
        raise ModelError(
            f"the weights {unread} of model {model.name!r} do not move its outputs: leave them out, or freeze their layers"
            if unread
            else f"model {model.name!r} has no layer to train"
        )
    trained = tuple(Variable(reading.names[id(one)], tuple(one.shape) or (1,)) for one in reading.variables)
    kept = reading.statistics | reading.kept
    stay = tuple(Variable(name, array.shape, trained=False) for name, array in kept.items())
    return ReadModel(tuple(layers), nodes[0].shape, math.prod(shape), (*trained, *stay), kept, endings, tuple(following(model).values()))


def following(model: Any) -> dict[int, Any]:
    """Return the statistics of a model that follow what a step sees, by their ids, in the order of its weights."""
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    found: dict[int, Any] = {}
    for layer in internals.layers_within(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found |= {id(one): one for one in (layer.moving_mean, layer.moving_variance)}
    return {id(one): one for one in model.weights if id(one) in found}


class _Reading:
    """The nodes of a model, read twice with numbers of its own in the place of trainable weights.

    Attributes:
        layers: the public nodes so far.
        at: for each node of a prediction that has been read the number of the value that it has in the training.
    """

    def __init__(self, model: Any) -> None:
        self.variables: list[Any] = list(model.trainable_variables)
        self.names = _names(self.variables)
        self.used: set[str] = set()
        self.kept: dict[str, Real] = {}
        self.layers: list[AnyLayer] = []
        self.at = [0]
        self._draws: dict[tuple[int, int], str] = {}
        self._follows = {at: f"statistic{number}" for number, at in enumerate(following(model))}
        self.statistics = {self._follows[at]: _statistic(one) for at, one in following(model).items()}
        self._marks = Marks([tuple(one.shape) for one in self.variables])
        numbers = [dict(zip(map(id, self.variables), reading, strict=True)) for reading in self._marks.readings()]
        self.nodes, self._others = (self._read(model, places, seen) for places, seen in zip(numbers, COMPUTED, strict=True))

    def _read(self, model: Any, places: Mapping[int, Real], seen: float) -> list[Node]:
        import keras  # noqa: PLC0415  only the owner needs Keras

        numbers = [(one, keras.ops.full(one.shape, seen, one.dtype)) for one in self.variables]
        with keras.StatelessScope(state_mapping=numbers) as scope, in_place(places):  # what a call() computes with weights is seen, too
            nodes = fold(read_all(model, training=True).nodes, padded)
        changed = [one.path for one in model.variables if id(one) not in places and id(one) in scope.state_mapping]
        if changed:
            raise UnsupportedLayer(f"a call() changes {changed} when it trains, which is not done on shares: freeze it, or leave it out")
        return nodes

    def without(self, endings: Sequence[str | None]) -> None:
        """Take activations at the end of outputs away."""
        left = [without(nodes, endings) for nodes in (self.nodes, self._others)]
        self.nodes, self._others = (reached(nodes, len(nodes) - 1) for nodes in left)

    def add(self, layer: AnyLayer) -> int:
        """Append a public node; return the number of its value."""
        self.layers.append(layer)
        return len(self.layers)

    def _part(self, at: int, field: str) -> tuple[Weight, float] | None:
        """Return a weight of a node and what it is multiplied by, None if it has none.

        Raises:
            UnsupportedLayer: it depends on trainable weights in another way than having numbers of one of them.
            ModelError: it is too large, or vanishes.
        """
        first, second = (getattr(nodes[at], field) for nodes in (self.nodes, self._others))
        if first is None:
            return None
        first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
        if np.array_equal(first, second):
            return Weight(self._constant(self.nodes[at], first), first.shape), 1.0
        part = self._marks.part(first, second)
        if part is None:
            raise UnsupportedLayer(
                f"{_name(self.nodes[at])} computes with its weights before it uses them, which is not trained on shares: freeze it"
            )
        return self._weight(part, first.shape), part.factor

    def _weight(self, part: Portion, shape: Shape) -> Weight:
        name = self.names[id(self.variables[part.variable])]
        self.used.add(name)
        return Weight(name, shape) if part.whole else Weight(name, shape, part.start, part.view, part.steps)

    def weight(self, at: int, field: str) -> Weight | None:
        """Return a weight of a node, None if it has none; see `_part`.

        Raises:
            UnsupportedLayer: it is multiplied by a number before it is used.
        """
        found = self._part(at, field)
        if found is not None and found[1] != 1:
            raise UnsupportedLayer(
                f"{_name(self.nodes[at])} computes with its weights before it uses them, which is not trained on shares: freeze it"
            )
        return None if found is None else found[0]

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

    def read(self, at: int) -> None:
        """Append the public nodes of a node.

        Raises:
            UnsupportedLayer: there are none for it.
        """
        node = self.nodes[at]
        if node.kind == "StopGradient":
            raise UnsupportedLayer(f"{_name(node)} stops gradients, which is not done on shares: freeze the layers before it")
        inputs = tuple(self.at[x] for x in node.inputs)
        if said(node) == said(self._others[at]):
            self.at.append(self._nodes(at, node, inputs))
        elif isinstance(node, net.Rescale):
            self.at.append(self._rescaled(at, inputs))
        else:
            raise UnsupportedLayer(f"{_name(node)} multiplies or adds a trainable number, which is not trained on shares: freeze it")

    def _nodes(self, at: int, node: Node, inputs: tuple[int, ...]) -> int:
        match node:
            case net.Product() | net.Convolution():
                return self._linear(at, node, inputs)
            case _:
                return self.add(self.layer(at, node, inputs))

    def _linear(self, at: int, node: net.Product | net.Convolution, inputs: tuple[int, ...]) -> int:
        """Return a product or a convolution; weights that are multiplied by a number give outputs that are."""
        (kernel, factor), bias = self._parts(at, "kernel"), self._part(at, "bias")
        both = bias is None or math.isclose(bias[1], factor, rel_tol=1e-9)
        inside = None if bias is None or not both else bias[0]
        if isinstance(node, net.Product):
            layer: AnyLayer = made.ProductLayer(inputs, kernel, inside)
        else:
            layer = made.ConvolutionLayer(inputs, kernel, inside, node.strides, node.padding, node.dilation, node.groups)
        x = self.add(layer)
        if factor != 1:
            x = self.add(made.RescaleLayer((x,), factor))
        return x if both else self.add(made.ShiftedLayer((x,), self._present(at, "bias")))

    def _rescaled(self, at: int, inputs: tuple[int, ...]) -> int:
        """One trainable number that multiplies all, or is added to all."""
        node, other = self.nodes[at], self._others[at]
        assert isinstance(node, net.Rescale)
        assert isinstance(other, net.Rescale)
        if node.scale != other.scale:
            inputs = (self.add(made.AffineLayer(inputs, _of_one(self._present(at, "scale")))),)
        elif node.scale != 1:
            inputs = (self.add(made.RescaleLayer(inputs, node.scale)),)
        if node.offset != other.offset:
            inputs = (self.add(made.ShiftedLayer(inputs, _of_one(self._present(at, "offset")))),)
        elif node.offset:
            inputs = (self.add(made.RescaleLayer(inputs, 1.0, node.offset)),)
        return inputs[0]

    def layer(self, at: int, node: Node, inputs: tuple[int, ...]) -> AnyLayer:
        """Return the public node.

        Raises:
            UnsupportedLayer: there is none for it.
        """
        match node:
            case net.ChannelAffine():
                shift, other = self.weight(at, "shift") if node.shift.any() else None, self._others[at]
                assert isinstance(other, net.ChannelAffine)
                if (node.scale == 1).all() and (other.scale == 1).all() and shift is not None:
                    return made.ShiftedLayer(inputs, shift)
                return made.AffineLayer(inputs, self._present(at, "scale"), shift)
            case net.Shifted():
                return made.ShiftedLayer(inputs, self._present(at, "shift"))
            case net.Rescale(scale=scale, offset=offset):
                return made.RescaleLayer(inputs, scale, offset)
            case net.Rectify(slope=slope, threshold=threshold, maximum=maximum):
                return nonlinear.RectifierLayer(inputs, slope, threshold, maximum)
            case net.Curved(curve=curve):
                return _curved(inputs, curve, _name(node))
            case net.MaxPool(size=size, strides=strides, padding=padding):
                return nonlinear.MaxPoolLayer(inputs, size, strides, padding)
            case net.AveragePool(size=size, strides=strides, padding=padding):
                return made.AveragePoolLayer(inputs, size, strides, padding)
            case net.Largest(smallest=smallest):
                return nonlinear.ExtremeLayer(inputs, smallest)
            case net.Multiplied():
                return made.MultipliedLayer(inputs)
            case net.SignedSum(signs=signs):
                return made.SumLayer(inputs, signs)
            case net.Normalised(epsilon=epsilon, centred=centred):
                return normalisation.NormalisedLayer(inputs, epsilon, centred)
            case BatchNormalised(epsilon=epsilon, momentum=momentum, mean=mean, variance=variance):
                names = (self._follows[id(one)] for one in (mean, variance))
                return normalisation.BatchNormalisedLayer(inputs, epsilon, momentum, *names)
            case Dropped(rate=rate, repeated=repeated, draw=draw):
                name = f"drawn{at}" if draw is None else self._draws.setdefault(draw, f"drawn{at}")
                return random.DroppedLayer(inputs, name, rate, repeated)
            case Noisy(deviation=deviation, multiplied=multiplied):
                return random.NoisyLayer(inputs, f"drawn{at}", deviation, multiplied)
            case Penalised(l1=l1, l2=l2):
                return activity.PenalisedLayer(inputs, node.shape, l1, l2) if l1 or l2 else made.ShapedLayer(inputs, node.shape)
        return _chosen(node, inputs)

    def _present(self, at: int, field: str) -> Weight:
        weight = self.weight(at, field)
        assert weight is not None  # only biases and shifts may be missing
        return weight

    def _parts(self, at: int, field: str) -> tuple[Weight, float]:
        found = self._part(at, field)
        assert found is not None  # every product has a kernel
        return found


def _of_one(weight: Weight) -> Weight:
    """Give a weight that is one number an axis."""
    return Weight(weight.name, (1,))


def _statistic(variable: Any) -> Real:
    """Return the numbers of a statistic that is kept.

    Raises:
        ModelError: they are beyond those of a step.
    """
    numbers = np.asarray(variable.numpy(), np.float64)
    if not (np.abs(numbers) <= LARGEST_VARIANCE).all():
        raise ModelError(f"{variable.path} has numbers that are beyond {LARGEST_VARIANCE:g}, or none: they would not fit fixed point")
    return numbers


def _names(variables: Sequence[Any]) -> dict[int, str]:
    """Name each weight: its own name, and which layer with weights it is in."""
    names: dict[int, str] = {}
    layers: dict[str, int] = {}
    for index, one in enumerate(variables):
        layer = layers.setdefault(str(one.path).rpartition("/")[0], len(layers))
        name = f"{one.name}{layer}"
        names[id(one)] = name if name not in names.values() else f"{name} {index}"
    return names


def _chosen(node: Node, inputs: tuple[int, ...]) -> AnyLayer:
    match node:
        case net.Matrices():
            return attention.MatricesLayer(inputs)
        case net.Masked(keep=keep):
            return attention.MaskedLayer(inputs, tuple(int(bit) for bit in keep.reshape(-1)), tuple(keep.shape))
        case net.Softmax(log=False):
            return attention.SoftmaxLayer(inputs)
        case net.OneHot(shape=shape):
            return lookup.OneHotLayer(inputs, shape[-1])
        case net.Inverse(root=root):
            return roots.InverseLayer(inputs, root)
        case net.Truth(equal=equal):
            return lookup.TruthLayer(inputs, equal)
    return _moved(node, inputs)


def _moved(node: Node, inputs: tuple[int, ...]) -> AnyLayer:
    match node:
        case net.Shaped() | net.Within(dtype="int32" | "int64"):
            return made.ShapedLayer(inputs, node.shape)
        case net.Permuted(axes=axes):
            return made.PermutedLayer(inputs, axes)
        case net.Taken(axis=axis, indices=indices):
            return made.TakenLayer(inputs, axis, indices)
        case net.Padded(padding=padding):
            return made.PaddedLayer(inputs, padding)
        case net.Joined(axis=axis):
            return made.JoinedLayer(inputs, axis)
    raise UnsupportedLayer(f"{_name(node)} cannot be trained on shares; {KNOWN}")


def _curved(inputs: tuple[int, ...], curve: Curve, name: str) -> nonlinear.CurveLayer:
    if curve.relative:
        raise UnsupportedLayer(f"{name} has an activation that grows beyond any bound: it is not trained on shares")
    try:
        return nonlinear.CurveLayer.of(inputs, curve)
    except ValueError:
        raise UnsupportedLayer(f"{name} has an activation that is too steep, or bends too often, to be trained on shares") from None


def _name(node: Node) -> str:
    return f"layer {node.layer!r} ({node.kind})"
