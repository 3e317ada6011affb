"""The loss of a compiled Keras model: which ones can be trained on shares."""

from __future__ import annotations

from typing import Any, NamedTuple

from protocols.errors import ModelError
from protocols.owner.compiled_graph import network
from protocols.owner.fit.heads import CompiledHead
from protocols.owner.objectives.endings import Compared
from protocols.owner.objectives.losses import FORMS
from protocols.training.networks.losses import Labels, Loss
from protocols.training.networks.own_loss import OwnLoss

_LOSSES: dict[str, str] = {
    "sparse_categorical_crossentropy": "labels",
    "categorical_crossentropy": "one-hot rows",
    "binary_crossentropy": "labels 0 and 1",
    "kl_divergence": "one-hot rows",
    "mean_squared_error": "numbers",
    "mean_absolute_error": "numbers",
    "huber": "numbers",
    "log_cosh": "numbers",
    "cosine_similarity": "numbers",
    "poisson": "numbers",
    "hinge": "signs",
    "squared_hinge": "signs",
    "categorical_hinge": "single ones",
    "binary_focal_crossentropy": "labels 0 and 1",
}
"""By the name of Keras' function: what it compares with."""

_ENDINGS: dict[str, tuple[str, ...]] = {
    "sparse_categorical_crossentropy": ("softmax",),
    "categorical_crossentropy": ("softmax",),
    "kl_divergence": ("softmax",),
    "binary_crossentropy": ("sigmoid",),
    "binary_focal_crossentropy": ("sigmoid",),
    "poisson": ("softplus", "exponential"),
}
"""The activations that belong to a loss, if the model ends in one."""

_SMOOTHED = ("categorical_crossentropy", "binary_crossentropy", "binary_focal_crossentropy")


class CompiledLoss(NamedTuple):
    """What a loss is on shares.

    Attributes:
        loss: itself.
        labels: what is made of targets first.
        summed: whether a batch counts as its sum instead of its mean.
    """

    loss: Loss
    labels: Labels
    summed: bool


def endings(head: CompiledHead) -> tuple[str, ...]:
    """Return the activations at the end of an output that belong to its loss, and not to the network."""
    return _ENDINGS.get(_name(head.loss), ())


def _name(loss: Any) -> str:
    return str(getattr(getattr(loss, "fn", loss), "__name__", ""))


