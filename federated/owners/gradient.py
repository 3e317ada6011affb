"""The gradient of a model's loss on an owner's data, for FedSGD. The model's own step and its optimizer are not run."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from federated.errors import DataError
from federated.metrics.compiled import loss_tracker
from federated.models.separable import is_sparse, obstacle, values_of_an_example
from federated.models.weights import added
from federated.records.data import Data
from federated.records.nest import NestedExamples, leaves
from federated.tasks.means import RunningMean
from federated.tasks.update import Task, Update, Weights
from privacy.keras_models import internals
from privacy.keras_models.added_losses import ADDED
from privacy.keras_models.asks import EVALUATION, FUNCTION, HOW_IT_RUNS, METRICS, REDUCTIONS

if TYPE_CHECKING:
    import keras

ANSWERED: Final = (
    HOW_IT_RUNS
    | METRICS
    | EVALUATION
    | FUNCTION
    | REDUCTIONS
    | {*ADDED, "loss_weights", "several losses", "no loss", "compute_loss", "metrics of one's own", "ignore_class"}
    | {"regularizer", "activity_regularizer", "constraint", "frozen weights", "integer weights", "dtype", "seed"}
)
"""What FedSGD does of all that a compiled model may ask for; constraints hold after the step of the aggregator."""

CHUNK = 1024
"""Examples whose gradient is taken at once where the gradient of more is a mean of those of parts, so that memory stays bounded."""
MOST_AT_ONCE = 1 << 30
"""Values that the layers may give for all examples together where they have to be taken at once; 4 GiB of float32."""


def descent(model: keras.Model, task: Task, data: Data, stream: int, stop: threading.Event) -> tuple[Weights, int, dict[str, Any]]:
    """Minus the gradient of the loss at the model's weights, on all data or on a batch of `task.training.batch_size`.

    It is that of one batch of all these examples. Where the loss is a mean over labels, and layers look at each example by itself, it is
    computed in parts, each with the weight of the labels that count in it; else at once, also over the batches of a data set. Weights
    that are not trained (statistics of BatchNormalization) have no gradient: for them it is what the forward pass added.

    Returns:
        The arrays in the order of `model.get_weights()`; the number of examples; the metrics.

    Raises:
        DataError: no label counts; the loss has no gradient; or all examples are needed at once, and are too many for it.
    """
    tally, places = RunningMean(task.weights), {id(v): i for i, v in enumerate(model.weights)}
    examples, losses = 0, _Losses()
    model.reset_metrics()
    for some in _parts(model, data, task, stream):
        if stop.is_set():
            break
        gradients, loss, counted = _gradients(model, some)
        delta = added(model.get_weights(), task.weights)
        for variable, g in zip(model.trainable_variables, gradients, strict=True):
            delta[places[id(variable)]] = -g
        tally.add(Update(task.round, delta, counted, {}))
        losses.add(loss, counted)
        examples += some.size
    if not examples and not stop.is_set():
        raise DataError("no gradient was taken: the data set gave nothing when it was read again")
    if not losses.labels and not stop.is_set():
        raise DataError(
            "nothing of this owner's data counts: the loss ignores the class of each label, or the mask of the model hides all of them"
        )
    if examples:
        loss_tracker(model).update_state(losses.value(), sample_weight=examples)
    mean = [array.astype(before.dtype) for array, before in zip(tally.result(), task.weights, strict=True)]
    return mean, examples, model.get_metrics_result()


class _Losses:
    """The losses of parts, and the loss of the whole."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, int]] = []
        self.labels = 0

    def add(self, loss: Any, labels: int) -> None:
        """Add the loss of a part, which is over so many labels."""
        self._parts.append((loss, labels))
        self.labels += labels

    def value(self) -> Any:
        """As Keras has it for a batch; of several parts their mean."""
        if len(self._parts) == 1:
            return self._parts[0][0]
        return sum(float(loss) * labels for loss, labels in self._parts) / max(1, self.labels)


