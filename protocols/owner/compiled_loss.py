"""The loss of a compiled Keras model: which ones can be trained on shares."""

from __future__ import annotations

import math
from typing import Any

from protocols.errors import ModelError
from protocols.training.networks.losses import Loss

_LOSSES: dict[str, str] = {
    "sparse_categorical_crossentropy": "labels",
    "categorical_crossentropy": "one-hot rows",
    "binary_crossentropy": "labels 0 and 1",
    "mean_squared_error": "numbers",
}


def compiled_loss(model: Any, keras: Any, *, ending: str | None) -> Loss:
    """The loss that `model` is compiled with; `ending` is "softmax" or "sigmoid" if the network ends in one.

    Raises:
        ModelError: it cannot be trained on shares.
    """
    loss = _given(model, keras)
    settings = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    name = getattr(loss, "__name__", "") or str(settings.get("name"))
    wrapped = getattr(getattr(loss, "fn", loss), "__name__", name)
    if wrapped not in _LOSSES:
        raise ModelError(f"the loss {wrapped!r} cannot be trained on shares; {', '.join(_LOSSES)} can be")
    parts = (type(loss), getattr(loss, "fn", type(loss))) if isinstance(loss, keras.losses.Loss) else (loss,)
    if not all(str(getattr(part, "__module__", "")).startswith("keras.") for part in parts):
        raise ModelError(f"the loss {wrapped!r} is one of your own with a name of Keras': on shares Keras' own can be trained")
    if settings.get("label_smoothing") or settings.get("ignore_class") is not None:
        raise ModelError(f"the loss {wrapped!r} has label_smoothing or ignore_class: on shares it has neither")
    if settings.get("reduction", "sum_over_batch_size") not in ("sum_over_batch_size", "mean"):
        raise ModelError(f"the loss {wrapped!r} is reduced by {settings['reduction']!r}: on shares the mean over a batch is trained")
    if wrapped == "mean_squared_error":
        if ending:
            raise ModelError(f"a {ending} with mean_squared_error cannot be trained on shares; use a cross-entropy")
        return "mse"
    if settings.get("axis", -1) != -1:
        raise ModelError(f"the loss {wrapped!r} has axis={settings['axis']}: on shares the last axis holds the outputs")
    fitting = "sigmoid" if wrapped == "binary_crossentropy" else "softmax"
    logits = bool(settings.get("from_logits", False))
    if ending != (None if logits else fitting):
        raise ModelError(
            f"the loss {wrapped!r} says from_logits={logits}, and the model ends {f'in a {ending}' if ending else f'without a {fitting}'}:"
            f" either end without one and say from_logits=True, or end in a {fitting} and say from_logits=False"
        )
    return "binary_crossentropy" if fitting == "sigmoid" else "crossentropy"


def _given(model: Any, keras: Any) -> Any:
    """The one loss of a model, alone or in a list or dict as `compile` takes it.

    Raises:
        ModelError: there is none or more than one.
    """
    losses = [one for one in keras.tree.flatten(model.loss) if one is not None]
    if len(losses) != 1:
        raise ModelError(f"model {model.name!r} is compiled with {len(losses)} losses: one is trained on shares")
    return keras.losses.get(losses[0])


def check_named(model: Any, keras: Any) -> None:
    """Refuse names of losses that Keras resolves by shapes only.

    Raises:
        ModelError: there is one.
    """
    for loss in keras.tree.flatten(model.loss):
        if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
            raise ModelError(f"loss={loss!r} stands for one of three cross-entropies: on shares name the one that is meant")


def loss_weight(model: Any) -> float:
    """How many times the loss counts: what `compile(loss_weights=)` says of a model with one output.

    Raises:
        ModelError: it is not one number above 0.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    given = internals.loss_weights(model)
    weights = [1.0] if given is None else [float(one) for one in keras.tree.flatten(given)]
    if len(weights) != 1 or not 0.0 < weights[0] < math.inf:
        raise ModelError(f"loss_weights={given} cannot be trained on shares: one number above 0 is needed for the one loss")
    return weights[0]


def expects(model: Any) -> str:
    """What the loss compares with: labels, one-hot rows, labels 0 and 1, or numbers."""
    import keras  # noqa: PLC0415  only the owner needs Keras

    loss = _given(model, keras)
    return _LOSSES[getattr(getattr(loss, "fn", loss), "__name__", "")]
