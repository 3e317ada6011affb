"""Arrays that are given to `fit` and `evaluate`, in the clear: what is a label, what is held back for validation, what a class counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError

Given = SharedDataset | npt.ArrayLike
"""What a user gives: an array that is stored already, or one that is stored for it."""


@dataclass(frozen=True)
class GivenExamples:
    """Features, targets, and weights if there are any.

    Attributes:
        x: features; a shared array, or an array.
        y: targets; None for predictions.
        w: the weight of each example.
    """

    x: Any
    y: Any = None
    w: Any = None

    @property
    def arrays(self) -> dict[str, Any]:
        """Return those that are there, by name."""
        return {name: array for name, array in (("x", self.x), ("y", self.y), ("w", self.w)) if array is not None}

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
        count = len(self.x)
        at = math.floor(count * (1.0 - fraction))
        if not 0 < at < count:
            raise InputError(f"validation_split={fraction} of {count} examples leaves one part empty")
        first, last = ({name: array[part] for name, array in self.arrays.items()} for part in (slice(at), slice(at, None)))
        return GivenExamples(**first), GivenExamples(**last)


def examples(x: Given, y: Given, w: Given | None = None) -> GivenExamples:
    """Return what was given, with arrays as such and as many of each.

    Raises:
        InputError: they are not as many.
    """
    found = GivenExamples(*(one if one is None or isinstance(one, SharedDataset) else np.asarray(one) for one in (x, y, w)))
    counts = {name: array.shape[0] if array.shape else 0 for name, array in found.arrays.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{', '.join(f'{name} has {count}' for name, count in counts.items())} examples: they must be as many")
    if w is not None and not isinstance(w, SharedDataset):
        if found.w.reshape(-1).shape != (len(found.w),):
            raise InputError(f"sample_weight has shape {found.w.shape}: one number for each example is needed")
        return replace(found, w=found.w.reshape(-1, 1).astype(np.float64))
    return found


def parted(x: Given, y: Given, w: Given | None, held: Any, fraction: float) -> tuple[GivenExamples, GivenExamples | None]:
    """Return what is trained on, and what is looked at after each epoch.

    Args:
        x: features.
        y: targets.
        w: weights of examples.
        held: `validation_data`, or None.
        fraction: `validation_split`, or 0.

    Raises:
        InputError: both were given, or the data do not fit each other.
    """
    found = examples(x, y, w)
    if held is not None and fraction:
        raise InputError("validation_data= and validation_split= were given: one of them says what is looked at")
    if fraction:
        return found.split(fraction)
    return found, None if held is None else validation(held)


def validation(data: Any) -> GivenExamples:
    """Return what was given as `validation_data`: (x, y), or (x, y, sample_weight).

    Raises:
        InputError: it is something else.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise InputError("validation_data is a tuple (x, y), or (x, y, sample_weight)")
    return examples(*data)


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
