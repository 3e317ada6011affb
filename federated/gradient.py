"""The gradient of a model's loss on an owner's data, for FedSGD. The model's own step and its optimizer are not run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from federated.data import Data
from federated.errors import DataError
from federated.means import RunningMean
from federated.metrics.compiled import loss_tracker
from federated.models.weights import added
from federated.records.nest import Examples, leaves
from federated.update import Task, Update, Weights
from privacy.keras_models import internals
from privacy.keras_models.added_losses import ADDED
from privacy.keras_models.asks import EVALUATION, FUNCTION, HOW_IT_RUNS, METRICS

if TYPE_CHECKING:
    import keras

ANSWERED: Final = (
    HOW_IT_RUNS
    | METRICS
    | EVALUATION
    | FUNCTION
    | {*ADDED, "loss_weights", "several losses", "no loss", "compute_loss", "metrics of one's own", "ignore_class"}
    | {"regularizer", "activity_regularizer", "constraint", "frozen weights", "integer weights", "dtype", "seed"}
)
"""What FedSGD does of all that a compiled model may ask for; constraints hold after the step of the aggregator."""

CHUNK = 1024
"""Examples whose gradient is taken at once; more are summed up, so that memory stays bounded."""


def descent(model: keras.Model, task: Task, data: Data, stream: int, stop: threading.Event) -> tuple[Weights, int, dict[str, Any]]:
    """Minus the gradient of the mean loss at the model's weights, on all data or on a batch of `task.training.batch_size`.

    Weights that are not trained (statistics of BatchNormalization) have no gradient: for them it is what the forward pass added.

    Returns:
        The arrays in the order of `model.get_weights()`; the number of examples; the metrics.

    Raises:
        DataError: no label counts.
    """
    tally, places = RunningMean(task.weights), {id(v): i for i, v in enumerate(model.weights)}
    examples = total = 0
    model.reset_metrics()
    for some in _chunks(data, task, stream):
        if stop.is_set():
            break
        gradients, counted = _gradients(model, some)
        delta = added(model.get_weights(), task.weights)
        for variable, g in zip(model.trainable_variables, gradients, strict=True):
            delta[places[id(variable)]] = -g
        tally.add("", Update(task.round, delta, counted, {}))
        total += counted
        examples += some.size
    if not examples and not stop.is_set():
        raise DataError("no gradient was taken: the data set gave nothing when it was read again")
    if not total and not stop.is_set():
        raise DataError("no label of this owner counts: the loss ignores the class of each, or the mask of the model hides it")
    mean = [array.astype(before.dtype) for array, before in zip(tally.result(), task.weights, strict=True)]
    return mean, examples, model.get_metrics_result()


def _chunks(data: Data, task: Task, stream: int) -> Iterator[Examples]:
    if data.arrays is None:
        yield from (Examples(*batch) for batch in data.batches())
        return
    batch = task.training.batch_size
    examples = data.arrays if batch is None else data.shuffled([task.training.seed, task.round, stream])
    for start in range(0, examples.size if batch is None else min(batch, examples.size), CHUNK):
        yield examples.take(slice(start, start + CHUNK if batch is None else min(start + CHUNK, batch)))


def _gradients(model: keras.Model, some: Examples) -> tuple[list[Any], int]:
    """The gradients of the trainable weights, and how many labels the loss is a mean over; the metrics take in the batch, as in Keras."""
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    x, y, sample_weight = some
    with tf.GradientTape() as tape:
        predicted = model(x, training=True) if internals.call_takes_training(model) else model(x)
        loss = internals.loss_of(model, x=x, y=y, y_pred=predicted, sample_weight=sample_weight)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    gradients = [
        np.zeros(v.shape, v.dtype) if g is None else np.asarray(tf.convert_to_tensor(g))
        for v, g in zip(model.trainable_variables, found, strict=True)
    ]
    loss_tracker(model).update_state(loss, sample_weight=some.size)
    model.compute_metrics(x=x, y=y, y_pred=predicted, sample_weight=sample_weight)
    return gradients, _counted(model, y, predicted)


def _counted(model: keras.Model, y: Any, predicted: Any) -> int:
    """How many labels the mean of a chunk is over: all but those that the loss ignores or the mask of the outputs hides."""
    import tensorflow as tf  # noqa: PLC0415  is loaded already

    if tf.nest.is_nested(y) or tf.nest.is_nested(predicted):
        return len(next(leaves(y)))
    ignored, mask = getattr(model.loss, "ignore_class", None), internals.mask_of(predicted)
    if ignored is None and mask is None:
        return len(y)
    labels = np.asarray(y)
    counts = np.ones(labels.shape, bool) if ignored is None else labels != ignored
    if mask is not None:
        counts = counts & np.reshape(mask, np.shape(mask) + (1,) * (counts.ndim - np.ndim(mask)))
    return int(counts.sum())
