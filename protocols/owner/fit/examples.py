"""Arrays that are given to `fit` and `evaluate`, in the clear: what is a label, what is held back for validation, what a class counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError
from protocols.owner.fit.heads import Ends

Given = SharedDataset | npt.ArrayLike | Sequence[Any] | Mapping[str, Any]
"""What a user gives: an array that is stored already, or one that is stored for it; of several inputs or outputs one of each."""


@dataclass(frozen=True)
class GivenExamples:
    """Features, targets, and weights if there are any: shared arrays, or arrays, by what errors call them.

    Attributes:
        x: features of each input.
        y: targets of each output; none for predictions.
        w: the weight of each example; of several outputs for each of them, or once for all.
    """

    x: dict[str, Any]
    y: dict[str, Any] = field(default_factory=dict)
    w: dict[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, Any]:
        """Return all of them, by name."""
        return self.x | self.y | self.w

    def split(self, fraction: float) -> tuple[GivenExamples, GivenExamples]:
        """Return all but the last part, and that, as Keras divides them.

        Raises:
            InputError: an array is shared already, or one part is empty.
        """
        if not 0 < fraction < 1:
            raise InputError(f"validation_split={fraction}; a part between 0 and 1 is needed")
        shared = [name for name, array in self.arrays.items() if isinstance(array, SharedDataset)]
        if shared:
            raise InputError(
                f"validation_split={fraction} needs arrays, and {' and '.join(shared)} are shared already: share both parts, and give the"
                " second one as validation_data="
            )
        count = len(next(iter(self.x.values())))
        at = math.floor(count * (1.0 - fraction))
        if not 0 < at < count:
            raise InputError(f"validation_split={fraction} of {count} examples leaves one part empty")
        first, last = (
            GivenExamples(*({name: array[part] for name, array in arrays.items()} for arrays in (self.x, self.y, self.w)))
            for part in (slice(at), slice(at, None))
        )
        return first, last


def features(x: Given, takes: Ends) -> GivenExamples:
    """Return what was given for predictions.

    Raises:
        InputError: it has another structure than the inputs, or they are not as many.
    """
    return _as_many(GivenExamples(_apart("x", x, takes)))


def examples(x: Given, y: Given, w: Given | None, takes: Ends, gives: Ends) -> GivenExamples:
    """Return what was given, with arrays as such and as many of each.

    Args:
        x: features.
        y: targets.
        w: weights of the examples; of several outputs one array for all, or one for each.
        takes: the inputs of the model.
        gives: its outputs.

    Raises:
        InputError: they have another structure, or are not as many.
    """
    several = isinstance(w, list | tuple | Mapping) and gives.several
    weights = {} if w is None else _apart("w", w, gives) if several else {"w": _array("w", w)}
    found = _as_many(GivenExamples(_apart("x", x, takes), _apart("y", y, gives), weights))
    for name, array in found.w.items():
        if isinstance(array, SharedDataset):
            continue
        if array.reshape(-1).shape != (len(array),):
            of = name.removeprefix("w")
            raise InputError(f"sample_weight{of and f' of{of}'} has shape {array.shape}: one number for each example is needed")
        found.w[name] = array.reshape(-1, 1).astype(np.float64)
    return found


def _as_many(found: GivenExamples) -> GivenExamples:
    counts = {name: array.shape[0] if array.shape else 0 for name, array in found.arrays.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{', '.join(f'{name} has {count}' for name, count in counts.items())} examples: they must be as many")
    return found


def _apart(what: str, given: Any, ends: Ends) -> dict[str, Any]:
    """Return what was given for each input or output, in their order.

    Raises:
        InputError: it is not one array for each, in the structure in which the model has them.
    """
    if not ends.several and not isinstance(given, Mapping):
        alone = isinstance(given, list | tuple) and len(given) == 1 and isinstance(given[0], np.ndarray | SharedDataset)
        return {what: _array(what, given[0] if alone else given)}
    names = list(ends.names)
    shown = f"one array for each of {names} is needed, in a {ends.kind or 'dict'}, as the model has them"
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise InputError(f"{what} has the names {sorted(map(str, given))}: {shown}")
        arrays = [given[name] for name in names]
    elif ends.kind == "dict" or not isinstance(given, list | tuple) or len(given) != len(names):
        raise InputError(f"{what} is a {type(given).__name__}: {shown}")
    else:
        arrays = list(given)
    if not ends.several:
        return {what: _array(what, arrays[0])}
    return {f"{what} {name!r}": _array(f"{what} {name!r}", array) for name, array in zip(names, arrays, strict=True)}


def _array(name: str, given: Any) -> Any:
    if given is None or isinstance(given, Mapping):
        raise InputError(f"{name} is {'missing' if given is None else 'a dict'}: an array is needed")
    return given if isinstance(given, SharedDataset) else np.asarray(given)


def parted(
    x: Given, y: Given, w: Given | None, held: Any, fraction: float, ends: tuple[Ends, Ends]
) -> tuple[GivenExamples, GivenExamples | None]:
    """Return what is trained on, and what is looked at after each epoch.

    Args:
        x: features.
        y: targets.
        w: weights of examples.
        held: `validation_data`, or None.
        fraction: `validation_split`, or 0.
        ends: the inputs of the model, and its outputs.

    Raises:
        InputError: both were given, or the data do not fit each other.
    """
    found = examples(x, y, w, *ends)
    if held is not None and fraction:
        raise InputError("validation_data= and validation_split= were given: one of them says what is looked at")
    if fraction:
        return found.split(fraction)
    return found, None if held is None else validation(held, ends)


def validation(data: Any, ends: tuple[Ends, Ends]) -> GivenExamples:
    """Return what was given as `validation_data`: (x, y), or (x, y, sample_weight).

    Raises:
        InputError: it is something else.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise InputError("validation_data is a tuple (x, y), or (x, y, sample_weight)")
    x, y, *weights = data
    return examples(x, y, weights[0] if weights else None, *ends)


def targets(y: npt.NDArray[Any], expected: str) -> npt.NDArray[Any]:
    """Return targets in the form in which they are stored, so that Keras' loss means the same by them.

    Args:
        y: as given.
        expected: what the loss compares with, see `compiled_loss.expects`.

    Raises:
        InputError: labels are none.
    """
    if expected != "labels":
        return y.reshape(len(y), -1).astype(np.float64)
    labels = y.reshape(-1)
    if labels.shape != (len(y),) or (labels != np.floor(labels)).any():
        raise InputError(f"y has shape {y.shape} and dtype {y.dtype}: the loss needs one whole number an example")
    return labels.astype(np.int64)


def class_weights(given: Mapping[int, float], outputs: int, *, of_labels: bool) -> tuple[float, ...]:
    """Return the weight of each class: 1 for those that are not named, as in Keras.

    Args:
        given: by class.
        outputs: of the model.
        of_labels: whether each target is of one class.

    Raises:
        InputError: a class does not exist, or targets have none.
    """
    classes = max(outputs, 2)
    if not of_labels:
        raise InputError("class_weight needs targets of one class each: labels, one-hot rows, or one column of 0 and 1")
    wrong = [key for key in given if key not in range(classes)]
    if wrong:
        raise InputError(f"class_weight names the classes {wrong}, and there are those from 0 to {classes - 1}")
    return tuple(float(given.get(index, 1.0)) for index in range(classes))
