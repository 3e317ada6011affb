"""A step of training on arrays as Keras' `fit` makes it: what the model's step is handed, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from federated.records.nest import NestedExamples, mapped

if TYPE_CHECKING:
    import keras


def stepped(model: keras.Model, batch: NestedExamples) -> Mapping[str, Any]:
    """Make one step of training on a batch; give the logs of it. Metrics go on from where they are.

    `train_on_batch` hands the model's `train_step` three things, the third of which may be None, and resets the metrics; `fit` does not.

    Args:
        model: compiled.
        batch: all of its examples.
    """
    model.make_train_function()
    logs: Mapping[str, Any] = model.train_function(iter([handed(batch)]))
    return logs or {}


def handed(batch: NestedExamples) -> tuple[Any, ...]:
    """Return what `fit` hands the model's step of arrays: tensors (x, y), or (x, y, sample_weight) if there are weights.

    Floats are of Keras' default float type; weights that are one array for several outputs are there once for each.
    """
    weights = batch.sample_weight
    if isinstance(batch.y, (dict, tuple, list)) and weights is not None and not isinstance(weights, (dict, tuple, list)):
        batch = batch._replace(sample_weight=mapped(lambda _: weights, batch.y))
    return tuple(mapped(_tensor, part) for part in batch.given)


def _tensor(array: Any) -> Any:
    import keras  # noqa: PLC0415  is loaded already: there is a model
    import tensorflow as tf  # noqa: PLC0415  is loaded already: there is a model

    floatx = keras.config.floatx()
    return tf.convert_to_tensor(array.astype(floatx) if array.dtype.kind == "f" and array.dtype != floatx else array)


def told(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the logs of a step as `fit` tells them: in the order of their names, those of a nested dict among them."""
    found: dict[str, Any] = {}
    for name, value in sorted(logs.items()):
        found |= told(value) if isinstance(value, Mapping) else {name: value}
    return found
