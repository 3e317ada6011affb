"""What a Keras model takes and gives: one tensor, or several in a list or a dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from protocols.errors import ModelError
from protocols.mpc.engine.values import Shape
from protocols.mpc.inputs.structure import NamedShape, Structure


class Tensors(NamedTuple):
    """Symbolic tensors in the order in which they lie in a row.

    Attributes:
        kind: how they are given; None for one alone.
        names: of each.
        tensors: the tensors.
    """

    kind: Literal["list", "dict"] | None
    names: list[str]
    tensors: list[Any]

    def structure(self, shapes: Sequence[Shape]) -> Structure | None:
        """Return the row in which tensors of these shapes lie, None for one alone."""
        if self.kind is None:
            return None
        return Structure(self.kind, tuple(NamedShape(name, shape) for name, shape in zip(self.names, shapes, strict=True)))


def tensors_of(model: Any, side: Literal["inputs", "outputs"]) -> Tensors:
    """Return the inputs or outputs of a model.

    Raises:
        ModelError: they are nested deeper than in one list or dict.
    """
    from keras import KerasTensor  # noqa: PLC0415  a model of it is at hand

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    flat = list(getattr(model, side))
    if len(flat) == 1:
        return Tensors(None, [flat[0].name], flat)
    given = internals.inputs_as_given(model) if side == "inputs" else internals.outputs_as_given(model)
    found = list(given.values()) if isinstance(given, dict) else list(given)
    if not all(isinstance(one, KerasTensor) for one in found):
        raise ModelError(f"model {model.name!r} has {side} in lists or dicts within others; one list, or one dict, is supported")
    if isinstance(given, dict):
        return Tensors("dict", list(map(str, given)), found)
    names = [one.name for one in found]
    return Tensors("list", names if len(set(names)) == len(names) else [str(place) for place in range(len(names))], found)


def known_shape(model: Any, tensor: Any) -> Shape:
    """Return the shape of an example of an input.

    Raises:
        ModelError: an axis has no length, or what is in it are no numbers.
    """
    shape = tuple(tensor.shape[1:])
    if None in shape or not shape:
        raise ModelError(f"model {model.name!r} has inputs of shape {shape}; all axes but the batch must be known, at least one")
    if "float" not in tensor.dtype and "int" not in tensor.dtype:
        raise ModelError(f"model {model.name!r} has {tensor.dtype} inputs; numbers are needed: keras.Input(shape, dtype='float32')")
    return tuple(int(n) for n in shape)
