"""Scores of examples: the higher, the more probably the model was trained on it. Knows nothing of guesses and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import SettingError


def loss_scores(model: Any, x: Any, y: Any, *, batch_size: int = 256) -> NDArray[np.float64]:
    """Minus the loss of each example, by the compiled loss of the model: all that somebody with only predictions can see.

    Args:
        model: a compiled `keras.Model`; logits or probabilities, as its loss expects.
        x: inputs (m, ...), or a nest of such arrays.
        y: targets, likewise.
        batch_size: examples that are computed at once.

    Returns:
        (m,) float64.

    Raises:
        SettingError: the model is not compiled with a loss.
        SamplingRefused: x and y are not arrays, or of different lengths.

    References:
        Yeom et al., 2018, arXiv:1709.01604, Adversary 2.
    """
    return _each_batch(model, x, y, batch_size, lambda x, y: -_losses(model, x, y))


def update_scores(model: Any, start: Sequence[NDArray[Any]], x: Any, y: Any, *, batch_size: int = 256) -> NDArray[np.float64]:
    """How far the training went against the gradient of each example: <grad loss_i(w_0), w_0 - w_T>.

    For whoever sees the weights before and after: in a federation, the global model of a round and the next one. Forward differentiation
    along w_0 - w_T gives the products of a whole batch in one pass.

    Args:
        model: a compiled `keras.Model` after the training; its weights are as before afterwards.
        start: w_0 as `[v.numpy() for v in model.trainable_variables]` gave it before the training.
        x: inputs (m, ...), or a nest of such arrays.
        y: targets, likewise.
        batch_size: examples that are computed at once.

    Returns:
        (m,) float64.

    Raises:
        SettingError: the model is not compiled with a loss, or `start` has other shapes than its trainable weights.
        SamplingRefused: x and y are not arrays, or of different lengths.

    References:
        Steinke, Nasr, Jagielski, 2023, arXiv:2305.08846, Section 6 (white-box). Andrew et al., 2023, arXiv:2302.03098, Algorithm 2.
    """
    import tensorflow as tf  # noqa: PLC0415  takes seconds

    variables = list(model.trainable_variables)
    end = [variable.numpy() for variable in variables]
    if [np.shape(array) for array in start] != [array.shape for array in end]:
        raise SettingError(f"start has {len(start)} arrays that do not have the shapes of the {len(end)} trainable weights of the model")
    tangents = [tf.constant(before - after, variable.dtype) for before, after, variable in zip(start, end, variables, strict=True)]

    def products(x: Any, y: Any) -> Any:
        with tf.autodiff.ForwardAccumulator([variable.value for variable in variables], tangents) as along:
            losses = _losses(model, x, y)
        return along.jvp(losses, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    try:
        _assign(variables, start)
        return _each_batch(model, x, y, batch_size, products)
    finally:
        _assign(variables, end)


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _losses(model: Any, x: Any, y: Any) -> Any:
    from privacy.rules.losses import each_loss  # noqa: PLC0415  imports TensorFlow

    return each_loss(model, x, y, model(x, training=False), None)


def _each_batch(model: Any, x: Any, y: Any, batch_size: int, function: Any) -> NDArray[np.float64]:
    import tensorflow as tf  # noqa: PLC0415  takes seconds

    from privacy.examples import Examples, split  # noqa: PLC0415  imports TensorFlow

    if not model.compiled or model.loss is None:
        raise SettingError("the model is not compiled with a loss: compile it, as there is no score without one")
    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}: at least 1 is needed")
    parts = split(Examples(x, y).take(slice(None)), batch_size)
    found = [np.asarray(function(*tf.nest.map_structure(tf.constant, part)), np.float64) for part in parts]
    return np.concatenate([*found, np.zeros(0)])
