"""How a fit goes, as its owner has said it: checked before anything is sent."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from protocols.accounting.agreed import check_asked
from protocols.errors import InputError

if TYPE_CHECKING:
    import keras

    from privacy.ledger import Ledger
    from privacy.mechanisms import DPSGD


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What `SharedModel.fit` says of its arguments, but for the data.

    Raises:
        InputError: a number is out of its range, or settings do not go together.
    """

    epochs: int
    batch_size: int
    shuffle: bool
    metrics: bool | Collection[str]
    memory: int
    folder: str | os.PathLike[str] | None = None
    resume: bool = False
    save_every: int | None = None
    progress: bool = False
    callbacks: Sequence[keras.callbacks.Callback] = ()
    initial_epoch: int = 0
    class_weight: Mapping[int, float] | None = None
    privacy: DPSGD | None = None
    ledger: Ledger | None = None
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "memory", "initial_epoch", "save_every", "micro_batch_size"):
            if (number := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, number))
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError(f"epochs={self.epochs}, batch_size={self.batch_size}; at least 1 is needed")
        if self.micro_batch_size is not None and not 1 <= self.micro_batch_size <= self.batch_size:
            raise InputError(
                f"micro_batch_size={self.micro_batch_size}; from 1 to batch_size={self.batch_size} examples of a step are computed together"
            )
        if not 0 <= self.initial_epoch < self.epochs:
            raise InputError(f"initial_epoch={self.initial_epoch}; a whole number from 0 and below epochs={self.epochs} is needed")
        if self.folder is None and (self.resume or self.save_every is not None):
            raise InputError("resume= and save_every= need the folder of the training: give folder=")
        if self.save_every is not None and self.save_every < 1:
            raise InputError(f"save_every={self.save_every}; at least 1 step is needed")

    def protecting(self, *, validated: bool) -> FitSettings:
        """Return the settings of a private training, which tells nothing of examples; others as they are.

        Raises:
            InputError: something else than weights would be told, or a ledger has nothing to count.
        """
        if self.privacy is None:
            if self.ledger is not None:
                raise InputError("ledger= counts what privacy= reveals: give both, or neither")
            return self
        check_asked(self.privacy, self.ledger, self.metrics)
        if validated:
            raise InputError(
                "validation_data= and validation_split= tell sums over examples without noise, and these are outside of the guarantee of"
                " privacy=: leave them out, and evaluate what is revealed on examples that may be told of"
            )
        return replace(self, metrics=False)


def whole(name: str, number: object) -> int:
    """Return a setting as an integer.

    Raises:
        InputError: it is none, or larger than any that means something.
    """
    if not isinstance(number, SupportsIndex):
        raise InputError(f"{name}={number!r}; a whole number is needed")
    found = int(operator.index(number))
    if abs(found) >= 1 << 48:
        raise InputError(f"{name}={number}; less than 2^48 is possible")
    return found


class LogNames(NamedTuple):
    """The names of what is told, as Keras has them in the logs of an epoch.

    Attributes:
        loss: whether the loss is told.
        metrics: the names of the metric that is told, none if it is not; of several outputs those of all of them.
        places: of several outputs: whose metric each of these is.
        losses: of several outputs: the names of their losses.
    """

    loss: bool
    metrics: tuple[str, ...]
    places: tuple[int, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """Return all of them."""
        return [*["loss", *self.losses] * self.loss, *self.metrics]

    def logs(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what is told, by these names, of `values`: "loss" and "metric", of several outputs "loss 0", "metric 0", ... as well."""
        keys = {"loss": "loss"} | {name: f"loss {place}" for place, name in enumerate(self.losses)} if self.loss else {}
        places = [f"metric {place}" for place in self.places] or ["metric"] * len(self.metrics)
        return {name: values.get(key, float("nan")) for name, key in (keys | dict(zip(self.metrics, places, strict=True))).items()}