def _parts(model: keras.Model, data: Data, task: Task, stream: int) -> Iterator[NestedExamples]:
    """Yield the examples, in parts whose gradients have a mean that is the gradient of all."""
    if data.arrays is None:
        yield from _batches(model, data)
        return
    batch = task.training.batch_size
    examples = data.arrays if batch is None else data.shuffled([task.training.seed, task.round, stream])
    wanted = each = examples.size if batch is None else min(batch, examples.size)
    if wanted > CHUNK:
        whole = obstacle(model)
        if whole is None:
            each = CHUNK
        else:
            _check_size(model, wanted, whole)
    for start in range(0, wanted, each):
        yield examples.take(slice(start, min(start + each, wanted)))


def _batches(model: keras.Model, data: Data) -> Iterator[NestedExamples]:
    """Those of a data set, or all as one."""
    whole, batches = obstacle(model), (NestedExamples(*batch) for batch in data.batches())
    if whole is None:
        yield from batches
        return
    _check_size(model, data.count(), whole)
    yield from _joined(list(batches), whole)


def _check_size(model: keras.Model, examples: int, why: str) -> None:
    if examples * values_of_an_example(model) > MOST_AT_ONCE:
        raise DataError(
            f"the gradient of this owner's data has to be taken at once: {why}; its layers would give more than {MOST_AT_ONCE:,} values: "
            "give arrays, and a batch_size to the strategy, or change that"
        )


def _joined(batches: list[NestedExamples], why: str) -> Iterator[NestedExamples]:
    """All batches of a data set as one."""
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    if len(batches) < 2:
        yield from batches
        return
    try:
        columns = [list(column) for column in zip(*batches, strict=True)]
        parts = [
            None if column[0] is None else tf.nest.map_structure(lambda *each: np.concatenate([np.asarray(one) for one in each]), *column)
            for column in columns
        ]
    except (ValueError, TypeError):
        raise DataError(
            f"the gradient of this owner's data has to be taken at once: {why}; its batches cannot be joined, since their arrays are of "
            "several shapes or kinds: give arrays, or one batch"
        ) from None
    yield NestedExamples(*parts)


def _gradients(model: keras.Model, some: NestedExamples) -> tuple[list[Any], Any, int]:
    """Return the gradients of the trainable weights, the loss, and its number of labels; update the metrics by the batch, as Keras does."""
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who train need it

    x, y, sample_weight = some
    with tf.GradientTape() as tape:
        predicted = internals.outputs_of(model, x, training=True)
        loss = internals.loss_of(model, x=x, y=y, y_pred=predicted, sample_weight=sample_weight)
    found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    if all(g is None for g in found):
        raise DataError("the loss has no gradient by any weight that is trained: no round would move the model")
    gradients = [
        np.zeros(v.shape, v.dtype) if g is None else np.asarray(tf.convert_to_tensor(g))
        for v, g in zip(model.trainable_variables, found, strict=True)
    ]
    model.compute_metrics(x=x, y=y, y_pred=predicted, sample_weight=sample_weight)
    return gradients, loss, _counted(model, y, predicted)


def _counted(model: keras.Model, y: Any, predicted: Any) -> int:
    """How many labels the mean of a part is over: all but those that the loss ignores or the mask of the outputs hides."""
    import tensorflow as tf  # noqa: PLC0415  is loaded already

    if tf.nest.is_nested(y) or tf.nest.is_nested(predicted):
        return len(next(leaves(y)))
    ignored, mask = getattr(model.loss, "ignore_class", None), internals.mask_of(predicted)
    if ignored is None and mask is None:
        return _positions(model, tuple(np.shape(y)), tuple(np.shape(predicted)))
    labels = np.asarray(y)
    counts = np.ones(labels.shape, bool) if ignored is None else labels != ignored
    if mask is not None:
        counts = counts & np.reshape(mask, np.shape(mask) + (1,) * (counts.ndim - np.ndim(mask)))
    return int(counts.sum())


def _positions(model: keras.Model, labels: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    """For how many positions of a batch Keras' losses give a value: they take the last axis together, of labels that go with outputs."""
    squeezed = 1 < len(labels) == len(outputs) - 1 and outputs[-1] == 1 and not is_sparse(model)
    return max(1, math.prod(labels[:-1] if squeezed else outputs[:-1])) if len(outputs) > 1 else labels[0]
