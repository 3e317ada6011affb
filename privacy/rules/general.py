"""Layers without a rule: each example runs alone, all at once by `tf.vectorized_map`.

The layer's function is evaluated on batches that hold one example only, so whatever it does, examples cannot mix; the second evaluation
that the gradients need starts from the same non-trainable state, so a random mask inside the layer is the same in both (and the same for
all examples of a batch).

Such a batch is the example and a copy of it, of which the first output counts. Batches of one would make products of the shape
(B, 1, T, K) x (K, O), for which TensorFlow with oneDNN reads past its buffers (tensorflow/tensorflow#117700, in releases to 2.21); with
(B, 2, T, K) it does not. What is recorded is compared with the plain model before training begins, see `recording.disagreement`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import keras
import tensorflow as tf

from privacy.keras_models import internals
from privacy.rules.gradients import ExampleGradients, Materialised, Tensor
from privacy.rules.registry import Layer, LayerCall, seeds

COPIES: Final = 2
"""Of an example in the batch that it runs in."""


def alone(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], *args: Any, **kwargs: Any) -> tuple[Any, LayerCall]:
    """g_i = the product of dy_i with the Jacobian of the layer at x_i.

    1. y_i = f(theta, s, x_i) for each example, with the state s (the seeds of random layers) from before.
    2. Later, from d loss / d y: g_i by automatic differentiation of f(theta, s, x_i), the same function of the same state.

    Where y_i is the softmax or sigmoid of logits that a loss would take instead, these count as outputs, too.
    """
    theta = [tf.convert_to_tensor(variable.value) for variable in layer.trainable_variables]
    state = [tf.identity(variable.value) for variable in layer.non_trainable_variables]
    generators = seeds(layer)
    context = dict(vars(internals.call_context(layer)))  # what layers inside ask for, `training` above all
    leaves = tf.nest.flatten((args, kwargs))
    batched = [index for index, leaf in enumerate(leaves) if tf.is_tensor(leaf) and leaf.shape.rank]
    ways: list[str | None] = []

    def function(rows: list[Tensor]) -> tuple[Any, list[Tensor], list[Tensor]]:
        given = list(leaves)
        for index, row in zip(batched, rows, strict=True):
            given[index] = tf.stack([row] * COPIES)
        inputs, options = tf.nest.pack_sequence_as((args, kwargs), given)
        variables = [*layer.trainable_variables, *layer.non_trainable_variables]
        with (
            keras.StatelessScope(state_mapping=list(zip(variables, [*theta, *state], strict=True))) as scope,
            unrolled(layer),
            called(layer, context),
        ):
            outputs = run(*inputs, **options)
            after = [tf.convert_to_tensor(scope.get_current_value(seed)) for seed in generators]
        found = [internals.logits_of(y) for y in tf.nest.flatten(outputs)]
        ways[:] = [None if one is None else one[0] for one in found]
        return tf.nest.map_structure(lambda y: y[0], outputs), [one[1][0] for one in found if one is not None], after

    rows = [leaves[index] for index in batched]
    outputs, logits, after = tf.vectorized_map(function, rows)
    for seed, states in zip(generators, after, strict=True):
        seed.assign(states[0])  # the same for all examples
    made = tf.nest.flatten(outputs)
    watched = [y for y in made if y.dtype.is_floating] + logits
    for y in watched:
        watch(y)
    given = iter(logits)  # a loss finds them as it does after the plain layer
    made = [y if way is None else internals.with_logits(y, way, next(given)) for y, way in zip(made, ways, strict=True)]
    outputs = tf.nest.pack_sequence_as(outputs, made)

    def gradient(both: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
        rows, dy = both
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            outputs, logits, _ = function(rows)
            y = [y for y in tf.nest.flatten(outputs) if y.dtype.is_floating] + logits
        found: list[Tensor] = tape.gradient(y, theta, dy, tf.UnconnectedGradients.ZERO)
        return found

    def gradients(dy: list[Tensor]) -> ExampleGradients:
        return Materialised(tf.vectorized_map(gradient, (rows, dy)))

    return outputs, LayerCall(watched, gradients)


@contextlib.contextmanager
def unrolled(layer: Layer) -> Iterator[None]:
    """Recurrent layers inside run without a loop, which `vectorized_map` could not differentiate."""
    loops = [inner for inner in internals.layers_within(layer) if isinstance(inner, keras.layers.RNN) and not inner.unroll]
    for inner in loops:
        inner.__dict__["unroll"] = True
    try:
        yield
    finally:
        for inner in loops:
            inner.__dict__["unroll"] = False


@contextlib.contextmanager
def called(layer: Layer, context: dict[str, Any]) -> Iterator[None]:
    """Layers inside find the call that they are part of, as `training=True`, also when the model's own call is over."""
    now = internals.call_context(layer)
    before = dict(vars(now))
    vars(now).update({name: value for name, value in context.items() if name != "entry_layer"})
    try:
        yield
    finally:
        vars(now).clear()
        vars(now).update(before)
        internals.leave_call(layer)
