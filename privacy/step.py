"""One differentially private step of a compiled model, as TensorFlow functions. Knows nothing of sampling and accounting.

For a batch of any size (Abadi et al., 2016, arXiv:1607.00133, Algorithm 1; Bu et al., 2023, arXiv:2210.00038, Algorithm 1):

1. One forward pass, recorded; the loss of each example.
2. One backward pass, to the recorded tensors and not to the weights; the norms of the per-example gradients.
3. S = sum_i w_i g_i with the weights of the clipping rule.
4. The optimizer gets (S + noise) / B, S rounded to the grid of the noise (see `Grid`), B the expected size of the batch (1 for a loss that
   is a sum over the batch), plus the gradient of the penalties, which know no data: regularizers, and losses of weights that layers add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from privacy.clipping import Clipping
from privacy.examples import count
from privacy.keras_models import internals
from privacy.keras_models.asks import reductions
from privacy.models.recording import Unit, recording
from privacy.models.validation import made_up
from privacy.rules.gradients import ExampleGradients, Tensor
from privacy.rules.losses import each_loss


class PrivateStep:
    """The functions of one compiled model.

    Args:
        model: built and compiled, with a built optimizer.
        units: how its weights are handled.
        clipping: the rule.
        batch: the specification of the batches: (x, y) or (x, y, weight), nests of `tf.TensorSpec` of which the first axis is open.
        eager: run without `tf.function`, for debugging.
        adds: whether layers add losses of weights with `add_loss`; those that look at a batch cannot be private.
    """

    def __init__(
        self, model: keras.Model, units: list[Unit], *, clipping: Clipping, batch: Any, eager: bool = False, adds: bool = False
    ) -> None:
        self.model, self.units, self.clipping = model, units, clipping
        self._examples = made_up(batch[0], 0.25) if adds else None
        self._is_sum = reductions(model) == {"sum"}
        self.variables = list(model.trainable_variables)
        self.parameters = sum(math.prod(variable.shape) for variable in self.variables)
        self._sums: list[tf.Variable] = []
        self._fused, self._add, self._finish = self._fused_step, self._add_batch, self._finish_step
        if not eager:
            number, noise = tf.TensorSpec((), tf.float32), tf.TensorSpec((self.parameters,), tf.float32)
            real = tf.TensorSpec((), tf.int32)
            self._fused = _traced(self._fused_step, [batch, real, number, noise, number, number])
            self._add = _traced(self._add_batch, [batch, real, number])
            self._finish = _traced(self._finish_step, [noise, number, number])

    def whole(self, batch: Any, clip: float, noise: Any, step: float, batch_size: int) -> tuple[dict[str, Tensor], int]:
        """Make a step on a batch that is not empty.

        Args:
            batch: nests of arrays, as specified.
            clip: C.
            noise: (parameters,) float32, whole numbers.
            step: what they are multiples of.
            batch_size: the expected one.

        Returns:
            The metrics so far, and the number of examples that were not clipped.
        """
        numbers = (tf.constant(step, tf.float32), self._scale(batch_size))
        metrics, unclipped = self._fused(*_filled(batch), tf.constant(clip, tf.float32), tf.constant(noise), *numbers)
        return metrics, int(unclipped)

    def begin(self) -> None:
        """Begin a step in parts, and forget what an interrupted one may have left: no example may be in a sum twice."""
        if not self._sums:
            self._sums = [tf.Variable(tf.zeros(variable.shape), trainable=False) for variable in self.variables]
        for total in self._sums:
            total.assign(tf.zeros_like(total))

    def add(self, batch: Any, clip: float) -> tuple[dict[str, Tensor], int]:
        """Add a part of a batch to the sum; return as `whole`."""
        metrics, unclipped = self._add(*_filled(batch), tf.constant(clip, tf.float32))
        return metrics, int(unclipped)

    def finish(self, noise: Any, step: float, batch_size: int) -> None:
        """End a step in parts; there may have been none."""
        self._finish(tf.constant(noise), tf.constant(step, tf.float32), self._scale(batch_size))

    def _scale(self, batch_size: int) -> Tensor:
        """Return the factor that turns the sum of gradients into the gradient of the compiled loss."""
        return tf.constant(1.0 if self._is_sum else 1.0 / batch_size, tf.float32)

    def _fused_step(
        self, batch: Any, real: Tensor, clip: Tensor, noise: Tensor, step: Tensor, scale: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        sums, metrics, unclipped = self._clipped(batch, real, clip)
        self._apply(sums, noise, step, scale)
        return metrics, unclipped

    def _add_batch(self, batch: Any, real: Tensor, clip: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        sums, metrics, unclipped = self._clipped(batch, real, clip)
        for total, part in zip(self._sums, sums, strict=True):
            total.assign_add(part)
        return metrics, unclipped

    def _finish_step(self, noise: Tensor, step: Tensor, scale: Tensor) -> None:
        self._apply([tf.identity(total) for total in self._sums], noise, step, scale)

    def _apply(self, sums: list[Tensor], noise: Tensor, step: Tensor, scale: Tensor) -> None:
        gradients, start = [], 0
        for total in sums:
            size = math.prod(total.shape)
            whole = tf.round(total / step)  # a grid, so that noise hides all bits of it, see `Grid`
            gradients.append((whole + tf.reshape(noise[start : start + size], total.shape)) * (step * scale))
            start += size
        optimizer = self.model.optimizer
        scaled = [optimizer.scale_loss(gradient) for gradient in self._penalised(gradients)]  # `apply` takes `loss_scale_factor` out again
        optimizer.apply_gradients(zip(scaled, self.variables, strict=True))

    def _penalised(self, gradients: list[Tensor]) -> list[Tensor]:
        with tf.GradientTape() as tape:
            penalties = self._penalties()
        if not penalties:
            return gradients
        found = tape.gradient(penalties, [variable.value for variable in self.variables])
        return [gradient if more is None else gradient + more for gradient, more in zip(gradients, found, strict=True)]

    def _penalties(self) -> list[Tensor]:
        """List what regularizers say of the weights, and what layers add that looks at weights only, whatever examples they are given."""
        found = [variable.regularizer(variable) for variable in self.variables if variable.regularizer is not None]
        if self._examples is not None:
            with keras.StatelessScope(collect_losses=True) as scope:  # seeds stay as they are
                self.model(self._examples, training=True)
            found += [tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in scope.losses]
        return found

    def _clipped(self, batch: Any, real: Tensor, clip: Tensor) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """Run steps 1 to 3 on the first `real` examples of a batch; return sums, metrics, and how many examples were not clipped."""
        x, y, weight = (*batch, None)[:3]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with recording(self.units, tape.watch) as record:
                outputs = self.model(x, training=True)
            losses = each_loss(self.model, x, y, outputs, weight)
            total = tf.reduce_sum(losses)
        dz = tape.gradient(total, record.watched(), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found = record.gradients(tf.nest.map_structure(tf.convert_to_tensor, dz))  # a lookup's are slices
        squared = [gradients.squared_norms() for _, gradients in found]
        counts = tf.range(tf.shape(losses)[0]) < real
        weights = [tf.where(counts, w, 0.0) for w in self.clipping.weights(squared, clip)]
        unclipped = tf.math.count_nonzero(counts & (tf.add_n(squared) <= tf.square(clip)))
        sums = tf.cond(
            tf.reduce_all([tf.reduce_all(tf.math.is_finite(norms)) for norms in squared]),
            lambda: self._sums_of(found, weights, lambda gradients, w: gradients.weighted_sum(w)),
            lambda: self._sums_of(found, weights, _finite_sum),
        )
        return sums, self._metrics(*(_first(real, one) for one in (x, y, outputs, weight, losses))), unclipped

    def _sums_of(self, found: list[tuple[Unit, ExampleGradients]], weights: list[Tensor], add: Callable[..., list[Tensor]]) -> list[Tensor]:
        """sum_i w_i g_i for each trainable variable of the model; zero where a layer was not called."""
        sums: dict[int, Tensor] = {}
        for (unit, gradients), w in zip(found, weights, strict=True):
            sums.update(zip(map(id, unit.layer.trainable_variables), add(gradients, w), strict=True))
        return [sums[id(one)] if id(one) in sums else tf.zeros(one.shape) for one in self.variables]

    def _metrics(self, x: Any, y: Any, outputs: Any, weight: Tensor | None, losses: Tensor) -> dict[str, Tensor]:
        """Update the metrics as Keras' own step does."""
        whole = tf.reduce_sum(losses) if self._is_sum else tf.reduce_mean(losses)
        self.model.metrics[0].update_state(tf.add_n([whole, *self._penalties()]), sample_weight=tf.shape(losses)[0])
        if tf.nest.is_nested(outputs):
            self.model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight)  # keeps the metric of each loss
        metrics: dict[str, Tensor] = self.model.compute_metrics(x, y, outputs, sample_weight=weight)
        return metrics


