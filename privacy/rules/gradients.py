"""Per-example gradients of one layer, in whatever form is cheapest to hold.

For example i and the parameters theta of a layer, g_i = d loss_i / d theta. What training needs of them is ||g_i||^2 for all i and
sum_i w_i g_i for weights w that depend on the norms; neither needs the g_i. (Goodfellow, 2015, arXiv:1510.01799; Li et al., 2022,
arXiv:2110.05679, section 4; Bu et al., 2023, arXiv:2210.00038, section 3.) B is the number of examples.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import tensorflow as tf

Tensor = Any  # tf.Tensor; TensorFlow has no types
ROUNDING: Final = 2.0**-24
"""u, the relative rounding error of one float32 operation."""
LEAST: Final = 2.0**-126
"""The smallest normal float32: what a product loses where it is rounded to zero."""


class ExampleGradients(abc.ABC):
    """The gradients g_1 .. g_B of one layer's trainable variables."""

    @abc.abstractmethod
    def squared_norms(self) -> Tensor:
        """||g_i||^2 over all variables of the layer: (B,) float32.

        Where terms can cancel, the rounding of float32 is added, so that it is never less than the true one.
        """

    @abc.abstractmethod
    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """sum_i w_i g_i for w (B,): one tensor a variable, of its shape."""

    @abc.abstractmethod
    def each(self) -> list[Tensor]:
        """Return the g_i themselves: one tensor a variable, (B, *shape)."""


class Materialised(ExampleGradients):
    """The gradients themselves, one tensor (B, *shape) a variable."""

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._gradients = list(gradients)

    def squared_norms(self) -> Tensor:
        """Sum the squares directly."""
        return tf.add_n([squares(gradient) for gradient in self._gradients])

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """Multiply a vector with a matrix (B, parameters)."""
        return [tf.tensordot(weights, gradient, 1) for gradient in self._gradients]

    def each(self) -> list[Tensor]:
        """Return what is held."""
        return self._gradients


class Outer(ExampleGradients):
    """Gradients of z = x W + b for one row x a example: g_i = (x_i^T dz_i, dz_i), never formed.

    ||x_i^T dz_i||^2 = ||x_i||^2 ||dz_i||^2;  sum_i w_i x_i^T dz_i = X^T (w dZ).

    Args:
        x: (B, K).
        dz: d loss_i / d z_i, (B, O).
        bias: whether there is b.
    """

    def __init__(self, x: Tensor, dz: Tensor, *, bias: bool) -> None:
        self._x, self._dz, self._bias = x, dz, bias

    def squared_norms(self) -> Tensor:
        """||dz_i||^2 (||x_i||^2 + 1); without the 1 where there is no bias."""
        return squares(self._dz) * (squares(self._x) + float(self._bias))

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """X^T (w dZ), and w dZ."""
        kernel = tf.matmul(self._x, self._dz * weights[:, None], transpose_a=True)
        return [kernel, tf.linalg.matvec(self._dz, weights, transpose_a=True)] if self._bias else [kernel]

    def each(self) -> list[Tensor]:
        """(B, K, O) and (B, O)."""
        kernel = self._x[:, :, None] * self._dz[:, None, :]
        return [kernel, self._dz] if self._bias else [kernel]


