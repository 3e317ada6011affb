"""What weights of a compiled Keras model say of themselves: penalties and constraints, as public numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocols.errors import ModelError, UnsupportedLayer
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


def _axes(axis: Any, variable: Any) -> tuple[int, ...]:
    rank = len(variable.shape)
    return tuple(sorted({int(one) % rank for one in (axis if isinstance(axis, (list, tuple)) else [axis])}))


def _made(variable: Any, kind: Any, *said: Any) -> Any:
    try:
        return kind(*said)
    except ModelError as error:
        raise UnsupportedLayer(f"{variable.path}: {error}") from None
