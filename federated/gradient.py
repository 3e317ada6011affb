"""The gradient of a model's loss on an owner's data, for FedSGD."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.data import Data
from federated.means import RunningMean
from federated.metrics.compiled import loss_tracker
from federated.update import Task, Update, Weights

if TYPE_CHECKING:
    import keras

CHUNK = 1024
"""Examples whose gradient is taken at once; more are summed up, so that memory stays bounded."""


def descent(model: keras.Model, task: Task, data: Data, stream: int, stop: threading.Event) -> tuple[Weights, int, dict[str, Any]]:
    """Minus the gradient of the mean loss at the model's weights, on all data or on a batch of `task.training.batch_size`.

    Weights that are not trained (statistics of BatchNormalization) have no gradient: for them it is what the forward pass added.

    Returns:
        The arrays in the order of `model.get_weights()`; the number of examples; the metrics.
    """
    tally, examples, places = RunningMean(task.weights), 0, {id(v): i for i, v in enumerate(model.weights)}
    model.reset_metrics()
    for x, y, *weights in _chunks(data, task, stream):
        if stop.is_set():
            break
        count = len(_first(x))
        gradients = _gradients(model, x, y, *weights)
        delta = [after - before for after, before in zip(model.get_weights(), task.weights, strict=True)]
        for variable, g in zip(model.trainable_variables, gradients, strict=True):
            delta[places[id(variable)]] = -g
        tally.add("", Update(task.round, delta, count, {}))
        examples += count
    mean = [array.astype(before.dtype) for array, before in zip(tally.result(), task.weights, strict=True)]
    return mean, examples, model.get_metrics_result()


def _first(x: Any) -> Any:
    """An array of those that examples are made of."""
    import keras  # noqa: PLC0415  takes seconds, and only those who train need it

    return keras.tree.flatten(x)[0]


def _chunks(data: Data, task: Task, stream: int) -> Iterator[tuple[Any, ...]]:
    if data.pair is None:
        yield from data.batches()
        return
    batch = task.training.batch_size
    x, y = data.pair if batch is None else data.shuffled([task.training.seed, task.round, stream])
    for start in range(0, len(x) if batch is None else min(batch, len(x)), CHUNK):
        some = slice(start, start + CHUNK if batch is None else min(start + CHUNK, batch))
        yield x[some], y[some]


def _gradients(model: keras.Model, x: Any, y: Any, weights: Any = None) -> list[Any]:
    """The gradients of the mean loss; the metrics take in the batch, as in a step of Keras' own."""
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    with tf.GradientTape() as tape:
        predicted = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weights, training=True)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    gradients = [
        np.zeros(v.shape, v.dtype) if g is None else np.asarray(tf.convert_to_tensor(g))
        for v, g in zip(model.trainable_variables, found, strict=True)
    ]
    loss_tracker(model).update_state(loss, sample_weight=len(_first(x)))
    model.compute_metrics(x=x, y=y, y_pred=predicted, sample_weight=weights)
    return gradients
