"""The gradient of a model's loss on an owner's data, for FedSGD."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.data import Data
from federated.means import MetricsMean, RunningMean
from federated.update import Task, Update, Weights

if TYPE_CHECKING:
    import keras

CHUNK = 1024
"""Examples whose gradient is taken at once; more are summed up, so that memory stays bounded."""


def descent(model: keras.Model, task: Task, data: Data, stream: int, stop: threading.Event) -> tuple[Weights, int, dict[str, float]]:
    """Minus the gradient of the mean loss at the model's weights, on all data or on a batch of `task.training.batch_size`.

    Weights that are not trained (statistics of BatchNormalization) have no gradient: for them it is what the forward pass added.

    Returns:
        The arrays in the order of `model.get_weights()`; the number of examples; the metrics.
    """
    tally, metrics, places = RunningMean(task.weights), MetricsMean(), {id(v): i for i, v in enumerate(model.weights)}
    for x, y in _chunks(data, task, stream):
        if stop.is_set():
            break
        model.reset_metrics()
        gradients, values = _gradients(model, x, y)
        delta = [after - before for after, before in zip(model.get_weights(), task.weights, strict=True)]
        for variable, g in zip(model.trainable_variables, gradients, strict=True):
            delta[places[id(variable)]] = -g
        tally.add("", Update(task.round, delta, len(x), {}))
        metrics.add(values, len(x))
    mean = [array.astype(before.dtype) for array, before in zip(tally.result(), task.weights, strict=True)]
    return mean, metrics.examples, metrics.result()


def _chunks(data: Data, task: Task, stream: int) -> Iterator[tuple[Any, Any]]:
    if data.pair is None:
        yield from data.batches()
        return
    batch = task.training.batch_size
    x, y = data.pair if batch is None else data.shuffled([task.training.seed, task.round, stream])
    for start in range(0, len(x) if batch is None else min(batch, len(x)), CHUNK):
        some = slice(start, start + CHUNK if batch is None else min(start + CHUNK, batch))
        yield x[some], y[some]


def _gradients(model: keras.Model, x: Any, y: Any) -> tuple[list[Any], dict[str, float]]:
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    with tf.GradientTape() as tape:
        predicted = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=predicted, training=True)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    gradients = [
        np.zeros(v.shape, v.dtype) if g is None else np.asarray(tf.convert_to_tensor(g))
        for v, g in zip(model.trainable_variables, found, strict=True)
    ]
    values = model.compute_metrics(x=x, y=y, y_pred=predicted)
    return gradients, {name: float(value) for name, value in values.items()} | {"loss": float(loss)}
