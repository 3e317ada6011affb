"""The function that makes a user's model: what it is, and what it has to give."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from federated.errors import ModelRefused, SettingError

if TYPE_CHECKING:
    import keras


def check_function(model: Any) -> None:
    """Refuse what makes no model, found out without importing Keras. It is not called.

    Raises:
        SettingError: it is a model itself, or nothing that can be called without arguments.
    """
    loaded = sys.modules.get("keras")
    if loaded is not None and isinstance(model, loaded.layers.Layer):
        raise SettingError(
            f"model is a {type(model).__name__}, and the function that makes it is expected: give model=build, without parentheses, where "
            "build() gives the compiled model"
        )
    if not callable(model) or inspect.iscoroutinefunction(model):
        raise SettingError(f"model is a {type(model).__name__}: give a function without arguments that gives the compiled keras.Model")
    try:
        inspect.signature(model).bind()
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise SettingError(
            f"model={name} cannot be called without arguments ({error}): give a function without any, such as lambda: {name}(...)"
        ) from None
    except ValueError:  # a callable of C, whose arguments nobody knows
        return


def made(build: Callable[[], Any]) -> keras.Model:
    """Make the model by a user's function.

    Raises:
        ModelRefused: it makes something else.
    """
    model = build()
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    if model is None:
        raise ModelRefused("the function that makes the model gave None: does it end with 'return model'?")
    if not isinstance(model, keras.Model):
        raise ModelRefused(
            f"the function that makes the model gave a {type(model).__module__.partition('.')[0]} {type(model).__qualname__}: a compiled "
            "keras.Model is expected, which owners train with TensorFlow; models of other frameworks have to be written in Keras"
        )
    return model
