"""Embedding: the row of an index; its gradient has a row for each index that an example contains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from privacy.rules.dense import lora
from privacy.rules.gradients import LEAST, ExampleGradients, Tensor, gamma
from privacy.rules.registry import Layer, LayerCall, book_keeping


@book_keeping(keras.layers.Embedding, name="book-keeping", unless=lora)
def embedding(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], x: Tensor, **_: Any) -> tuple[Any, LayerCall]:
    """g_i has at row r the sum of dz_it over the positions t with index r."""
    outputs = run(x)
    watch(outputs)

    def gradients(dz: list[Tensor]) -> ExampleGradients:
        count = tf.shape(x)[0]
        width = outputs.shape[-1]
        return Rows(tf.cast(tf.reshape(x, [count, -1]), tf.int32), tf.reshape(dz[0], [count, -1, width]), layer.input_dim)

    return outputs, LayerCall([outputs], gradients)


class Rows(ExampleGradients):
    """Gradients of a table that was looked up at T positions, never formed.

    ||g_i||^2 = sum_ts [index_it = index_is] dz_it . dz_is, of which float32 may lose gamma_n sum_ts [..] ||dz_it|| ||dz_is||, n = D + 2 T,
    where positions cancel: that is added.

    Args:
        indices: (B, T) int32.
        dz: (B, T, D).
        rows: how many rows the table has.
    """

    def __init__(self, indices: Tensor, dz: Tensor, rows: int) -> None:
        self._indices, self._dz, self._rows = indices, dz, rows

    def squared_norms(self) -> Tensor:
        """Over all pairs of positions with the same index, plus what rounding may have taken away."""
        same = tf.cast(self._indices[:, :, None] == self._indices[:, None, :], self._dz.dtype)
        alike = tf.matmul(self._dz, self._dz, transpose_b=True)
        width, count = (tf.cast(tf.shape(self._dz)[axis], tf.float32) for axis in (2, 1))
        long = tf.sqrt(tf.linalg.diag_part(alike) + width * LEAST)
        most = tf.reduce_sum(long * tf.linalg.matvec(same, long), 1)
        return tf.maximum(tf.reduce_sum(tf.reduce_sum(alike * same, 2), 1), 0.0) + 2 * gamma(width + 2 * count) * most

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """w_i dz_it added up at row index_it."""
        weighted = self._dz * weights[:, None, None]
        return [tf.math.unsorted_segment_sum(weighted, self._indices, self._rows)]

    def each(self) -> list[Tensor]:
        """(B, rows, D)."""
        count = tf.shape(self._dz)[0]
        own = self._indices + self._rows * tf.range(count)[:, None]
        table = tf.math.unsorted_segment_sum(self._dz, own, self._rows * count)
        return [tf.reshape(table, [count, self._rows, self._dz.shape[-1]])]
