"""The loss of a compiled Keras model: which ones can be trained on shares."""

from __future__ import annotations

from typing import Any

from protocols.errors import ModelError
from protocols.training.losses import Loss

_LOSSES = {
    "sparse_categorical_crossentropy": "labels",
    "categorical_crossentropy": "one-hot rows",
    "mean_squared_error": "numbers",
}


def compiled_loss(model: Any, keras: Any, *, softmax: bool) -> Loss:
    """The loss that `model` is compiled with; `softmax` says whether the network ends in one.

    Raises:
        ModelError: it cannot be trained on shares.
    """
    loss = keras.losses.get(model.loss)
    settings = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    name = getattr(loss, "__name__", "") or str(settings.get("name"))
    wrapped = getattr(getattr(loss, "fn", loss), "__name__", name)
    if wrapped not in _LOSSES:
        raise ModelError(f"the loss {wrapped!r} cannot be trained on shares; {', '.join(_LOSSES)} can be")
    if settings.get("label_smoothing") or settings.get("ignore_class") is not None:
        raise ModelError(f"the loss {wrapped!r} has label_smoothing or ignore_class: on shares it has neither")
    if settings.get("reduction", "sum_over_batch_size") not in ("sum_over_batch_size", "mean"):
        raise ModelError(f"the loss {wrapped!r} is reduced by {settings['reduction']!r}: on shares the mean over a batch is trained")
    if wrapped == "mean_squared_error":
        if softmax:
            raise ModelError("a softmax with mean_squared_error cannot be trained on shares; use categorical_crossentropy")
        return "mse"
    if bool(settings.get("from_logits", False)) == softmax:
        raise ModelError(
            f"the loss {wrapped!r} says from_logits={softmax}, and the model ends {'in' if softmax else 'without'} a softmax:"
            " either end without one and say from_logits=True, or end in one and say from_logits=False"
        )
    return "crossentropy"


def expects(model: Any) -> str:
    """What the loss compares with: labels, one-hot rows, or numbers."""
    import keras  # noqa: PLC0415  only the owner needs Keras

    loss = keras.losses.get(model.loss)
    return _LOSSES[getattr(getattr(loss, "fn", loss), "__name__", "")]