class Ghost(ExampleGradients):
    """Gradients of z_t = x_t W + b at T positions, g_i = (sum_t x_it^T dz_it, sum_t dz_it), never formed.

    ||sum_t x_it^T dz_it||^2 = sum_ts (x_it . x_is) (dz_it . dz_is): T^2 (K + O) instead of T K O multiplications.

    Positions can cancel, and then the sum in float32 is far below the true one, or negative. Its error is at most
    gamma_n (sum_t ||x_it|| ||dz_it||)^2 for n = K + O + 2 T (Higham, 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1),
    which is added.

    Args:
        x: (B, T, K).
        dz: (B, T, O).
        bias: whether there is b.
    """

    def __init__(self, x: Tensor, dz: Tensor, *, bias: bool) -> None:
        self._x, self._dz, self._bias = x, dz, bias

    def squared_norms(self) -> Tensor:
        """Sum over all pairs of positions; add ||sum_t dz_it||^2, and what rounding may have taken away."""
        x, dz = (tf.matmul(one, one, transpose_b=True) for one in (self._x, self._dz))
        k, o, t = (tf.cast(size, tf.float32) for size in (tf.shape(self._x)[2], tf.shape(self._dz)[2], tf.shape(self._x)[1]))
        long, steep = tf.sqrt(tf.linalg.diag_part(x) + k * LEAST), tf.sqrt(tf.linalg.diag_part(dz) + o * LEAST)
        error = gamma(k + o + 2 * t) * tf.square(tf.reduce_sum(long * steep, 1))
        tiny = LEAST * (o * tf.square(tf.reduce_sum(long, 1)) + k * tf.square(tf.reduce_sum(steep, 1)))
        kernel = tf.maximum(tf.reduce_sum(tf.reduce_sum(x * dz, 2), 1), 0.0) + error + tiny  # by axis: 2 T roundings, not T^2
        if not self._bias:
            return kernel
        return kernel + squares(tf.reduce_sum(self._dz, 1)) + 2 * gamma(t) * tf.square(tf.reduce_sum(steep, 1))

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """X^T (w dZ) over examples and positions together."""
        weighted = self._dz * weights[:, None, None]
        kernel = tf.tensordot(self._x, weighted, [[0, 1], [0, 1]])
        return [kernel, tf.reduce_sum(weighted, [0, 1])] if self._bias else [kernel]

    def each(self) -> list[Tensor]:
        """(B, K, O) and (B, O)."""
        kernel = tf.matmul(self._x, self._dz, transpose_a=True)
        return [kernel, tf.reduce_sum(self._dz, 1)] if self._bias else [kernel]


class Arranged(ExampleGradients):
    """Gradients in other shapes or parts, put into the shapes that the variables have.

    Args:
        parts: with the same elements as the variables, together.
        arrange: from the tensors of all parts, in order, to one tensor a variable; it leaves the leading axis alone.
    """

    def __init__(self, parts: Sequence[ExampleGradients], arrange: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self._parts, self._arrange = parts, arrange

    def squared_norms(self) -> Tensor:
        """Those of the parts together: no element is lost or counted twice."""
        return tf.add_n([part.squared_norms() for part in self._parts])

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """Arrange the parts' sums."""
        sums = [tensor[None] for part in self._parts for tensor in part.weighted_sum(weights)]
        return [tensor[0] for tensor in self._arrange(sums)]

    def each(self) -> list[Tensor]:
        """Arrange the parts' gradients."""
        return self._arrange([tensor for part in self._parts for tensor in part.each()])


def at_positions(x: Tensor, dz: Tensor, *, bias: bool) -> ExampleGradients:
    """Gradients of z = x W + b for x (B, T, K) and dz (B, T, O), in the form that takes fewer multiplications and no more memory.

    The two cost T^2 (K + O) and T K O multiplications an example, and hold 2 T^2 and K O values.
    """
    if x.shape[1] == 1:
        return Outer(x[:, 0], dz[:, 0], bias=bias)
    t, k, o = x.shape[1], x.shape[2], dz.shape[2]
    if t is not None and t * (k + o) < k * o and 2 * t * t < k * o:
        return Ghost(x, dz, bias=bias)
    if k <= o:
        return Materialised(Ghost(x, dz, bias=bias).each())
    turned = Materialised([tf.matmul(dz, x, transpose_a=True), *([tf.reduce_sum(dz, 1)] if bias else [])])
    return Arranged([turned], lambda g: [tf.linalg.matrix_transpose(g[0]), *g[1:]])  # long rows: half the time of k x o


def squares(tensor: Tensor) -> Tensor:
    """Sum the squares of each example, and what they lose where they are too small for float32: (B, ...) to (B,)."""
    rows = tf.reshape(tensor, [tf.shape(tensor)[0], -1])  # one axis: half the time of several
    return tf.reduce_sum(tf.square(rows), 1) + tf.cast(tf.shape(rows)[1], tf.float32) * LEAST


def gamma(operations: Tensor) -> Tensor:
    """How far a sum of products may be off after so many float32 operations, as a part of the sum of absolute values.

    n u / (1 - n u), times 1 + 2^-6 for the rounding of the bound itself; infinite where n u is no longer small.
    """
    share = operations * ROUNDING
    return tf.where(share < 0.5, (1.0 + 2.0**-6) * share / (1.0 - share), math.inf)