def _traced(function: Callable[..., Any], signature: list[Any]) -> Callable[..., Any]:
    """Trace the function when it is first called; call it without the search for a trace that `tf.function` makes each time."""
    traced: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if not traced:
            traced.append(tf.function(function, input_signature=signature, autograph=False).get_concrete_function())
        return traced[0](*arguments)

    return call


def _finite_sum(gradients: ExampleGradients, weights: Tensor) -> list[Tensor]:
    """sum_i w_i g_i without the examples of weight 0, whose gradients need not be finite."""
    return [tf.tensordot(tf.ones_like(weights), _masked(each, weights), 1) for each in gradients.each()]


def _masked(each: Tensor, weights: Tensor) -> Tensor:
    return tf.math.multiply_no_nan(each, tf.reshape(weights, [-1] + [1] * (len(each.shape) - 1)))


def _filled(batch: Any) -> tuple[Any, Tensor]:
    """Repeat the last example of a batch up to a multiple of about the root of its size; return that as tensors, and the size before."""
    real = count(batch)
    missing = -real % (1 << (real.bit_length() // 2))
    full = tf.nest.map_structure(lambda array: tf.constant(np.concatenate([array, array[-1:].repeat(missing, 0)])), batch)
    return full, tf.constant(real)


def _first(real: Tensor, nest: Any) -> Any:
    """Take the first examples of each tensor, with its mask and logits."""

    def first(tensor: Tensor) -> Tensor:
        part, logits, mask = tensor[:real], internals.logits_of(tensor), internals.mask_of(tensor)
        if logits is not None:
            part = internals.with_logits(part, logits[0], logits[1][:real])
        if mask is not None:
            internals.put_mask(part, mask[:real])
        return part

    return None if nest is None else tf.nest.map_structure(first, nest)
