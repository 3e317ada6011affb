"""The gradient of a model's loss on an owner's data, for FedSGD."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.data import Data
from federated.errors import DataError
from federated.means import MetricsMean, RunningMean
from federated.models.weights import added
from federated.records.nest import Examples
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
    for some in _chunks(data, task, stream):
        if stop.is_set():
            break
        model.reset_metrics()
        gradients, values = _gradients(model, some)
        delta = added(model.get_weights(), task.weights)
        for variable, g in zip(model.trainable_variables, gradients, strict=True):
            delta[places[id(variable)]] = -g
        tally.add("", Update(task.round, delta, some.size, {}))
        metrics.add(values, some.size)
    if not metrics.examples:
        raise DataError("no gradient was taken: the data set gave nothing when it was read again")
    mean = [array.astype(before.dtype) for array, before in zip(tally.result(), task.weights, strict=True)]
    return mean, metrics.examples, metrics.result()


def _chunks(data: Data, task: Task, stream: int) -> Iterator[Examples]:
    if data.arrays is None:
        yield from (Examples(*batch) for batch in data.batches())
        return
    batch = task.training.batch_size
    examples = data.arrays if batch is None else data.shuffled([task.training.seed, task.round, stream])
    for start in range(0, examples.size if batch is None else min(batch, examples.size), CHUNK):
        yield examples.take(slice(start, start + CHUNK if batch is None else min(start + CHUNK, batch)))


def _gradients(model: keras.Model, some: Examples) -> tuple[list[Any], dict[str, float]]:
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    x, y, sample_weight = some
    with tf.GradientTape() as tape:
        predicted = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight, training=True)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    gradients = [
        np.zeros(v.shape, v.dtype) if g is None else np.asarray(tf.convert_to_tensor(g))
        for v, g in zip(model.trainable_variables, found, strict=True)
    ]
    values = model.compute_metrics(x=x, y=y, y_pred=predicted, sample_weight=sample_weight)
    return gradients, {name: float(value) for name, value in values.items()} | {"loss": float(loss)}
