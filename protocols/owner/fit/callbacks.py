"""Keras' callbacks over the epochs of a training on shares: they see what is told, and weights as something that only servers have."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from protocols.errors import InputError, ModelError

if TYPE_CHECKING:
    import keras

RATE = "learning_rate"
MOST = 8
"""FitCallbacks of one training, at most: the servers keep weights for each that asks."""
_KEPT = "weights kept at the servers for callback "

_INSTEAD = {
    "ModelCheckpoint": "give folder=: both servers then write their shares after each epoch, and EarlyStopping(restore_best_weights=True)"
    " goes back to the best of them",
    "OrbaxCheckpoint": "give folder=: both servers then write their shares after each epoch",
    "BackupAndRestore": "give folder= and resume=True: the training then goes on from the shares that both servers have written",
    "TensorBoard": "give CSVLogger, or take the logs of each epoch that fit yields",
    "SwapEMAWeights": "leave it out",
    "TerminateOnNaN": "leave it out: numbers that leave fixed point raise Diverged",
    "ProgbarLogger": "leave it out: progress=True shows how far an epoch is",
}
"""FitCallbacks of Keras that need weights, or what is known of single batches, and what to do in their place."""

_OF_BATCHES = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)


@dataclass(frozen=True)
class KeptWeights:
    """Weights that both servers keep, and nobody else has: what a callback gets in place of arrays, and may give back.

    Attributes:
        slot: under which they are kept.
    """

    slot: int

    def __iter__(self) -> Any:
        raise ModelError("the weights of a model that is trained on shares are not here: a callback can only give them back")


@dataclass
class _Wishes:
    """What callbacks have asked for: to stop, and in their order which weights to keep, or to go back to."""

    stop: bool = False
    weights: list[tuple[bool, int]] = field(default_factory=list)


class FittedModel:
    """What a callback knows as its model: the optimizer, whether to stop, and weights that it can keep and go back to.

    Args:
        optimizer: the owner's, whose learning rate callbacks may set.
        slot: for the weights that this callback keeps.
        wishes: of all callbacks.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, slot: int, wishes: _Wishes) -> None:
        self.optimizer, self._slot, self._wishes = optimizer, slot, wishes

    @property
    def stop_training(self) -> bool:
        """Say whether this epoch is the last."""
        return self._wishes.stop

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        self._wishes.stop = bool(stop)

    def get_weights(self) -> KeptWeights:
        """Have both servers keep the weights as they are, in place of what they kept for this callback before."""
        self._wishes.weights.append((True, self._slot))
        return KeptWeights(self._slot)

    def set_weights(self, weights: Any) -> None:
        """Have both servers go back to weights that they have kept.

        Raises:
            ModelError: other weights were given.
        """
        if not isinstance(weights, KeptWeights) or weights.slot != self._slot:
            raise ModelError("a callback set weights that it has from elsewhere: on shares it can go back to those of get_weights() only")
        self._wishes.weights.append((False, weights.slot))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a callback asked for model.{name}: of a model that is trained on shares there are the optimizer, stop_training, and"
            " get_weights() for set_weights(); its weights are revealed by SharedModel.reveal() only"
        )