def compiled_loss(head: CompiledHead, keras: Any, *, ending: str | None) -> CompiledLoss:
    """Return the loss that an output is compiled with; `ending` is the activation, one of `endings`, that the network ends in.

    Raises:
        ModelError: it cannot be trained on shares.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    loss = head.loss
    settings = loss.get_config() | internals.keywords_of_loss(loss) if isinstance(loss, keras.losses.Loss) else {}
    name = getattr(loss, "__name__", "") or str(settings.get("name"))
    wrapped = getattr(getattr(loss, "fn", loss), "__name__", name)
    if wrapped not in _LOSSES:
        return _own_loss(head, keras, ending=ending)
    parts = (type(loss), getattr(loss, "fn", type(loss))) if isinstance(loss, keras.losses.Loss) else (loss,)
    if not all(str(getattr(part, "__module__", "")).startswith("keras.") for part in parts):
        raise ModelError(f"the loss {wrapped!r} is one of your own with a name of Keras': on shares Keras' own can be trained")
    if settings.get("ignore_class") is not None:
        raise ModelError(f"the loss {wrapped!r} has ignore_class: on shares all labels count")
    reduction = settings.get("reduction", "sum_over_batch_size")
    if reduction not in ("sum_over_batch_size", "mean", "sum"):
        raise ModelError(f"the loss {wrapped!r} is reduced by {reduction!r}: on shares the mean over a batch, or its sum, is trained")
    if settings.get("axis", -1) != -1:
        raise ModelError(f"the loss {wrapped!r} has axis={settings['axis']}: on shares the last axis holds the outputs")
    _check_ending(wrapped, settings, ending)
    smoothing = float(settings.get("label_smoothing") or 0.0) if wrapped in _SMOOTHED else 0.0
    summed = reduction == "sum"
    if wrapped in FORMS:
        return CompiledLoss(FORMS[wrapped](settings, ending), Labels(), summed)
    known: dict[str, Loss] = {"mean_squared_error": "mse", "binary_crossentropy": "binary_crossentropy"}
    return CompiledLoss(known.get(wrapped, "crossentropy"), Labels(smoothing, wrapped == "kl_divergence"), summed)


def _own_loss(head: CompiledHead, keras: Any, *, ending: str | None) -> CompiledLoss:
    """Read a function of keras.ops, as layers are read.

    Raises:
        ModelError: it is one of Keras that has no form on shares, or cannot be read as one number, or some, of each example.
    """
    loss = head.loss
    function, name = getattr(loss, "fn", loss), _name(loss) or type(loss).__name__
    of_keras = str(getattr(function, "__module__", "")).startswith("keras.") or type(loss).__module__.startswith("keras.")
    if of_keras or isinstance(loss, keras.losses.Loss) or not callable(function):
        raise ModelError(f"the loss {name!r} cannot be trained on shares; {', '.join(_LOSSES)} can be, and a function of keras.ops")
    if ending or len(head.shape) != 1:
        raise ModelError(
            f"the loss {name!r} is a function of your own: on shares it needs a model with one axis of outputs, and no softmax"
        )
    (outputs,) = head.shape
    both = keras.Input((2 * outputs,))
    try:
        made = function(both[:, :outputs], both[:, outputs:])
        if len(made.shape) not in (1, 2) or made.shape[0] is not None:
            raise ModelError("it gives one number for all examples: take the mean over axis=-1")
        read = network(keras.Model(both, made if len(made.shape) == 2 else keras.ops.expand_dims(made, -1)), Compared(True, ()))
    except (ModelError, ValueError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ModelError) else f"{type(error).__name__} in it"
        raise ModelError(f"the loss {name!r} is a function of your own that cannot be read: {reason}") from None
    if read.kept or any(read.endings):
        raise ModelError(f"the loss {name!r} is a function of your own with a table of numbers, or a softmax: on shares it has neither")
    return CompiledLoss(OwnLoss(name, read.layers, read.outputs), Labels(), summed=False)


def _check_ending(wrapped: str, settings: dict[str, Any], ending: str | None) -> None:
    """Refuse an end of the network that does not belong to the loss.

    Raises:
        ModelError: it does not.
    """
    fitting = _ENDINGS.get(wrapped, ())
    if not fitting:
        if ending:
            raise ModelError(f"a {ending} with {wrapped} cannot be trained on shares; use a cross-entropy")
        return
    logits = bool(settings.get("from_logits", False))
    if (ending is None) == logits and (logits or ending in fitting):
        return
    either = f"end in a {' or a '.join(fitting)}"
    if "from_logits" in settings or wrapped.endswith("crossentropy"):
        raise ModelError(
            f"the loss {wrapped!r} says from_logits={logits}, and the model ends"
            f" {f'in a {ending}' if ending else f'without a {fitting[0]}'}:"
            f" either end without one and say from_logits=True, or {either} and say from_logits=False"
        )
    raise ModelError(f"the loss {wrapped!r} on shares needs a model that ends in a {' or a '.join(fitting)}")


def check_named(model: Any, keras: Any) -> None:
    """Refuse names of losses that Keras resolves by shapes only.

    Raises:
        ModelError: there is one.
    """
    for loss in keras.tree.flatten(model.loss):
        if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
            raise ModelError(f"loss={loss!r} stands for one of three cross-entropies: on shares name the one that is meant")


def expects(head: CompiledHead) -> str:
    """Return what a loss compares with: labels, one-hot rows, single ones in rows, labels 0 and 1, signs, or numbers."""
    return _LOSSES.get(_name(head.loss), "numbers")
