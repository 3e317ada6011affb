"""A compiled Keras model as text, and back. Nothing in it is run: lambdas and unregistered classes are refused (Keras' safe mode)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import ModelRefused
from federated.models import adapters
from federated.models.likeness import chance_kept, computed
from federated.models.weights import check_dtypes
from federated.tasks.update import Blueprint
from privacy.keras_models import internals
from privacy.keras_models.asks import lost
from privacy.keras_models.settings import Difference, differences

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

LARGEST = 1 << 27
"""Weights that a model may have, if nobody says otherwise: 512 MiB of float32."""
STATES = 4
"""Variables that a model and its optimizer may have for each weight that is allowed."""
STEPS_AT_ONCE = 1000
"""Largest `steps_per_execution`: training can be stopped between executions only."""
MOST_TOLD = 8
"""Differences of a model and its copy that are told."""
REFERENCES = frozenset({"name", "shared_object_id", "keras_history", "input_layers", "output_layers", "layer_name"})
"""Keys of a blueprint below which there are names, or what else is made up anew in each process."""


def draw(model: keras.Model) -> Blueprint:
    """Draw the blueprint of a model. Check that it can be built from it.

    Raises:
        ModelRefused: the model is not compiled, not built, has weights that can neither be averaged nor kept, cannot be written as JSON, or
            says something that its configuration does not.
    """
    if not getattr(model, "compiled", False):
        raise ModelRefused(f"model {model.name!r} is not compiled: owners need its optimizer and loss; call model.compile(...)")
    if not model.built:
        raise ModelRefused(f"model {model.name!r} has no weights yet: give it an Input layer, or call model.build(...)")
    check_dtypes(model)
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    try:
        architecture = json.dumps(keras.saving.serialize_keras_object(model), separators=(",", ":"))  # it travels in each task
        blueprint = Blueprint(architecture, json.dumps(model.get_compile_config()), adapters.said(model))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelRefused(f"model {model.name!r} cannot be written as JSON: {error}") from error
    with chance_kept():
        _check_copy(model, lambda: build(blueprint, largest=math.inf))  # one's own model may be as large as one likes
    return blueprint


def _check_copy(model: keras.Model, made: Callable[[], keras.Model]) -> None:
    """Refuse a model of which a copy, built as an owner builds it, is not the same.

    Attributes that are others in a second copy, too, are no settings: an hour, a number of one's own. What they do is computed.

    Raises:
        ModelRefused: naming what is another, in the model and in its copy.
    """
    copy = made()
    missing = lost(model, copy)
    if missing:
        raise ModelRefused(
            f"model {model.name!r} says {', '.join(missing)}, which its configuration does not: owners would not know; say it to the "
            f"constructors of its layers and its optimizer, or in a class that is registered at every owner"
        )
    found = list(differences(model, copy))
    if found:
        varying = {(one.whose, one.what) for one in differences(copy, made())}
        found = [one for one in found if (one.whose, one.what) not in varying]
    found = found or list(computed(model, copy))
    if found:
        told = "".join(f"\n  {one}: {_remedy(one)}" for one in found[:MOST_TOLD])
        raise ModelRefused(f"model {model.name!r} would be another at its owners, who build it from its configuration:{told}")


def _remedy(difference: Difference) -> str:
    if difference.what.startswith("its method"):
        return "write it into a class, and register that with keras.saving.register_keras_serializable() at every owner"
    if not difference.own:
        return "say it to its constructor; what was learnt or set afterwards does not travel"
    return (
        f"write a get_config() for {difference.kind} that says all that its constructor needs, and register it with "
        "keras.saving.register_keras_serializable() at every owner"
    )


def blueprint_digest(model: keras.Model) -> str:
    """Return the digest by which `Policy(models=...)` knows a compiled model, in every process that builds it in the same way.

    Its layers, loss, metrics and optimizer with all their settings; not its weights, and not the names of its layers.

    Raises:
        ModelRefused: the model cannot be sent to owners, see `draw`.

    Example:
        >>> blueprint_digest(build_model())  # doctest: +SKIP
        '5f1c...'
    """
    return digest(draw(model))


@lru_cache(maxsize=16)
def digest(blueprint: Blueprint) -> str:
    """SHA-256, in hexadecimal digits, of a blueprint whose names are numbers."""
    try:
        beside = [json.loads(blueprint.adapters)] if blueprint.adapters else []
        plan = _numbered([json.loads(blueprint.architecture), json.loads(blueprint.compilation), *beside])
    except (ValueError, RecursionError):
        raise ModelRefused("the blueprint is no JSON, or nested too deeply") from None
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def build(blueprint: Blueprint, *, largest: float = LARGEST) -> keras.Model:
    """Build a compiled model with fresh weights, and with the state of its optimizer.

    Args:
        blueprint: of the model.
        largest: weights that it may have. They are counted before there is memory for them.

    Raises:
        ModelRefused: the blueprint has code, or a class that is not known here, or is no model, or one with more weights. The message has
            no text of others; that is in the log.
    """
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    kind = ""
    try:
        with _counted(largest):
            model: Any = keras.saving.deserialize_keras_object(_uncompiled(json.loads(blueprint.architecture)), safe_mode=True)
            if not isinstance(model, keras.Model):
                raise ModelRefused(f"the blueprint is of a {type(model).__qualname__}: a keras.Model is expected")
            adapters.adapt(model, blueprint.adapters)
        _check_activations(model, STATES * largest)
        compilation = json.loads(blueprint.compilation)
        _check_compilation(compilation)
        with _counted(STATES * largest):
            model.compile_from_config(compilation)
            model.optimizer.build(model.trainable_variables)
    except ModelRefused:
        raise
    except Exception as error:  # Keras raises nearly anything for a config that it does not understand
        log.warning("a model cannot be built from its blueprint", exc_info=True)
        kind = type(error).__name__
    if kind:
        raise ModelRefused(
            f"the model cannot be built from its blueprint ({kind}, see the log there): register its own classes with "
            f"keras.saving.register_keras_serializable() at every owner, give each a get_config() with all that its constructor needs, and "
            f"use no lambda"
        )
    return model


@contextlib.contextmanager
def _counted(largest: float) -> Iterator[None]:
    """Count the values of TensorFlow variables that are made in the block, before they are.

    Raises:
        ModelRefused: they would be more than `largest`.
    """
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    count, graph = 0, tf.Graph()

    def creator(following: Callable[..., Any], **kwargs: Any) -> Any:
        nonlocal count
        count += _values(kwargs.get("initial_value"), graph)
        if count > largest:
            raise ModelRefused(f"the model needs variables with more than {largest:,.0f} values in all: no more are allowed here")
        return following(**kwargs)

    with tf.variable_creator_scope(creator):
        yield


def _values(initial: Any, graph: Any) -> int:
    """How many values an initial value has; of one that is not there yet, by its shape."""
    import tensorflow as tf  # noqa: PLC0415  is loaded already

    if callable(initial):
        try:
            with graph.as_default():  # where values have shapes, and nothing is computed
                initial = initial()
        except RuntimeError:  # it needs a variable, such as the state of a seed generator
            return int(math.prod(tf.function(initial).get_concrete_function().output_shapes))
    return int(math.prod(getattr(initial, "shape", np.shape(initial))))


def _uncompiled(plan: Any) -> Any:
    """Return a configuration without that of its compilation, which the blueprint has beside it."""
    if isinstance(plan, dict):
        drop = "compile_config" if "class_name" in plan else None
        return {key: _uncompiled(value) for key, value in plan.items() if key != drop}
    return [_uncompiled(one) for one in plan] if isinstance(plan, list) else plan


def _check_activations(model: Any, largest: float) -> None:
    """Refuse layers whose outputs for one example are more than memory is meant for, as far as their shapes are known."""
    import keras  # noqa: PLC0415  is loaded already

    for layer in internals.layers_within(model):
        count = 0
        with contextlib.suppress(AttributeError, ValueError):  # no output yet, or several
            count = sum(math.prod(side or 1 for side in one.shape[1:]) for one in keras.tree.flatten(layer.output))
        if count > largest:
            raise ModelRefused(f"the outputs of a layer have more than {largest:,.0f} values for one example: no more are allowed here")


def _check_compilation(compilation: Any) -> None:
    steps = compilation.get("steps_per_execution", 1) if isinstance(compilation, dict) else 1
    if steps not in (None, "auto") and not (isinstance(steps, int) and 1 <= steps <= STEPS_AT_ONCE):
        raise ModelRefused(f"steps_per_execution is not from 1 to {STEPS_AT_ONCE}, or 'auto': training could not be stopped")


def _numbered(plan: Any) -> Any:
    """JSON in which layers have numbers for names, in the order in which they appear, wherever Keras tells them by name."""
    numbers: dict[Any, str] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for key in ("name", "shared_object_id"):
                if isinstance(value.get(key), (str, int)):
                    numbers.setdefault((key, value[key]), f"#{len(numbers)}")
        if isinstance(value, (dict, list)):
            for one in value.values() if isinstance(value, dict) else value:
                collect(one)

    def renamed(value: Any, key: str | None) -> Any:
        if isinstance(value, dict):
            return {name: renamed(one, name if name in REFERENCES else key) for name, one in value.items()}
        if isinstance(value, list):
            return [renamed(one, key) for one in value]
        if key is None or not isinstance(value, (str, int)):
            return value
        return numbers.get((key if key == "shared_object_id" else "name", value), value)

    collect(plan)
    return renamed(plan, None)


def trained(model: keras.Model) -> tuple[bool, ...]:
    """Of each of the weights, in the order of `get_weights()`, whether it is trained."""
    trainable = {id(variable) for variable in model.trainable_variables}
    return tuple(id(variable) in trainable for variable in model.weights)
