"""The metrics of a compiled model, one by one, and their values as numbers. The only file that knows how Keras keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.tasks.update import Array

if TYPE_CHECKING:
    import keras

CONTAINER = "compile_metrics"
"""The name of the metric of a model that has those that were given to `compile` in it."""
STEPS = ("train_step", "test_step", "compute_metrics", "get_metrics_result", "metrics", "reset_metrics", "compile", "make_train_function")
"""What a class has to have from Keras for its metrics to be those of `compile`, kept and told as Keras does."""


def each(model: keras.Model) -> list[Any]:
    """All metrics of a model, in its order: of the loss, those that were given to `compile`, of the losses of outputs, of layers."""
    found: list[Any] = []
    for metric in model.metrics:
        found += metric.metrics if _holds_others(metric) else [metric]
    return found


def names(model: keras.Model) -> list[str]:
    """Of each of these, the name under which `fit` tells its value."""
    found: list[str] = []
    for metric in model.metrics:
        found += list(metric.result()) if _holds_others(metric) and metric.metrics else [] if _holds_others(metric) else [metric.name]
    return found


def of_layers(model: keras.Model, *, without: list[str]) -> list[str]:
    """List the names of the metrics that were not given to `compile`, of which `without` are the names."""
    return [metric.name for metric in model.metrics if not _holds_others(metric) and metric.name not in without]


def _holds_others(metric: Any) -> bool:
    return metric.name == CONTAINER and hasattr(metric, "output_names")


def loss_tracker(model: keras.Model) -> Any:
    """Return the metric of the loss; None if there is none."""
    return next((metric for metric in model.metrics if metric.name == "loss"), None)


def tells_as_keras(model: keras.Model) -> bool:
    """Whether the class of a model says nothing of its own about how metrics are kept and told."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    return all(getattr(type(model), step) is getattr(base, step) for step in STEPS for base in [_base(type(model), keras)])


def _base(kind: type, keras: Any) -> type:
    return next(one for one in kind.__mro__ if one in (keras.Sequential, keras.Model))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Values of metrics as floats; one that has several, such as F1 of each class, as `name_0`, `name_1` and on."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers({f"{name}_{key}": one for key, one in value.items()})
            continue
        flat = np.asarray(value, np.float64).reshape(-1)
        found |= {name: float(flat[0])} if flat.size == 1 else {f"{name}_{i}": float(one) for i, one in enumerate(flat)}
    return found


def size(metric: Any) -> int:
    """Values in the states of a metric."""
    return sum(int(np.prod(variable.shape, dtype=np.int64)) for variable in metric.variables)


def read(metric: Any) -> Array:
    """Return the states of a metric in one vector, float32 if that holds them all."""
    arrays = [np.asarray(variable.numpy()).reshape(-1) for variable in metric.variables]
    exact = all(array.dtype in (np.float16, np.float32) for array in arrays)
    return np.concatenate([array.astype(np.float32 if exact else np.float64) for array in arrays] or [np.zeros(0, np.float32)])


def write(metric: Any, states: Array) -> None:
    """Set the states of a metric."""
    at = 0
    for variable in metric.variables:
        count = int(np.prod(variable.shape, dtype=np.int64))
        variable.assign(states[at : at + count].reshape(variable.shape).astype(variable.dtype))
        at += count
