"""LayerNormalization, GroupNormalization and RMSNormalization: y = gamma x^ + beta with x^ the normalised input of one example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from privacy.rules.gradients import ExampleGradients, Materialised, Tensor
from privacy.rules.registry import Layer, LayerCall, book_keeping


@book_keeping(keras.layers.LayerNormalization, keras.layers.GroupNormalization, keras.layers.RMSNormalization, name="book-keeping")
def normalization(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, LayerCall]:
    """g_i = (sum_t x^_it dy_it, sum_t dy_it): one more evaluation gives x^, with gamma = 1 and beta = 0."""
    outputs = run(x)
    watch(outputs)
    centre: Any = getattr(layer, "beta", None)
    plain: list[tuple[Any, Tensor]] = [
        (variable, tf.zeros(variable.shape) if variable is centre else tf.ones(variable.shape)) for variable in layer.trainable_variables
    ]
    axes = _axes(layer, len(x.shape))

    def gradients(dy: list[Tensor]) -> ExampleGradients:
        with keras.StatelessScope(state_mapping=plain):
            normalised = run(x)
        parts = [dy[0] if variable is centre else dy[0] * normalised for variable, _ in plain]
        return Materialised(
            [tf.reshape(tf.reduce_sum(part, axes), [-1, *variable.shape]) for part, (variable, _) in zip(parts, plain, strict=True)]
        )

    return outputs, LayerCall([outputs], gradients)


def _axes(layer: Layer, rank: int) -> list[int]:
    """List the axes of positions: neither the examples' nor those that gamma has."""
    own = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return [axis for axis in range(1, rank) if axis not in {one % rank for one in own}]
