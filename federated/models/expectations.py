"""Which data a model takes: shapes and kinds of features and labels, and the range of labels, told before anything is trained.

Only what Keras itself would fail at is refused; of what a model does in its own way (`train_step`, a loss of the user's) nothing is
expected. No message shows a value of the data, or a name in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from federated.errors import DataError
from federated.records.data import Data
from federated.records.nest import leaves

if TYPE_CHECKING:
    import keras

SPARSE, ALIKE, ELEMENTWISE = "sparse", "alike", "elementwise"
"""What losses need of labels: numbers of classes; the shape of the outputs; a shape that goes with that of the outputs."""
RULES = {
    "sparse_categorical_crossentropy": SPARSE,
    "SparseCategoricalCrossentropy": SPARSE,
    **dict.fromkeys(("categorical_crossentropy", "CategoricalCrossentropy", "binary_crossentropy", "BinaryCrossentropy"), ALIKE),
    **dict.fromkeys(("mean_squared_error", "MeanSquaredError", "mean_absolute_error", "MeanAbsoluteError", "Huber"), ELEMENTWISE),
    **dict.fromkeys(("huber", "log_cosh", "LogCosh", "Poisson", "poisson"), ELEMENTWISE),
    **dict.fromkeys(("mean_absolute_percentage_error", "MeanAbsolutePercentageError"), ELEMENTWISE),
    **dict.fromkeys(("mean_squared_logarithmic_error", "MeanSquaredLogarithmicError"), ELEMENTWISE),
}
"""Keras' own losses, by the names of functions and classes."""


@dataclass(frozen=True)
class ModelInput:
    """One array that a model takes.

    Attributes:
        name: by which a dict has it.
        shape: of one example; None where any size goes.
        text: whether its values are texts.
    """

    name: str
    shape: tuple[int | None, ...]
    text: bool


@dataclass(frozen=True)
class Target:
    """What the labels of one output have to be.

    Attributes:
        name: by which a dict has them.
        shape: of the output for one example.
        rule: one of the above; None: of its loss nothing is known.
        classes: how many there are, for labels that are their numbers; None: they are not, or it is not known.
        ignored: a label that is none of them and does not count.
    """

    name: str
    shape: tuple[int | None, ...]
    rule: str | None
    classes: int | None = None
    ignored: int | None = None


class Expectations:
    """What a compiled model takes. Read from it once.

    Args:
        model: compiled and built.
    """

    def __init__(self, model: keras.Model) -> None:
        self._inputs, self._targets = _inputs(model), _targets(model)

    def check(self, data: Data) -> None:
        """Refuse data that the model does not take. The labels of a data set are read once for it.

        Raises:
            DataError: saying what was found and what is expected.
        """
        elements = data.elements()
        fault = self._of_features(elements[0]) or self._of_labels(elements[1]) or _of_weights(elements[2:])
        if fault is not None:
            raise DataError(fault)
        for number, target in enumerate(self._targets or ()):
            part = target.name if isinstance(elements[1], dict) else number
            if target.classes is not None and not data.labels_fit(target.classes, target.ignored, part):
                of = f" of output {target.name!r}" if len(self._targets or ()) > 1 else ""
                raise DataError(
                    f"a label of this owner{of} is not from 0 to {target.classes - 1}: the model has {target.classes} classes, "
                    "and the data has others"
                )

    def _of_features(self, x: Any) -> str | None:
        if self._inputs is None:
            return None
        wanted, names = self._inputs, ", ".join(repr(one.name) for one in self._inputs)
        if isinstance(x, dict):
            if any(isinstance(one, (dict, tuple, list)) for one in x.values()):
                return None
            if not {one.name for one in wanted} <= x.keys():
                return f"x is a dict without some of the model's inputs: these are {names}, and each has to be a key"
            found = [x[one.name] for one in wanted]
        else:
            found = list(leaves(x))
        if len(found) != len(wanted):
            return f"x has {_arrays(len(found))}, and the model takes {_arrays(len(wanted))}: {names}"
        for one, element in zip(wanted, found, strict=True):
            of = f" for input {one.name!r}" if len(wanted) > 1 else ""
            if one.text != element.text:
                return f"the features{of} are {_kind(element.text)}, and the model takes {_kind(one.text)}"
            if element.shape is not None and not _goes_in(element.shape, one.shape):
                return f"the features{of} have shape {_shown(element.shape)}, and the model takes {_shown(one.shape)}, for each example"
        return None

    def _of_labels(self, y: Any) -> str | None:
        if self._targets is None:
            return None
        wanted, names = self._targets, ", ".join(repr(one.name) for one in self._targets)
        if isinstance(y, dict):
            if not {one.name for one in wanted} <= y.keys():
                return f"y is a dict without some of the model's outputs: these are {names}, and each has to be a key"
            found = [y[one.name] for one in wanted]
        else:
            found = list(leaves(y))
        if len(found) != len(wanted):
            return f"y has {_arrays(len(found))}, and the model has outputs for {_arrays(len(wanted))}: {names}"
        for one, element in zip(wanted, found, strict=True):
            of = f" of output {one.name!r}" if len(wanted) > 1 else ""
            if element.text and one.rule is not None:
                return f"the labels{of} are texts, and its loss takes numbers: encode them"
            if one.rule is not None and element.shape is not None and not _labels_go(element.shape, one):
                return f"the labels{of} have shape {_shown(element.shape)} for each example; {_labels_expected(one)}"
        return None


