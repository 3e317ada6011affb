"""Whether a copy of a model does what the model does: its outputs, its loss and a step of its training, on a few made-up examples.

What a configuration says of Keras' own classes is known to be all of it; so only models are tried that have a class of the user's in them.
"""

from __future__ import annotations

import contextlib
import logging
import random  # noqa: TID251  its state is kept and put back; nothing here is secret
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.models.labels import Labels, classes, classes_in_columns, like
from federated.models.weights import Statistics
from federated.tasks.update import Array
from privacy.keras_models import internals
from privacy.keras_models.settings import Difference, is_own

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

SIDES = (8, 64)
"""Lengths of a dimension that is not known; the second where the first is too little for a model."""
FEW = 2
"""Made-up examples."""
CHEAP = 64
"""Weights up to which a step is made in any case. With more, whose gradients take longer than building the copy, it is only where a class
of the user's has to do with the step, and not with outputs and loss alone."""
NEAR = 1e-4
"""How far values may differ by rounding, as a share of the largest; a hundred times that where a layer computes in 16 bits."""

Batch = tuple[Any, ...]
LIKELY: tuple[Labels, ...] = (like, partial(classes, count=2), partial(classes_in_columns, count=2))
"""Forms of labels, in the order in which they are tried."""


def computed(model: keras.Model, copy: keras.Model) -> Iterator[Difference]:
    """Yield what a copy computes otherwise than the model: outputs in inference, the loss in training, and the weights after a step.

    The step is that of the class of the model, by an optimizer that has its state apart; metrics take no part in it. Seeds of layers, and
    the common ones of Keras, Python and NumPy, are the same for both. Where the model, run twice, does not give the same, it draws by
    chance in a way that nobody can seed (TensorFlow's own generators), and its values are not compared. Nor are they where no examples can
    be made up: inputs of unknown shape, or ones, or labels, that the model itself fails at.

    Args:
        model: compiled. Its weights, its optimizer, its metrics and its seeds stay as they are.
        copy: compiled, with as many weights. They become those of the model; the copy is of no use afterwards.
    """
    if not _has_own(model):
        return
    copy.set_weights(model.get_weights())
    Statistics(copy).compute(model.get_weights())
    with _untouched(model), np.errstate(all="ignore"):
        vars(copy).update(internals.compile_apart(copy))
        trial, rng = _Trial(model, copy), np.random.default_rng(0)
        for side in SIDES:
            x = _inputs(model, rng, side)
            outputs = None if x is None else trial.tried(_inference, x)
            if outputs is not None:
                break
        else:
            log.debug("the model is not compared with its copy: no examples of its inputs can be made up")
            return
        yield from trial.compared("what it gives in inference", _inference, x, outputs)
        work, what = (
            (_step, "its loss, or its weights, after a step of training")
            if _is_stepped(model)
            else (_loss, "what it gives in training, or its loss")
        )
        for labels in LIKELY:
            batch = (x, _labels(model, labels, rng, outputs))
            here = trial.tried(work, batch)
            if here is not None:
                yield from trial.compared(what, work, batch, here)
                return
        here = trial.tried(_training, x)  # labels that the loss takes cannot be made up
        if here is not None:
            yield from trial.compared("what it gives in training", _training, x, here)


class _Trial:
    """Runs a model and its copy from the same start."""

    def __init__(self, model: keras.Model, copy: keras.Model) -> None:
        self._model, self._copy = model, copy
        self._start = [np.array(variable) for variable in model.variables]
        self._optimizers = {id(one): (one.optimizer, [np.array(v) for v in one.optimizer.variables]) for one in (model, copy)}
        exact = all(
            str(getattr(layer, "compute_dtype", "float32")) not in ("float16", "bfloat16") for layer in internals.layers_within(model)
        )
        self._near = NEAR if exact else 100 * NEAR

    def _run(self, one: keras.Model, work: Callable[[Any, Any], list[Array]], given: Any) -> list[Array]:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        for variable, value in zip(one.variables, self._start, strict=False):
            variable.assign(value)
        if work is _step:
            optimizer, state = self._optimizers[id(one)]
            for variable, value in zip(optimizer.variables, state, strict=True):
                variable.assign(value)
        internals.put_common_seed(keras.random.SeedGenerator(1))
        random.seed(1)
        np.random.seed(1)
        return work(one, given)

    def tried(self, work: Callable[[Any, Any], list[Array]], given: Any) -> list[Array] | None:
        """Return what comes of it with the model; None if it fails."""
        try:
            return self._run(self._model, work, given)
        except Exception:  # whatever a model raises for examples that mean nothing to it
            log.debug("made-up examples do not fit", exc_info=True)
            return None

    def compared(self, what: str, work: Callable[[Any, Any], list[Array]], given: Any, here: list[Array]) -> Iterator[Difference]:
        """Yield the difference to the copy, if there is one."""
        whose, kind = f"model {self._model.name!r}", "each class of your own"
        try:
            there = self._run(self._copy, work, given)
        except Exception as error:
            log.warning("the copy of the model fails where the model does not", exc_info=True)
            yield Difference(whose, kind, what, "there", f"an error ({type(error).__name__}, see the log)")
            return
        far = self._apart(here, there)
        if far is None:
            return
        again = self.tried(work, given)
        if again is not None and self._apart(here, again) is None:
            yield Difference(whose, kind, what, "something", f"another by {far}")

    def _apart(self, here: list[Array], there: list[Array]) -> str | None:
        if [one.shape for one in here] != [one.shape for one in there]:
            return "its shapes"
        for one, other in zip(here, there, strict=True):
            if one.dtype.kind not in "fiub":
                if not np.array_equal(one, other):
                    return "its texts"
                continue
            a, b = one.astype(np.float64), other.astype(np.float64)
            scale = float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0))
            if not np.allclose(a, b, rtol=self._near, atol=self._near * scale + 1e-12, equal_nan=True):
                return f"up to {np.nanmax(np.abs(a - b)):.3g}"
        return None


