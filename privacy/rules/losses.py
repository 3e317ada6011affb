"""The loss of each example: what the compiled loss gives for a batch of that example alone.

That is the definition for every loss; it needs no guess of how a loss reduces. For the usual losses of Keras on one output it is
computed without running each example by itself.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from privacy.keras_models import internals
from privacy.rules.general import COPIES
from privacy.rules.gradients import Tensor

_REDUCTIONS = ("sum", "sum_over_batch_size", "mean", "mean_with_sample_weight")
_ALONE = (
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.Hinge,
    keras.losses.Huber,
    keras.losses.KLDivergence,
    keras.losses.LogCosh,
    keras.losses.MeanAbsoluteError,
    keras.losses.MeanSquaredError,
    keras.losses.MeanSquaredLogarithmicError,
    keras.losses.Poisson,
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.SquaredHinge,
)
"""Losses that reduce the last axis and treat examples alone (Circle, Dice and others look at a whole batch)."""


def each_loss(model: keras.Model, x: Any, y: Any, outputs: Any, weight: Tensor | None) -> Tensor:
    """(B,) float32: the loss of each example, times its weight; without regularizers and what layers add.

    Args:
        model: compiled.
        x: a nest of tensors with the leading axis B.
        y: likewise.
        outputs: the model's, for x.
        weight: (B,) or None.
    """
    loss = known(model)
    several = tf.nest.is_nested(y) or tf.nest.is_nested(outputs)
    if loss is None or several or internals.mask_of(outputs) is not None or not aligned(loss, y, outputs):
        losses = _alone(model, x, y, outputs)
    else:
        values = loss.call(tf.cast(y, loss.dtype), tf.cast(outputs, loss.dtype))
        losses = _reduced(values, internals.mask_of(values), is_sum=loss.reduction == "sum")
    return losses if weight is None else losses * tf.cast(weight, losses.dtype)


def _reduced(values: Tensor, mask: Tensor | None, *, is_sum: bool) -> Tensor:
    """(B,): for each example the sum of (B, ...) values, or their mean; a mask tells which labels count, see `ignore_class`."""
    axes = list(range(1, len(values.shape)))
    if is_sum:
        return tf.reduce_sum(values, axes)  # those that do not count are 0
    if mask is None:
        return tf.reduce_mean(values, axes)
    return tf.math.divide_no_nan(tf.reduce_sum(values, axes), tf.reduce_sum(tf.cast(mask, values.dtype), axes))


def aligned(loss: Any, y: Any, outputs: Any) -> bool:
    """Whether the loss has the examples of targets and outputs on one axis.

    Otherwise the one is repeated along an axis of the other, and each example's loss is over the targets of all: targets (B,) and outputs
    (B, 1, 1) make (B, 1, B).
    """
    more = len(outputs.shape) - len(y.shape)
    if len(outputs.shape) < 2 or abs(more) > 1:
        return False
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    return more == 0 or (more == 1 and (sparse or outputs.shape[-1] == 1)) or (more == -1 and y.shape[-1] == 1)


def known(model: keras.Model) -> Any:
    """Return the compiled loss as one of `_ALONE`; else None."""
    if model.loss is None or tf.nest.is_nested(model.loss) or own_loss(model) or internals.loss_weights(model) is not None:
        return None
    loss = keras.losses.get(model.loss)
    if not isinstance(loss, keras.losses.Loss):
        loss = next((one() for one in _ALONE if one().fn is loss), None)
    if type(loss) not in _ALONE or loss.reduction not in _REDUCTIONS:
        return None
    return loss if loss.get_config().get("axis", -1) == -1 else None


def own_loss(model: keras.Model) -> bool:
    """Whether the class of a model replaces `compute_loss`. Such a model cannot be trained privately, but its losses can be looked at."""
    return type(model).compute_loss is not keras.Model.compute_loss


def _alone(model: keras.Model, x: Any, y: Any, outputs: Any) -> Tensor:
    """By `vectorized_map` over batches of one, inside another over two copies of all of it, of which the first counts.

    That keeps products of the shape (B, 1, T, K) x (K, O) out of a loss, see `general.py`: they become (2, B, 1, T, K) x (K, O).
    """
    masks = [internals.mask_of(output) for output in tf.nest.flatten(outputs)]
    logits = [internals.logits_of(output) for output in tf.nest.flatten(outputs)]
    given = [mask for mask in masks if mask is not None] + [found[1] for found in logits if found is not None]

    def one(row: Any) -> Tensor:
        x, y, outputs, known = tf.nest.map_structure(lambda leaf: leaf[None], row)
        leaves = tf.nest.flatten(outputs)
        marks = [None if mask is None else known.pop(0) for mask in masks]
        leaves = [
            leaf if found is None else internals.with_logits(leaf, found[0], known.pop(0))
            for leaf, found in zip(leaves, logits, strict=True)
        ]
        for leaf, mask in zip(leaves, marks, strict=True):
            if mask is not None:
                internals.put_mask(leaf, mask)
        outputs = tf.nest.pack_sequence_as(outputs, leaves)
        with keras.StatelessScope():  # a model of several outputs keeps a metric of each loss
            return model.compute_loss(x=x, y=y, y_pred=outputs) if own_loss(model) else internals.compiled_loss(model, y, outputs)

    rows = tf.nest.map_structure(lambda leaf: tf.stack([leaf] * COPIES), (x, y, outputs, given))
    return tf.vectorized_map(lambda row: tf.vectorized_map(one, row), rows)[0]