def _of_weights(parts: Sequence[Any]) -> str | None:
    return "sample_weight has texts: numbers are expected" if any(one.text for part in parts for one in leaves(part)) else None


# What a model says.


def _inputs(model: Any) -> list[ModelInput] | None:
    """None: it is not known, or the model does with them what it likes."""
    given = _structure(model, "input", "inputs")
    if given is None or _own(model, "train_step"):
        return None
    named = sorted(given.items()) if isinstance(given, dict) else [(one.name, one) for one in leaves(given)]
    if not named or any(isinstance(one, (dict, tuple, list)) for _, one in named):
        return None
    return [ModelInput(str(name), tuple(one.shape)[1:], str(one.dtype) == "string") for name, one in named]


def _targets(model: Any) -> list[Target] | None:
    given = _structure(model, "output", "outputs")
    if given is None or model.loss is None or _own(model, "train_step") or _own(model, "compute_loss"):
        return None
    if isinstance(given, dict):
        named = sorted(given.items())
    else:
        named = list(zip(getattr(model, "output_names", ()), leaves(given), strict=False)) or [("output", next(leaves(given)))]
    losses = _losses(model.loss, [name for name, _ in named], given)
    if losses is None or any(isinstance(one, (dict, tuple, list)) or loss is None for (_, one), loss in zip(named, losses, strict=True)):
        return None
    return [_target(str(name), tuple(one.shape)[1:], loss) for (name, one), loss in zip(named, losses, strict=True)]


def _losses(loss: Any, names: list[str], outputs: Any) -> list[Any] | None:
    """List the loss of each output, in the order of the names; None if that cannot be told."""
    if isinstance(loss, dict):
        return [loss[name] for name in names] if set(names) == set(loss) else None
    if isinstance(loss, (list, tuple)):
        return list(loss) if len(loss) == len(names) and not isinstance(outputs, dict) else None
    return [loss] * len(names)


def _target(name: str, shape: tuple[int | None, ...], loss: Any) -> Target:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    if isinstance(loss, str):
        with contextlib.suppress(ValueError):
            loss = keras.losses.get(loss)
    called = type(loss).__name__ if isinstance(loss, keras.losses.Loss) else getattr(loss, "__name__", "")
    rule = RULES.get(called) if getattr(keras.losses, called, None) in (loss, type(loss)) else None
    said = getattr(loss, "name", None) or called  # a class of the user's may be one of these with more to it
    sparse = rule == SPARSE or said == "sparse_categorical_crossentropy" or isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    axis = getattr(loss, "axis", -1)
    classes = shape[-1] if sparse and shape and axis in (-1, None) else None
    return Target(name, shape, rule if axis in (-1, None) else None, classes, getattr(loss, "ignore_class", None))


def _structure(model: Any, whole: str, flat: str) -> Any:
    """Return the inputs or outputs as they were given, or at least one after the other; None if the model has none that are known."""
    for name in (whole, flat):
        with contextlib.suppress(AttributeError, ValueError):  # a subclassed model, or a Sequential one
            found = getattr(model, name)
            if found is not None:
                return found
    return None


def _own(model: Any, method: str) -> bool:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    return getattr(type(model), method) is not getattr(keras.Model, method)


# Whether shapes go together, as Keras has it.


def _goes_in(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether the features of an example fit an input: a last axis of one is added or taken away."""
    if len(shape) == len(wanted) + 1 and shape[-1] in (1, None):
        shape = shape[:-1]
    elif len(shape) == len(wanted) - 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    return len(shape) == len(wanted) and all(a == b or a is None or b is None for a, b in zip(shape, wanted, strict=True))


def _labels_go(shape: tuple[int | None, ...], target: Target) -> bool:
    outputs = target.shape
    if target.rule == SPARSE:
        if len(shape) == len(outputs) and shape[-1:] in ((1,), (None,)):
            shape = shape[:-1]
        return len(shape) == len(outputs) - 1 and all(a == b or a is None or b is None for a, b in zip(shape, outputs, strict=False))
    if len(shape) == len(outputs) + 1 and shape[-1] in (1, None):
        shape = shape[:-1]
    elif len(shape) == len(outputs) - 1 and outputs[-1] in (1, None):
        outputs = outputs[:-1]
    spread = (1, None) if target.rule == ELEMENTWISE else (None,)
    return len(shape) == len(outputs) and all(a == b or a in spread or b in spread for a, b in zip(shape, outputs, strict=True))


def _labels_expected(target: Target) -> str:
    if target.rule == SPARSE:
        return f"its loss takes the number of a class, {_shown(target.shape[:-1])}: use CategoricalCrossentropy for one-hot labels"
    return f"the output has {_shown(target.shape)}, and its loss compares the two"


def _shown(shape: tuple[int | None, ...]) -> str:
    return str(tuple("any" if size is None else size for size in shape)).replace("'", "")


def _kind(text: bool) -> str:
    return "texts" if text else "numbers"


def _arrays(count: int) -> str:
    return "one array" if count == 1 else f"{count} arrays"
