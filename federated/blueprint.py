"""A compiled Keras model as text, and back. Nothing in it is run: lambdas and unregistered classes are refused (Keras' safe mode)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import ModelRefused
from federated.update import Blueprint

if TYPE_CHECKING:
    import keras


def draw(model: keras.Model) -> Blueprint:
    """The blueprint of a model. Checks that it can be built from it.

    Raises:
        ModelRefused: the model is not compiled, not built, has weights that are no float32 or float64, or cannot be written as JSON.
    """
    if not getattr(model, "compiled", False):
        raise ModelRefused(f"model {model.name!r} is not compiled: owners need its optimizer and loss; call model.compile(...)")
    if not model.built:
        raise ModelRefused(f"model {model.name!r} has no weights yet: give it an Input layer, or call model.build(...)")
    for variable in model.weights:
        if np.dtype(variable.dtype) not in (np.float32, np.float64):
            raise ModelRefused(f"weight {variable.path!r} is {variable.dtype}: float32 and float64 can be averaged")
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    try:
        architecture = json.dumps(keras.saving.serialize_keras_object(model), separators=(",", ":"))  # it travels in each task
        blueprint = Blueprint(architecture, json.dumps(model.get_compile_config()))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelRefused(f"model {model.name!r} cannot be written as JSON: {error}") from error
    build(blueprint)
    return blueprint


def build(blueprint: Blueprint) -> keras.Model:
    """A compiled model with fresh weights, and with the state of its optimizer.

    Raises:
        ModelRefused: the blueprint has code, or a class that is not known here, or is no model.
    """
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    try:
        model: Any = keras.saving.deserialize_keras_object(json.loads(blueprint.architecture), safe_mode=True)
        if not isinstance(model, keras.Model):
            raise ModelRefused(f"the blueprint is of a {type(model).__qualname__}: a keras.Model is expected")
        model.compile_from_config(json.loads(blueprint.compilation))
        model.optimizer.build(model.trainable_variables)
    except ModelRefused:
        raise
    except Exception as error:  # Keras raises nearly anything for a config that it does not understand
        raise ModelRefused(
            f"the model cannot be built from its blueprint: {error}; register its own classes with "
            f"keras.saving.register_keras_serializable() at every owner, and use no lambda"
        ) from error
    return model
