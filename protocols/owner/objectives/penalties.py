"""What weights and layers of a compiled Keras model say of themselves: penalties and constraints, as public numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.training import Penalised
from protocols.training.networks.layers import Variable
from protocols.training.networks.optimizers import Constraint, Penalty


def penalties(model: Any, variables: Sequence[Variable]) -> tuple[Penalty, ...]:
    """Read the regularizers of trainable weights; `variables` are those of the plan, of which the first are the trainable ones.

    Raises:
        UnsupportedLayer: one is none of Keras' L1, L2 and L1L2, or counts so little that fixed point does not tell it, or too much.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    kinds, found = keras.regularizers, []
    for variable, known in zip(model.trainable_variables, variables, strict=False):  # those that stay come last
        said = variable.regularizer
        if said is None:
            continue
        if type(said) not in (kinds.L1, kinds.L2, kinds.L1L2):
            raise UnsupportedLayer(
                f"{variable.path} has a regularizer, {type(said).__name__}, that has no form on shares: L1, L2 and L1L2 of"
                " keras.regularizers have one"
            )
        l1, l2 = (float(getattr(said, name, 0.0)) for name in ("l1", "l2"))
        if l1 or l2:
            found.append(_made(variable, Penalty, known.name, l1, l2))
    return tuple(found)


def constraints(model: Any, variables: Sequence[Variable]) -> tuple[Constraint, ...]:
    """Read the constraints of trainable weights; `variables` as for `penalties`.

    Raises:
        UnsupportedLayer: one is none of Keras' NonNeg, UnitNorm and MaxNorm, or has a norm that fixed point does not take.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    kinds, found = keras.constraints, []
    for variable, known in zip(model.trainable_variables, variables, strict=False):
        said = variable.constraint
        if said is None:
            continue
        if type(said) is kinds.NonNeg:
            found.append(Constraint(known.name, "non-negative"))
        elif type(said) is kinds.UnitNorm:
            found.append(_made(variable, Constraint, known.name, "unit norm", _axes(said.axis, variable)))
        elif type(said) is kinds.MaxNorm:
            found.append(_made(variable, Constraint, known.name, "largest norm", _axes(said.axis, variable), float(said.max_value)))
        else:
            raise UnsupportedLayer(
                f"{variable.path} has a constraint, {type(said).__name__}, that has no form on shares: NonNeg, UnitNorm and MaxNorm of"
                " keras.constraints have one"
            )
    return tuple(found)


def check_activities(model: Any, nodes: Sequence[Node]) -> None:
    """Refuse a model whose layers add other penalties to its loss, when it is called, than those of its graph.

    So it is where a layer inside of another one is not called as others are, as in a `TimeDistributed`, and where nothing needs its value.

    Raises:
        UnsupportedLayer: it names the layer.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    layers = [one for one in internals.layers_within(model) if getattr(one, "activity_regularizer", None) is not None]
    if not layers:
        return
    given = internals.inputs_as_given(model)
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    examples = keras.tree.map_structure(lambda one: keras.ops.zeros((2, *one.shape[1:]), one.dtype), given)
    internals.outputs_of(model, examples, training=False)
    added: Counter[str] = Counter()
    for layer in layers:
        added[layer.name] += len(internals.losses_added_by(layer))
    internals.forget_losses(model)
    found = Counter(node.layer for node in nodes if isinstance(node, Penalised))
    for layer in layers:
        if added[layer.name] != found[layer.name] or not found[layer.name]:
            raise UnsupportedLayer(
                f"layer {layer.name!r} ({type(layer).__name__}) has an activity_regularizer, which Keras adds to the loss"
                f" {added[layer.name]} times, and {found[layer.name]} values of the network show it: leave it out, or put an"
                " ActivityRegularization behind a layer of the model itself, on what its outputs need"
            )


def _axes(axis: Any, variable: Any) -> tuple[int, ...]:
    rank = len(variable.shape)
    return tuple(sorted({int(one) % rank for one in (axis if isinstance(axis, (list, tuple)) else [axis])}))


def _made(variable: Any, kind: Any, *said: Any) -> Any:
    try:
        return kind(*said)
    except ModelError as error:
        raise UnsupportedLayer(f"{variable.path}: {error}") from None
