"""Keras' callbacks over rounds, a round being an epoch; and what they remember, so that a resumed run has it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from federated.errors import SettingError
from privacy.keras_models import internals

if TYPE_CHECKING:
    import keras


TEST = "test_"
"""What metrics of the aggregator's own evaluation begin with."""


class Callbacks:
    """Keras' callbacks between the beginning and the end of training; a context manager.

    Args:
        callbacks: the user's.
        model: the global model.
        rounds: how many there will be.
        memories: what each callback remembered when the run was interrupted; none if it was not.
        evaluated: owners have evaluated in earlier rounds.
        steps: whether owners take steps of the model's optimizer, whose learning rate callbacks may set.

    Raises:
        SettingError: a callback sets what nobody follows.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        rounds: int,
        memories: Sequence[Mapping[str, Any]],
        *,
        evaluated: bool = False,
        steps: bool = True,
    ) -> None:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        _check(callbacks, keras, steps=steps)
        self._each, self._memories, self._evaluated = list(callbacks), memories, evaluated
        self._all = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=rounds, verbose=0)
        self._fresh: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._all.on_train_begin()
        self._fresh = [_plain(callback) for callback in self._each]
        for callback, memory in zip(self._each, self._memories, strict=False):
            vars(callback).update(memory)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._all.on_train_end()

    def begin(self, number: int) -> None:
        """Before round `number`, from 1 on."""
        self._all.on_epoch_begin(number - 1)

    def end(self, number: int, metrics: Mapping[str, float]) -> None:
        """After it. As long as no owner has evaluated, what the aggregator's own evaluation gives (`test_loss`) is `val_loss` as well.

        Raises:
            SettingError: a callback watches a metric of the aggregator's of which Keras does not know whether less is better.
        """
        self._evaluated = self._evaluated or any(name.startswith("val_") for name in metrics)
        own = {name: value for name, value in metrics.items() if name.startswith(TEST)}
        also = {} if self._evaluated else {f"val_{name.removeprefix(TEST)}": value for name, value in own.items()}
        for callback in self._each:
            _direct(callback)
        self._all.on_epoch_end(number - 1, dict(metrics) | also)

    def memories(self) -> tuple[dict[str, Any], ...]:
        """Return what each callback remembers: what has changed in it since the beginning, as far as it is plain."""
        now = [_plain(callback) for callback in self._each]
        return tuple(_changed(fresh, one) for fresh, one in zip(self._fresh, now, strict=True))


def _check(callbacks: Sequence[Any], keras: Any, *, steps: bool) -> None:
    """Refuse what does nothing here, or something else than it says."""
    kinds = keras.callbacks
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, (kinds.LearningRateScheduler, kinds.ReduceLROnPlateau)) and not steps:
            raise SettingError(
                f"{name} sets the learning rate of the model's optimizer, and owners give gradients: the step is the strategy's, by its "
                f"own rate (FedSGD(eta=...)). Leave {name} out, or use FedAvg(batch_size=None), whose owners follow it"
            )
        if isinstance(callback, kinds.SwapEMAWeights):
            raise SettingError(
                f"{name} puts the averages of the model's optimizer into it, and that optimizer makes no step here: owners do, and with "
                f"use_ema=True their averages are their updates. Leave {name} out"
            )


def _direct(callback: Any) -> None:
    """Tell a callback that watches `test_` a metric whether less of it is better: as of `val_` that metric, which Keras knows."""
    monitor = getattr(callback, "monitor", None)
    if not (isinstance(monitor, str) and monitor.startswith(TEST) and getattr(callback, "monitor_op", True) is None):
        return
    callback.monitor = f"val_{monitor.removeprefix(TEST)}"
    try:
        internals.find_direction(callback)
    except ValueError:
        raise SettingError(
            f"{type(callback).__name__}(monitor={monitor!r}): whether less of it is better is not known: give mode='min' or mode='max'"
        ) from None
    finally:
        callback.monitor = monitor


def _plain(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Attributes that are numbers, texts, or lists of arrays; not its settings, which are given anew."""
    made = [vars(kind)["__init__"] for kind in type(callback).__mro__ if "__init__" in vars(kind)]
    settings = {name for init in made for name in inspect.signature(init).parameters}
    found = {name: value.item() if isinstance(value, np.generic) else value for name, value in vars(callback).items()}
    return {name: value for name, value in found.items() if not name.startswith("_") and name not in settings and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, np.ndarray) for one in value)
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and np.isfinite(value))


def _changed(fresh: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if isinstance(value, list) or name not in fresh or fresh[name] != value}
