"""EinsumDense, and with it MultiHeadAttention and GroupedQueryAttention, whose projections are EinsumDense layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from privacy.rules.dense import before_activation, flat, lora
from privacy.rules.gradients import Arranged, ExampleGradients, Tensor, at_positions
from privacy.rules.registry import Layer, LayerCall, book_keeping


def unusual(layer: Layer) -> str | None:
    """Why an equation is not that of Dense at positions, up to the order of axes."""
    given, kernel, made = _labels(layer)
    if "." in layer.equation:
        return "its equation has an ellipsis"
    if not given or given[0] != made[:1] or given[0] in kernel:
        return "the examples are not on the first axis of its equation"
    if set(given) & set(kernel) & set(made):
        return "its equation has a kernel for each position"
    if (set(given) - set(kernel) - set(made)) or (set(kernel) - set(given) - set(made)):
        return "its equation sums over an axis of the input or the kernel alone"
    if layer.bias_axes is not None and layer.bias_axes != "".join(label for label in made if label in kernel):
        return "its bias is not along the axes that the kernel makes"
    return lora(layer)


@book_keeping(keras.layers.EinsumDense, name="book-keeping", unless=unusual)
def einsum_dense(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, LayerCall]:
    """As Dense, with the axes in the order: examples, positions, summed over (input) or made (output)."""
    outputs, z = before_activation(layer, run, watch, x)
    given, kernel, made = _labels(layer)
    summed, new = [one for one in kernel if one in given], [one for one in made if one in kernel]
    positions = [one for one in given if one not in kernel]
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        rows = tf.einsum(f"{given}->{''.join(positions + summed)}", x)
        made_rows = tf.einsum(f"{made}->{''.join(positions + new)}", dz[0])
        found = at_positions(_matrix(rows, len(positions)), _matrix(made_rows, len(positions)), bias=layer.bias is not None)

        def arrange(g: list[Tensor]) -> list[Tensor]:
            full = tf.reshape(g[0], [-1, *(sizes[one] for one in summed + new)])
            turned = tf.einsum(f"Z{''.join(summed + new)}->Z{kernel}", full)
            return [turned, *(tf.reshape(bias, [-1, *layer.bias.shape]) for bias in g[1:])]

        return Arranged([found], arrange)

    return outputs, LayerCall([z], gradients)


def _labels(layer: Layer) -> tuple[str, str, str]:
    inputs, made = layer.equation.replace(" ", "").split("->")
    given, kernel = inputs.split(",")
    return given, kernel, made


def _matrix(tensor: Tensor, leading: int) -> Tensor:
    """Flatten the last axes to one, then to (B, T, K)."""
    shape = tf.shape(tensor)[:leading]
    last = int(tf.TensorShape(tensor.shape[leading:]).num_elements())
    rows = tf.reshape(tensor, tf.concat([shape, [last]], 0))
    rows.set_shape([*tensor.shape[:leading], last])
    return flat(rows[:, None] if leading == 1 else rows)