class FitCallbacks:
    """Keras' callbacks between the beginning and the end of a training.

    Args:
        callbacks: the user's.
        model: compiled.
        epochs: up to which is trained.
        told: the names in the logs of an epoch.
        rising: those of which more is better; of all others less is.

    Raises:
        InputError: a callback needs weights, batches, or a metric that is not told. It is named.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        epochs: int,
        told: Collection[str],
        rising: Collection[str],
    ) -> None:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        self._each = [one for one in keras.tree.flatten(callbacks) if one is not None]
        if len(self._each) > MOST:
            raise InputError(f"{len(self._each)} callbacks were given, and {MOST} are possible on shares")
        for callback in self._each:
            _check(callback, keras, told)
        self._wishes, self._rising = _Wishes(), {*rising, *(f"val_{name}" for name in rising)}
        for slot, callback in enumerate(self._each):
            callback.set_model(FittedModel(model.optimizer, slot, self._wishes))
            callback.set_params({"epochs": epochs, "verbose": 0})
        self._fresh: list[dict[str, Any]] = []

    @property
    def stop(self) -> bool:
        """Say whether no more epochs are to come."""
        return self._wishes.stop

    def begin(self, memories: Sequence[Mapping[str, Any]] = ()) -> None:
        """Begin; `memories` are what each callback remembered when the training was interrupted."""
        for callback in self._each:
            callback.on_train_begin({})
        self._fresh = [_plain(callback) for callback in self._each]
        for callback, memory in zip(self._each, memories, strict=False):
            vars(callback).update({name: _recalled(value) for name, value in memory.items()})

    def epoch_begins(self, number: int) -> None:
        """Tell callbacks before an epoch, from 0."""
        for callback in self._each:
            callback.on_epoch_begin(number, {})

    def epoch_ends(self, number: int, logs: Mapping[str, float]) -> dict[str, float]:
        """Tell them after it, and return its logs with what callbacks have put there."""
        seen = dict(logs)
        for callback in self._each:
            _direct(callback, self._rising)
            callback.on_epoch_end(number, seen)
        return seen

    def validates(self, logs: Mapping[str, float] | None) -> None:
        """Tell them before the examples of a validation are looked at (None), and after it."""
        for callback in self._each:
            callback.on_test_begin({}) if logs is None else callback.on_test_end(dict(logs))

    def end(self, logs: Mapping[str, float]) -> None:
        """Tell them at the end."""
        for callback in self._each:
            callback.on_train_end(dict(logs))

    def asked(self) -> list[tuple[bool, int]]:
        """Return which weights were asked for since the last time: (True, slot) to keep them, (False, slot) to go back to them."""
        asked, self._wishes.weights = self._wishes.weights, []
        return asked

    def memories(self) -> list[dict[str, Any]]:
        """Return what each callback remembers, as far as it is plain and has changed since the beginning."""
        now = zip(self._fresh, map(_plain, self._each), strict=True)
        return [{name: value for name, value in one.items() if name not in fresh or fresh[name] != value} for fresh, one in now]


def _check(callback: Any, keras: Any, told: Collection[str]) -> None:
    base, name = keras.callbacks.Callback, type(callback).__name__
    if not isinstance(callback, base):
        raise InputError(f"callbacks={name} is no keras.callbacks.Callback")
    for kind, instead in _INSTEAD.items():
        if isinstance(callback, getattr(keras.callbacks, kind, ())):
            raise InputError(f"{name} needs weights, or what is known of single batches, and nobody has them here: {instead}")
    batches = [hook for hook in _OF_BATCHES if hook in vars(callback) or getattr(type(callback), hook) is not getattr(base, hook)]
    if batches:
        raise InputError(f"{name} has {' and '.join(batches)}: nothing is told of single batches on shares, only of epochs")
    monitor = getattr(callback, "monitor", None)
    if isinstance(monitor, str) and monitor not in {*told, RATE}:
        raise InputError(
            f"{name} monitors {monitor!r}, which is not told of an epoch ({', '.join(told) or 'nothing is'}): say metrics=, and for val_"
            " names validation_data="
        )


def _direct(callback: Any, rising: Collection[str]) -> None:
    """Tell a callback whether less of what it monitors is better, which Keras looks up in the metrics of a model that has been fitted."""
    monitor = getattr(callback, "monitor", None)
    if isinstance(monitor, str) and getattr(callback, "mode", None) == "auto":
        callback.mode = "max" if monitor in rising else "min"


def _plain(callback: Any) -> dict[str, Any]:
    """Return attributes that are numbers, texts or kept weights; not its settings, which are given anew."""
    made = [vars(kind)["__init__"] for kind in type(callback).__mro__ if "__init__" in vars(kind)]
    settings = {name for init in made for name in inspect.signature(init).parameters}
    found = {name: value.item() if isinstance(value, np.generic) else value for name, value in vars(callback).items()}
    kept = {name: f"{_KEPT}{value.slot}" if isinstance(value, KeptWeights) else value for name, value in found.items()}
    return {name: value for name, value in kept.items() if not name.startswith("_") and name not in settings and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and bool(np.isfinite(value)))


def _recalled(value: Any) -> Any:
    return KeptWeights(int(value.removeprefix(_KEPT))) if isinstance(value, str) and value.startswith(_KEPT) else value
