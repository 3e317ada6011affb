"""Whether a compiled loss is one that a private step can take apart: a mean, or a sum, over the examples of a batch.

A private step has the gradient of each example's loss, that of a batch of it alone, and clips it. The mean of these is the gradient of the
compiled loss only where

    loss([a, b, ...], w) = mean_i w_i loss([i])        (their sum with reduction="sum")

which is tried here on made-up targets and outputs, for values and for gradients by the outputs. Losses of a whole batch (Dice, Tversky,
Circle, the root of a mean, what compares pairs of examples or divides by a statistic of the batch) would be trained as other losses.

Labels that do not count, by `ignore_class` or a mask, are the one exception: Keras divides by how many count in the batch, a value of all
examples. In a private step the loss of an example is divided by how many of its own count, as in a batch of it alone (see `losses.py`).
So made-up labels all count.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from privacy.keras_models import internals
from privacy.keras_models.asks import reductions
from privacy.rules.losses import aligned, known

Tensor = Any  # tf.Tensor; TensorFlow has no types
Random = np.random.Generator

SIZES: Final = (2, 3, 7)
"""Of the batches that are compared with their examples."""
SPREAD: Final = np.array([0.3, 3.0, 1.0, 0.5, 2.0, 0.2, 1.5], np.float32)
"""Of the outputs of each example: if all were alike, the root of a mean of many would be the mean of their roots."""
LARGE: Final = 1 << 20
"""From so many outputs of an example on, batches have 3 examples at most, and the first kind that shows something is the last."""
KINDS: Final = ("classes and probabilities", "numbers", "classes and logits", "parts of one")
"""What targets and outputs are made of. No loss is for all of them; it has to show something for one."""
ALIKE: Final = 1e-4
"""How far losses may be apart, as a part of the largest: what another order of float32 operations makes of them."""
NEAR: Final = 1e-3
"""How far gradients may be apart, as a part of the largest."""


def objection(model: keras.Model, targets: Any, outputs: Any, *, weighted: bool) -> str | None:
    """Tell why a private step would train another loss than the compiled one, or None.

    Args:
        model: compiled.
        targets: a nest of `tf.TensorSpec`; the first axis is that of the examples.
        outputs: of the model, a nest of tensors; their number of examples does not count.
        weighted: whether the examples will have weights.
    """
    if not tf.nest.is_nested(targets) and not tf.nest.is_nested(outputs):
        loss = known(model)
        if loss is not None and aligned(loss, targets, outputs):
            return None
    large = sum(math.prod(one.shape[1:]) for one in tf.nest.flatten(outputs)) >= LARGE
    sizes = SIZES[:2] if large else SIZES
    count, ignored, shown, raised = sizes[-1], _ignored(model), False, ""
    for number, kind in enumerate(KINDS):
        random = np.random.default_rng(number)
        p = tf.nest.map_structure(lambda one, kind=kind, random=random: _outputs(one, count, kind, random), outputs)
        y = tf.nest.map_structure(lambda one, kind=kind, random=random: _targets(one, outputs, count, kind, random, ignored), targets)
        w = tf.constant(random.uniform(0.2, 2.0, count), tf.float32)
        try:
            alone = [_LossRun(model, y, p, slice(i, i + 1)) for i in range(count)]
        except _Raised as error:
            raised = str(error)
            continue
        for size in sizes:
            for weights in (None, w[:size]) if weighted and size == count else (None,):
                try:
                    whole = _LossRun(model, y, p, slice(size), weights)
                except _Raised as error:
                    if weights is not None:
                        continue  # Keras has no weights for it: values of many axes. A private step weighs the loss of each example
                    return (
                        f"on made-up targets and outputs ({_shapes(y, p)}) it gives each example a loss, and raises {error} for {size} "
                        "of them together: targets of the shape that the loss takes are needed"
                    )
                with np.errstate(invalid="ignore", over="ignore"):  # of infinite ones
                    why = whole.unlike(alone[:size], weights, is_sum=reductions(model) == {"sum"})
                if why is not None:
                    return why
                shown |= whole.informative
        if large and shown:
            break
    if shown:
        return None
    return (
        f"on all made-up targets and outputs that were tried ({_shapes(y, p)}) it "
        f"{f'raises {raised}' if raised else 'has no finite gradient other than 0'}, so that nobody knows whether it is a mean over "
        "examples: targets of the shape that the loss takes, as numbers and not as texts, are needed"
    )


class _Raised(Exception):
    """What a loss has raised on made-up values: the name of its class, for the text is not ours."""


class _LossRun:
    """The compiled loss of some rows of made-up targets and outputs, and its gradients by the outputs."""

    def __init__(self, model: keras.Model, y: Any, p: Any, rows: slice, weights: Tensor | None = None) -> None:
        y, p = tf.nest.map_structure(lambda one: one[rows], (y, p))
        given = [one for one in tf.nest.flatten(p) if one.dtype.is_floating]
        with keras.StatelessScope(), tf.GradientTape() as tape:  # a model of several outputs keeps a metric of each loss
            tape.watch(given)
            try:
                loss = internals.compiled_loss(model, y, p, weights)
            except Exception as error:  # a loss may raise anything on what it is not made for
                raise _Raised(type(error).__name__) from error
        self.value = np.asarray(loss, np.float64)
        found = tape.gradient(loss, given, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self.gradients = [np.asarray(tf.convert_to_tensor(one), np.float64) for one in found]
        self.paths = ["/".join(map(str, path)) for path, one in keras.tree.flatten_with_path(p) if one.dtype.is_floating]
        read = {id(variable) for variable in tape.watched_variables()}
        self.weights = [variable.path for variable in model.trainable_variables if id(variable.value) in read]

    @property
    def informative(self) -> bool:
        """Whether anything can be learnt from it: a gradient that is finite and not 0, of any example."""
        return any(one[np.isfinite(one)].any() for one in self.gradients)

    def unlike(self, alone: list[_LossRun], weights: Tensor | None, *, is_sum: bool) -> str | None:
        """Why this, of a batch, is not the mean (or sum) of its examples, or None."""
        if self.weights:
            return f"it reads the weight {self.weights[0]}, whose part of the gradient no example has: use a regularizer of that weight"
        if self.value.shape:
            return f"it is of shape {self.value.shape}: one number for a batch is needed"
        w = np.ones(len(alone)) if weights is None else np.asarray(weights, np.float64)
        values = w * [float(one.value) for one in alone]
        if _apart(self.value, values.sum() if is_sum else values.mean(), np.abs(values).max(), ALIKE):
            return self._told(values, is_sum=is_sum, weighted=weights is not None)
        for index, (path, mine) in enumerate(zip(self.paths, self.gradients, strict=True)):
            shape = (-1,) + (1,) * (mine.ndim - 1)
            theirs = np.concatenate([one.gradients[index] for one in alone]) * w.reshape(shape) / (1 if is_sum else len(alone))
            if _apart(mine, theirs, np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0), NEAR):
                what = f"for output {path!r} " if len(self.paths) > 1 else ""
                return f"its gradient {what}is another one for {len(alone)} made-up examples together than for each of them alone{HINT}"
        return None

    def _told(self, values: Any, *, is_sum: bool, weighted: bool) -> str:
        kind, expected = ("sum", values.sum()) if is_sum else ("mean", values.mean())
        text = (
            f"of {len(values)} made-up examples{' with weights' if weighted else ''} it makes {float(self.value):.6g}, while the {kind} of "
            f"the loss of each of them alone is {expected:.6g}"
        )
        if not is_sum and not _apart(self.value, values.sum(), np.abs(values).max(), ALIKE):
            return f"{text}: it is a sum over the batch; return a value for each example, and say reduction='sum' if a sum is meant"
        return text + HINT


HINT: Final = (
    ": it looks at a whole batch, and a private step needs a loss of each example; return one value for each (a mean over all axes but the "
    "first), or use another loss"
)


def _apart(a: Any, b: Any, largest: float, tolerance: float) -> bool:
    """Whether numbers are different beyond rounding; where both are not finite nothing is told, where one of them is, they are."""
    a, b = np.broadcast_arrays(a, b)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return True
    both = np.isfinite(a)
    return bool((np.abs(a[both] - b[both]) > tolerance * largest + 1e-9).any())


def _outputs(spec: Any, count: int, kind: str, random: Random) -> Tensor:
    """(count, ...) outputs as a model may have them."""
    shape = (count, *spec.shape[1:])
    if not spec.dtype.is_floating:
        return tf.cast(random.integers(0, 2, shape), spec.dtype)
    numbers = random.standard_normal(shape, np.float32) * np.reshape(SPREAD[:count], (count,) + (1,) * (len(shape) - 1))
    if kind in ("classes and probabilities", "parts of one"):
        exponents = np.exp(numbers)
        wide = len(shape) > 1 and shape[-1] > 1
        numbers = exponents / exponents.sum(-1, keepdims=True) if wide else exponents / (1 + exponents)
    return tf.cast(numbers, spec.dtype)


def _targets(spec: Any, outputs: Any, count: int, kind: str, random: Random, ignored: Collection[int]) -> Tensor:
    """(count, ...) targets: numbers of classes where there is a whole number, one of several at 1, or any numbers."""
    shape = (count, *spec.shape[1:])
    if spec.dtype == tf.bool:
        return tf.constant(random.integers(0, 2, shape).astype(bool))
    if spec.dtype.is_floating and kind in ("numbers", "parts of one"):
        numbers = random.normal(size=shape) if kind == "numbers" else random.uniform(0.05, 0.95, shape)
        return tf.cast(numbers, spec.dtype)
    shapes = [tuple(one.shape[1:]) for one in tf.nest.flatten(outputs)]
    if spec.dtype.is_floating and shape[1:] in shapes and len(shape) > 1 and shape[-1] > 1:
        return tf.cast(np.eye(shape[-1])[random.integers(0, shape[-1], shape[:-1])], spec.dtype)
    several = [one[-1] for one in shapes if one and one[:-1] in (shape[1:], shape[1:-1] if shape[-1] == 1 else None)]
    classes = max([2, *several]) if kind == "classes and logits" else 2
    counted = [one for one in range(classes) if one not in ignored] or [classes]
    labels = np.array(counted)[random.integers(0, len(counted), shape)]
    return tf.strings.as_string(tf.constant(labels)) if spec.dtype == tf.string else tf.cast(labels, spec.dtype)


def _ignored(model: keras.Model) -> set[int]:
    """Return the labels that do not count, of any loss."""
    losses = [keras.losses.get(one) for one in keras.tree.flatten(model.loss) if one is not None]
    return {int(one.ignore_class) for one in losses if getattr(one, "ignore_class", None) is not None}


def _shapes(y: Any, p: Any) -> str:
    def told(nest: Any) -> str:
        return ", ".join(f"{one.dtype.name} ({', '.join(map(str, ('N', *one.shape[1:])))})" for one in tf.nest.flatten(nest))

    return f"targets {told(y)}, outputs {told(p)}"


def named(model: keras.Model) -> str:
    """How a refusal calls the compiled loss."""
    losses = [one for one in keras.tree.flatten(model.loss) if one is not None]
    names = [
        one if isinstance(one, str) else getattr(one, "__name__", None) or type(one).__name__  # a function, or an object
        for one in losses
    ]
    return f"{'its loss' if len(names) == 1 else 'one of its losses'} ({', '.join(names)})"
