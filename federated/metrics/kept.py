"""At an owner: what leaves of the metrics of an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import UpdateHeldBack
from federated.metrics import compiled
from federated.tasks.update import Array

if TYPE_CHECKING:
    import keras


def told(model: keras.Model, logs: Mapping[str, Any], sizes: Sequence[int]) -> tuple[Array, dict[str, float]]:
    """Return what leaves of the metrics of an epoch: the states of those that are asked for, and the values of the others.

    Args:
        model: after the epoch.
        logs: what Keras says of it: name -> value.
        sizes: of each metric of the model, how many values its states are expected to have; 0: its value is expected. Empty: only values.

    Raises:
        UpdateHeldBack: the model has other metrics here.
    """
    if not any(sizes):
        return np.zeros(0, np.float32), compiled.numbers(logs)
    metrics = compiled.each(model)
    fits = len(metrics) == len(sizes) and all(asked in (0, compiled.size(one)) for one, asked in zip(metrics, sizes, strict=True))
    if not fits:
        raise UpdateHeldBack(
            f"this owner was asked for the states of {len(sizes)} metrics, of {sum(sizes)} values in all, and its model has {len(metrics)} "
            f"of other sizes with the labels here: they are of another form than was expected, or its Keras is another version"
        )
    states = np.concatenate([compiled.read(one) for one, asked in zip(metrics, sizes, strict=True) if asked])
    if all(sizes):
        return states, {}
    summed = {name for name, asked in zip(compiled.names(model), sizes, strict=True) if asked}
    return states, compiled.numbers({name: value for name, value in logs.items() if name not in summed})
