"""A network whose first layers are frozen, cut in two: a base that gives the same for an example in each epoch, and a head that is trained.

The base is all nodes that depend on no weight that moves, draw nothing and add nothing to the loss: frozen layers, and what is between
them and the input. A dropout, a normalisation by the batch, or a penalty on activations ends it, and whatever reads these. What the head
reads of it is one value, or several side by side, rounded as products round what they take; of a private training folded, so that it is
bounded. Both parts have all weights of the network, so that a model at the servers serves either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from protocols.datasets.dataset import DATASET_LIMIT
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.wires import Given
from protocols.training.networks.activity import PenalisedLayer
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.layers import JoinedLayer, ShapedLayer, TakenLayer, Weight
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.random import DroppedLayer, NoisyLayer
from protocols.training.step import Plan


class Parts(NamedTuple):
    """A network in two.

    Attributes:
        base: gives the features of an example.
        head: is trained on these, as the network would be.
    """

    base: Plan
    head: Plan


def parts(plan: Plan, examples: int) -> Parts | None:
    """Return a network in two; None if nothing with weights is frozen at its beginning, or features of so many examples are too large.

    Too large is what no stored array may be (`DATASET_LIMIT`).
    """
    steady = _steady(plan)
    edge = sorted({x for at, node in enumerate(plan.layers, 1) if not steady[at] for x in node.inputs if steady[x]})
    needed = _below(plan, edge)
    if steady[-1] or not any(_weights(plan.layers[at - 1]) for at in needed):
        return None
    shapes = _shapes(plan, needed)
    sizes = [math.prod(shapes[x]) for x in edge]
    if 8 * examples * sum(sizes) > DATASET_LIMIT:
        return None
    base, places = _moved(plan, needed, {0: 0}, [])
    flat: list[AnyLayer] = [ShapedLayer((places[x],), (size,)) for x, size in zip(edge, sizes, strict=True)]
    base += flat
    if len(edge) > 1:
        base.append(JoinedLayer(tuple(range(len(base) - len(edge) + 1, len(base) + 1)), 0))
    start, known = _taken(edge, [shapes[x] for x in edge], sizes)
    head, _ = _moved(plan, [at for at in range(1, len(steady)) if not steady[at]], known, start)
    private = None if plan.private is None else msgspec.structs.replace(plan.private, features=True)
    example = shapes[edge[0]] if len(edge) == 1 else (sum(sizes),)
    return Parts(
        msgspec.structs.replace(plan, layers=tuple(base), outputs=sum(sizes), loss="mse", classes=(), value=False),
        msgspec.structs.replace(plan, layers=tuple(head), example=example, parts=(), private=private),
    )


def _weights(node: AnyLayer) -> set[str]:
    """Return the names of the weights that a node reads."""
    fields = (getattr(node, name) for name in node.__struct_fields__)
    return {one.name for one in fields if isinstance(one, Weight)}


def _steady(plan: Plan) -> list[bool]:
    """Say whether each value, the input first, is the same for an example in each step, and adds nothing to the loss."""
    moving = set(plan.trained).union(*(node.moves for node in plan.layers))
    steady = [True]
    for node in plan.layers:
        fixed = not isinstance(node, DroppedLayer | NoisyLayer | PenalisedLayer) and not node.moves and not moving & _weights(node)
        steady.append(fixed and all(steady[x] for x in node.inputs))
    return steady


def _below(plan: Plan, wanted: Sequence[int]) -> list[int]:
    """Return the values, without the input, of which some are made, these included."""
    found, waiting = set(wanted), list(wanted)
    while waiting:
        at = waiting.pop()
        missing = set(plan.layers[at - 1].inputs) - found if at else set()
        found |= missing
        waiting += missing
    return sorted(found - {0})


def _shapes(plan: Plan, needed: Sequence[int]) -> dict[int, Shape]:
    """Return the shapes of some values of an example, and of the input."""
    draft = StepDraft(predicts=True)
    weights = {name: draft.put(Given(name, shape, "share")) for name, shape in plan.shapes.items()}
    made = {0: draft.put(Reshape(draft.put(Given("x", (1, plan.inputs), "wire")), (1, *plan.example)))}
    for at in needed:
        node = plan.layers[at - 1]
        made[at] = node.write(draft, weights, [made[x] for x in node.inputs])
    return {at: draft.value(position).shape[1:] for at, position in made.items()}


def _moved(plan: Plan, chosen: Sequence[int], known: dict[int, int], start: Sequence[AnyLayer]) -> tuple[list[AnyLayer], dict[int, int]]:
    """Return some nodes behind others, and where each value then is, beside those that are `known`."""
    layers, places = list(start), dict(known)
    for at in chosen:
        node = plan.layers[at - 1]
        layers.append(msgspec.structs.replace(node, inputs=tuple(places[x] for x in node.inputs)))
        places[at] = len(layers)
    return layers, places


def _taken(edge: Sequence[int], shapes: Sequence[Shape], sizes: Sequence[int]) -> tuple[list[AnyLayer], dict[int, int]]:
    """Return the nodes that take features apart, and where each value of the base then is."""
    if len(edge) == 1:
        return [], {edge[0]: 0}
    layers: list[AnyLayer] = []
    places = {}
    for x, shape, size in zip(edge, shapes, sizes, strict=True):
        first = sum(sizes[: edge.index(x)])
        layers.append(TakenLayer((0,), 0, tuple(range(first, first + size))))
        layers.append(ShapedLayer((len(layers),), shape))
        places[x] = len(layers)
    return layers, places
