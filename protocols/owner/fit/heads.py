"""What a Keras model takes and gives, and what `compile` says of each output: a loss, how often it counts, and metrics.

With one output that is what `compile` was given; with several it is read as Keras reads it: in a list for each output, in a dict by the
names of the layers that outputs come from, or by the keys of a dict in which the model gives them; or one loss for all.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from protocols.errors import ModelError


class CompiledHead(NamedTuple):
    """One output of a compiled model.

    Attributes:
        name: as Keras calls it in logs.
        shape: of an example.
        loss: of Keras, or the user's.
        weight: how many times it counts.
        metrics: what `compile` was given for it.
    """

    name: str
    shape: tuple[int, ...]
    loss: Any
    weight: float
    metrics: list[Any]


class Ends(NamedTuple):
    """How the arrays of inputs, or of outputs, are given.

    Attributes:
        kind: as the model has them; None of one alone, which may be the only one in a list.
        names: of each; in a dict they are given by these.
        shapes: of an example of each.
    """

    kind: Literal["list", "tuple", "dict"] | None
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def several(self) -> bool:
        """Say whether there is more than one."""
        return len(self.names) > 1

    def held(self, values: list[Any]) -> Any:
        """Return one value for each in the structure that the model has, as Keras does."""
        if self.kind == "dict":
            return dict(zip(self.names, values, strict=True))
        return values[0] if self.kind is None else tuple(values) if self.kind == "tuple" else values


def ends(model: Any, side: Literal["inputs", "outputs"]) -> Ends:
    """Return how the inputs or the outputs of a model are given.

    Raises:
        ModelError: they are in lists or dicts within others, or outputs have no names of their own.
    """
    from keras import KerasTensor  # noqa: PLC0415  a model of it is at hand

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    flat = list(getattr(model, side))
    given = internals.inputs_as_given(model) if side == "inputs" else internals.outputs_as_given(model)
    if isinstance(given, KerasTensor) or (len(flat) == 1 and not isinstance(given, Mapping)):
        given = flat
    found = list(given.values()) if isinstance(given, Mapping) else list(given)
    if not all(isinstance(one, KerasTensor) for one in found):
        raise ModelError(f"model {model.name!r} has {side} in lists or dicts within others; one list, or one dict, is supported")
    shapes = tuple(tuple(one.shape[1:]) for one in found)
    if isinstance(given, Mapping):
        return Ends("dict", tuple(map(str, given)), shapes)
    names = tuple(map(_layer, found))
    if len(names) == 1:
        return Ends(None, names, shapes)
    if len(set(names)) < len(names):
        raise ModelError(f"model {model.name!r} has {side} of the same layer, {names}: give them in a dict, each with a name of its own")
    return Ends("tuple" if isinstance(given, tuple) else "list", names, shapes)


def heads(model: Any) -> tuple[CompiledHead, ...]:
    """Read what `compile` says of each output.

    Raises:
        ModelError: an output has no loss, or more than one, or a loss does not count; or what was given does not fit the outputs.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    found, weights = ends(model, "outputs"), internals.loss_weights(model)
    metrics = internals.compile_arguments(model).get("metrics")
    if not found.several:
        losses = [one for one in keras.tree.flatten(model.loss) if one is not None]
        if len(losses) != 1:
            raise ModelError(f"model {model.name!r} is compiled with {len(losses)} losses: one is trained on shares")
        each = [1.0] if weights is None else [float(one) for one in keras.tree.flatten(weights)]
        if len(each) != 1 or not 0.0 < each[0] < math.inf:
            raise ModelError(f"loss_weights={weights} cannot be trained on shares: one number above 0 is needed for the one loss")
        return (CompiledHead(found.names[0], found.shapes[0], keras.losses.get(losses[0]), each[0], _flat(metrics)),)
    said = _each(model.loss, found, "loss") if isinstance(model.loss, list | tuple | Mapping) else [model.loss] * len(found.names)
    if any(isinstance(one, list | tuple | Mapping) for one in said):
        raise ModelError(f"loss={model.loss}: of several outputs each has one loss on shares")
    without = [name for name, loss in zip(found.names, said, strict=True) if loss is None]
    if without:
        raise ModelError(
            f"outputs {without} have no loss, and would be left as they are: on shares each output has one; train a model without them"
        )
    counts = [1.0] * len(said) if weights is None else _weights(model, found, weights)
    told = [None] * len(said) if not metrics else _each(metrics, found, "metrics", some=True)
    return tuple(
        CompiledHead(name, shape, keras.losses.get(loss), weight, _flat(of))
        for name, shape, loss, weight, of in zip(found.names, found.shapes, said, counts, told, strict=True)
    )


def _weights(model: Any, found: Ends, given: Any) -> list[float]:
    """Return how often each loss counts; Keras takes them in the form of the losses, or goes by the order of sorted names.

    Raises:
        ModelError: the form is another one, or a number is none above 0.
    """
    alike = isinstance(model.loss, list | tuple | Mapping) and isinstance(given, Mapping) == isinstance(model.loss, Mapping)
    counts = _each(given, found, "loss_weights") if alike else []
    if not counts or not all(isinstance(one, numbers.Real) and 0.0 < float(one) < math.inf for one in counts):
        raise ModelError(
            f"loss_weights={given} cannot be trained on shares: a number above 0 is needed for each loss, in a list or a dict as the losses"
        )
    return [float(one) for one in counts]


def _layer(tensor: Any) -> str:
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return str(internals.origin(tensor)[0].name)


def _each(given: Any, found: Ends, what: str, *, some: bool = False) -> list[Any]:
    """Return what was given for each output; with `some` a dict may leave outputs out.

    Raises:
        ModelError: it does not fit them.
    """
    names = list(found.names)
    if isinstance(given, Mapping):
        strange = set(given) ^ set(names) if not some else set(given) - set(names)
        if strange:
            raise ModelError(f"compile({what}=) has the names {sorted(map(str, given))}, and the outputs are {names}")
        return [given.get(name) for name in names]
    if not isinstance(given, list | tuple) or len(given) != len(names):
        raise ModelError(f"compile({what}={given}): the outputs are {names}, and one entry for each is needed, in a list or a dict")
    if found.kind == "dict":
        raise ModelError(f"compile({what}=) is a list, and the outputs are in a dict: give it by their names {names}")
    return list(given)


def _flat(metrics: Any) -> list[Any]:
    import keras  # noqa: PLC0415  only the owner needs Keras

    return [one for one in keras.tree.flatten(metrics) if one is not None]
