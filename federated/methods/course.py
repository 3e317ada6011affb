"""What a method of local training is given, and what it gives: it knows no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from federated.errors import UpdateHeldBack
from federated.tasks.update import Array, Setting, Weights

Named = Mapping[str, Weights]


@dataclass(frozen=True)
class Fitted:
    """What came of passes over an owner's data.

    Attributes:
        weights: after them, all of the model's, in its order.
        steps: of the optimizer.
    """

    weights: Weights
    steps: int


@dataclass(frozen=True)
class Optimizing:
    """How an owner's optimizer steps, where that is plain gradient descent.

    Attributes:
        rate: the learning rate, above 0.
        momentum: in [0, 1); 0 for none.
    """

    rate: float
    momentum: float = 0.0


class Course(Protocol):
    """The training of one owner in one round, as its framework does it.

    Attributes:
        weights: the global ones, all of the model's; not to be changed.
        trained: of each of them, whether it is trained.
        sent: of each of them, whether rounds may change it: no owner has the others for itself.
        layers: of each of them, the name of its layer, and the name of that layer's class.
        config: what the strategy says.
        arrays: what the strategy gives, by name.
        state: what this owner remembers of the run; what is put in there is kept.
    """

    weights: Weights
    trained: tuple[bool, ...]
    sent: tuple[bool, ...]
    layers: tuple[tuple[str, str], ...]
    config: Mapping[str, Setting]
    arrays: Named
    state: dict[str, Any]

    def fit(self, start: Weights, *, linear: Weights | None = None, proximal: float = 0.0) -> Fitted:
        """Make the passes that were asked for.

        Args:
            start: the weights with which they begin, all of the model's.
            linear: what is added to the gradient of each of the trained weights; None: nothing.
            proximal: mu; mu (w - w_global) is added to these gradients, with the global weights.
        """

    def loss(self, weights: Weights) -> float:
        """Return the loss of weights on the data to train on, without training.

        Args:
            weights: all of the model's.
        """

    def descent(self) -> Optimizing | None:
        """Return how its optimizer steps; None if that is not plain gradient descent at a constant rate."""


@dataclass(frozen=True)
class Contribution:
    """What a method gives.

    Attributes:
        delta: for each of the weights.
        extra: what the strategy asks for beside, by name.
    """

    delta: Weights
    extra: Named = field(default_factory=dict)


class Method(Protocol):
    """One way to train.

    Attributes:
        name: as tasks call it.
        personal: whether an owner evaluates weights of its own, see `own`.
    """

    name: ClassVar[str]
    personal: ClassVar[bool]

    def run(self, course: Course) -> Contribution:
        """Train in one round.

        Raises:
            UpdateHeldBack: the owner's model or optimizer is none for which this method is right; or what is asked makes no sense.
        """

    def own(self, course: Course) -> Weights:
        """Return the weights that this owner evaluates."""


def of_trained(course: Course, arrays: Weights) -> Weights:
    """Return those that belong to trained weights, in float64."""
    return [array.astype(np.float64) for array, moves in zip(arrays, course.trained, strict=True) if moves]


def added(after: Weights, before: Weights) -> Weights:
    """Return what was added to each; nothing to integers."""
    return [a - b if b.dtype.kind == "f" else np.zeros_like(b) for a, b in zip(after, before, strict=True)]


def remembered(course: Course, name: str, like: Weights) -> Weights:
    """Return arrays that this owner remembers, or zeros in the first round.

    Raises:
        UpdateHeldBack: they are of another form: of another model.
    """
    known = course.state.get(name)
    if known is None:
        return [np.zeros(array.shape) for array in like]
    if [np.shape(array) for array in known] != [array.shape for array in like]:  # what has no dimensions is kept as a number
        raise UpdateHeldBack("what this owner remembers of the run is of another model: begin another run")
    return [np.asarray(array) for array in known]


def given(course: Course, name: str, like: Weights) -> Weights:
    """Return arrays that the strategy gives.

    Raises:
        UpdateHeldBack: it gives none, or of other shapes.
    """
    arrays = course.arrays.get(name)
    if arrays is None or [array.shape for array in arrays] != [array.shape for array in like]:
        raise UpdateHeldBack(f"this owner was asked to train with arrays {name!r} of the shapes of the trained weights, and given others")
    return [array.astype(np.float64) for array in arrays]


def number(course: Course, name: str, *, above: float | None = None, least: float | None = None) -> float:
    """Return a number that the strategy says.

    Raises:
        UpdateHeldBack: it says none, or one that is out of range.
    """
    value = course.config.get(name)
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    if not real or (above is not None and not value > above) or (least is not None and not value >= least):  # type: ignore[operator]
        bound = f"above {above:g}" if above is not None else f"at least {least:g}"
        raise UpdateHeldBack(f"this owner was asked to train with a setting {name!r} that is no number, or out of range: {bound} is needed")
    return float(value)  # type: ignore[arg-type]


def plain_descent(course: Course, method: str, *, momentum: bool = False) -> Optimizing:
    """Return how the optimizer steps, where a method is right for gradient descent only.

    Raises:
        UpdateHeldBack: it steps otherwise.
    """
    found = course.descent()
    if found is None or (found.momentum and not momentum) or not found.rate > 0:
        also = ", with or without momentum" if momentum else " without momentum"
        raise UpdateHeldBack(
            f"{method} is derived for stochastic gradient descent at a constant rate{also}, and this model is compiled with another "
            "optimizer: compile it with that, or use another strategy"
        )
    return found


def flat(array: Array | float) -> Array:
    """Return one number as an array, as strategies ask for it."""
    return np.asarray(array, np.float64)
