"""LSTM, GRU and SimpleRNN: two Dense layers at T positions, on the input x_t and on the state h_{t-1} before.

With z_t = x_t W + b + h_{t-1} U, the input part is one product for all t, outside of the loop; its gradient is dz for all t, and the
states that the loop returns are all that is missing: g = (sum_t x_t^T dz_t, sum_t h_{t-1}^T dz_t, sum_t dz_t). Keras runs the loop, with
a cell that finds its input part ready.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from privacy.rules.gradients import Arranged, ExampleGradients, Tensor, at_positions
from privacy.rules.registry import Layer, LayerCall, book_keeping

Watch = Callable[[Tensor], None]
Step = Callable[[Any, Tensor, list[Tensor]], list[Tensor]]


def unusual(layer: Layer) -> str | None:
    """Why a recurrent layer needs the general path."""
    if layer.dropout or layer.recurrent_dropout:
        return "it drops inputs or states inside its loop"
    if layer.zero_output_for_mask:
        return "its outputs are not its states where the mask is off"
    return None


def not_reset_after(layer: Layer) -> str | None:
    """Say why there is no rule: a GRU of the first kind multiplies a gated state, which the loop does not return."""
    return unusual(layer) if layer.reset_after else "it resets the state before the product (reset_after=False)"


@book_keeping(keras.layers.LSTM, name="book-keeping over time", unless=unusual)
def lstm(layer: Layer, run: Callable[..., Any], watch: Watch, *args: Any, **kwargs: Any) -> tuple[Any, LayerCall]:
    """Gates i, f, c, o in one z."""

    def step(cell: Any, z: Tensor, states: list[Tensor]) -> list[Tensor]:
        h, c = states
        i, f, candidate, o = tf.split(z + tf.matmul(h, cell.recurrent_kernel), 4, 1)
        c = cell.recurrent_activation(f) * c + cell.recurrent_activation(i) * cell.activation(candidate)
        return [cell.recurrent_activation(o) * cell.activation(c), c]

    return _recurrent(layer, run, watch, step, *args, **kwargs)


@book_keeping(keras.layers.SimpleRNN, name="book-keeping over time", unless=unusual)
def simple(layer: Layer, run: Callable[..., Any], watch: Watch, *args: Any, **kwargs: Any) -> tuple[Any, LayerCall]:
    """One z."""

    def step(cell: Any, z: Tensor, states: list[Tensor]) -> list[Tensor]:
        z = z + tf.matmul(states[0], cell.recurrent_kernel)
        return [z if cell.activation is None else cell.activation(z)]

    return _recurrent(layer, run, watch, step, *args, **kwargs)


@book_keeping(keras.layers.GRU, name="book-keeping over time", unless=not_reset_after)
def gru(layer: Layer, run: Callable[..., Any], watch: Watch, *args: Any, **kwargs: Any) -> tuple[Any, LayerCall]:
    """Gates z, r, h; the state's part of h is multiplied by r, so that it has a gradient of its own, that of `offset` = 0."""

    def step(cell: Any, parts: Tensor, states: list[Tensor]) -> list[Tensor]:
        x_part, offset = tf.split(parts, 2, 1)
        h_part = tf.matmul(states[0], cell.recurrent_kernel) + offset
        if cell.use_bias:
            h_part += cell.bias[1]
        x_z, x_r, x_h = tf.split(x_part, 3, 1)
        h_z, h_r, h_h = tf.split(h_part, 3, 1)
        z, r = cell.recurrent_activation(x_z + h_z), cell.recurrent_activation(x_r + h_r)
        return [z * states[0] + (1.0 - z) * cell.activation(x_h + r * h_h)]

    return _recurrent(layer, run, watch, step, *args, **kwargs)


def _recurrent(
    layer: Layer,
    run: Callable[..., Any],
    watch: Watch,
    step: Step,
    x: Tensor,
    initial_state: Any = None,
    mask: Any = None,
    training: bool = False,
) -> tuple[Any, LayerCall]:
    cell, twice = layer.cell, isinstance(layer, keras.layers.GRU)
    z = tf.tensordot(x, cell.kernel, 1)
    if cell.use_bias:
        z = z + (cell.bias[0] if twice else cell.bias)
    watched = [z, tf.zeros_like(z)] if twice else [z]
    for tensor in watched:
        watch(tensor)
    with _ready(layer, step):
        made = run(tf.concat(watched, -1), initial_state=initial_state, mask=mask, training=training)
    states, *last = made if layer.return_state else [made]
    outputs = states if layer.return_sequences else states[:, -1]

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        first = tf.nest.flatten(initial_state)[0] if initial_state is not None else tf.zeros_like(states[:, 0])
        before = tf.concat([first[:, None], states[:, :-1]], 1)
        if layer.go_backwards:
            before = tf.reverse(before, [1])
        parts = [at_positions(x, dz[0], bias=cell.use_bias), at_positions(before, dz[-1], bias=cell.use_bias and twice)]
        return Arranged(parts, _gru_order if twice and cell.use_bias else _order)

    return ([outputs, *last] if layer.return_state else outputs), LayerCall(watched, gradients)


def _order(g: list[Tensor]) -> list[Tensor]:
    """Kernel, recurrent kernel, bias."""
    return [g[0], g[2], g[1]] if len(g) == 3 else g


def _gru_order(g: list[Tensor]) -> list[Tensor]:
    return [g[0], g[2], tf.stack([g[1], g[3]], 1)]


@contextlib.contextmanager
def _ready(layer: Layer, step: Step) -> Iterator[None]:
    """Put `step` in the place of the cell in the layer's loop, with all states as outputs."""

    def call(inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, list[Tensor]]:
        after = step(layer.cell, inputs, list(tf.nest.flatten(states)))
        return after[0], after

    before = {name: layer.__dict__[name] for name in ("return_sequences", "use_cudnn") if name in layer.__dict__}
    layer.__dict__.update(return_sequences=True, **({"use_cudnn": False} if "use_cudnn" in before else {}))
    layer.cell.__dict__["call"] = call
    try:
        yield
    finally:
        del layer.cell.__dict__["call"]
        layer.__dict__.update(before)