# What is run.


def _inference(model: keras.Model, x: Any) -> list[Array]:
    return _flat(internals.outputs_of(model, x, training=False))


def _training(model: keras.Model, x: Any) -> list[Array]:
    return _flat(internals.outputs_of(model, x, training=True))


def _loss(model: keras.Model, batch: Batch) -> list[Array]:
    x, y = batch
    outputs = internals.outputs_of(model, x, training=True)
    return [*_flat(outputs), *_flat(internals.loss_of(model, x=x, y=y, y_pred=outputs, sample_weight=None))]


def _step(model: keras.Model, batch: Batch) -> list[Array]:
    import tensorflow as tf  # noqa: PLC0415  is loaded already: there is a model

    logs = model.train_step(tf.nest.map_structure(tf.convert_to_tensor, batch))
    return [*_flat({name: logs[name] for name in sorted(logs)}), *(np.array(weight) for weight in model.weights)]


def _flat(nest: Any) -> list[Array]:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    return [np.array(keras.ops.convert_to_numpy(one)) for one in keras.tree.flatten(nest) if one is not None]


# Examples.


def _inputs(model: keras.Model, rng: np.random.Generator, side: int) -> Any:
    """Made-up inputs in the form in which the model takes them; None if nothing is known of them."""
    import tensorflow as tf  # noqa: PLC0415  is loaded already: there is a model

    given = internals.inputs_as_given(model)
    if given is None:
        return _of_shape(model, rng, side)
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    return tf.nest.map_structure(lambda one: _values(rng, tuple(one.shape), str(one.dtype), side), given)


def _of_shape(model: keras.Model, rng: np.random.Generator, side: int) -> Any:
    shape = (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, (tuple, list)) or not all(one is None or isinstance(one, int) for one in shape):
        return None
    return _values(rng, tuple(shape), str(model.input_dtype), side)


def _values(rng: np.random.Generator, shape: tuple[int | None, ...], dtype: str, side: int) -> Any:
    import tensorflow as tf  # noqa: PLC0415  is loaded already: there is a model

    whole = (shape[0] or FEW, *(one or side for one in shape[1:]))
    if dtype == "string":
        return tf.convert_to_tensor(np.full(whole, "a"))
    if "float" in dtype:
        return tf.convert_to_tensor(
            rng.uniform(0, 1, whole).astype(np.float32) if dtype == "bfloat16" else rng.uniform(0, 1, whole).astype(dtype)
        )
    return tf.cast(tf.convert_to_tensor(rng.integers(0, 2, whole)), dtype)


def _labels(model: keras.Model, labels: Labels, rng: np.random.Generator, outputs: list[Array]) -> Any:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    made = [labels(rng, one) for one in outputs]
    form = internals.outputs_as_given(model)
    if form is None:
        return made[0] if len(made) == 1 else made
    return keras.tree.pack_sequence_as(form, made)


# Leaving no trace.


def _has_own(model: keras.Model) -> bool:
    """Whether any class of what a model is made of, and trained by, is the user's."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    layers = internals.layers_within(model)
    parts = [*layers, *(getattr(layer, "activity_regularizer", None) for layer in layers)]
    parts += [*keras.tree.flatten(internals.compile_arguments(model).get("loss")), *(weight.regularizer for weight in model.weights)]
    return _has_own_step(model) or any(is_own(type(one)) for one in parts if one is not None)


def _has_own_step(model: keras.Model) -> bool:
    """Whether the class of the model, its optimizer, its schedule or a constraint is the user's."""
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    parts = [model, model.optimizer, inner, internals.learning_rate(inner), *(weight.constraint for weight in model.weights)]
    return any(is_own(type(one)) for one in parts if one is not None)


def _is_stepped(model: keras.Model) -> bool:
    return len(model.weights) <= CHEAP or _has_own_step(model)


@contextlib.contextmanager
def chance_kept() -> Iterator[None]:
    """Whatever the block draws, Python's, NumPy's and Keras' common generators are afterwards as they were."""
    states, seed = (random.getstate(), np.random.get_state()), internals.common_seed()
    value = None if seed is None else np.array(seed.state)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        internals.put_common_seed(seed)
        if seed is not None:
            seed.state.assign(value)


@contextlib.contextmanager
def _untouched(model: keras.Model) -> Iterator[None]:
    """Set the optimizer's state apart and give losses that have seen no labels; restore the model afterwards."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    optimizer = model.optimizer
    losses = [one for one in keras.tree.flatten(model.loss) if is_own(type(one)) and hasattr(one, "__dict__")]
    variables = list({id(one): one for one in [*model.variables, *optimizer.variables]}.values())
    kept = [(variable, np.array(variable)) for variable in variables]
    touched = [*internals.layers_within(model), optimizer, *losses]
    attributes = [(vars(one), dict(vars(one))) for one in {id(one): one for one in touched}.values()]
    try:
        twin = internals.optimizer_apart(optimizer)
        if _is_stepped(model):
            twin.build(model.trainable_variables)
        vars(model).update({"optimizer": twin} | internals.compile_apart(model))
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        internals.forget_losses(model)
        for variable, value in kept:
            variable.assign(value)
