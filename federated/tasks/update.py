"""What travels between the aggregator and an owner: tasks one way, updates and evaluations the other. Plain values and arrays only."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Weights = list[Array]
"""The arrays of `model.get_weights()`, in its order: float32 or float64; integers of weights that are not trained stay as they are."""


Setting = bool | int | float | str | None
"""What a strategy tells a trainer of the owner's own."""


TAKEN = ("round", "epochs", "batch_size", "seed", "learning_rate", "proximal", "method")
"""Names that trainers of owners' own are told anyway."""


@dataclass(frozen=True)
class Extra:
    """Arrays that owners give beside an update: their name, and of each its dtype, as NumPy writes it, and shape."""

    name: str
    forms: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def templates(self) -> list[Array]:
        """Zeros of these forms, that take no memory."""
        return [np.broadcast_to(np.zeros((), dtype), shape) for dtype, shape in self.forms]


def _nothing() -> Array:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, repr=False)
class Blueprint:
    """A compiled Keras model without its weights, as text: no code travels.

    Args:
        architecture: JSON of `keras.saving.serialize_keras_object(model)`.
        compilation: JSON of `model.get_compile_config()`: optimizer, loss, metrics.
        adapters: of low rank, as `federated.models.adapters` says them; empty: there are none.
    """

    architecture: str
    compilation: str
    adapters: str = ""


@dataclass(frozen=True)
class Bound:
    """How an owner bounds what its update tells, before it leaves.

    Args:
        clip_norm: the largest L2 norm over all arrays together; a longer update is scaled down to it.
        stddev: of the discrete Gaussian noise that the owner adds to each value; 0 for none.
        step: with noise, values are rounded to multiples of it, a power of two.
        counts: tell whether the update was clipped, as the metric `within`: -1/2 if it was, else 1/2.
    """

    clip_norm: float
    stddev: float = 0.0
    step: float = 0.0
    counts: bool = False


@dataclass(frozen=True)
class LocalTraining:
    """How an owner trains in one round.

    Args:
        epochs: passes over its data, at least 1.
        batch_size: examples a step, at least 1; None: all of them in one step. Only for arrays: data sets come in batches already.
        gradient: give the gradient of the loss at the weights of the task, instead of training.
        proximal: mu of the term mu/2 ||w - w_global||^2 that is added to the loss; 0 for none (Li et al., 2020, arXiv:1812.06127).
        learning_rate: of the optimizer; None: as in the blueprint.
        seed: of the order of the examples.
        noise_multiplier: z; above 0: train by DP-SGD, and give no metrics.
        max_grad_norm: C, of DP-SGD.
        rate: q, with which an example takes part in a step of DP-SGD.
        bound: None: the update as it is. Otherwise it is clipped, counts as one example, and comes without metrics, which have no noise.
        states: of each metric of the model, in its order, how many values its states have, which are given to be summed; 0: its value is
            given. Empty: all values are. Not with noise or a bound.
        rounds: that have moved the model before, for a learning rate that follows a schedule: it goes on after as many times the steps
            that this owner makes in a round.
        begun: steps that the schedule has behind it besides, made before the run: those of an optimizer that came with the model.
        alike: the update counts as one example.
        method: the way in which an owner with Keras trains; empty: as Keras' `fit`. See `federated/owners/methods`.
    """

    epochs: int = 1
    batch_size: int | None = 32
    gradient: bool = False
    proximal: float = 0.0
    learning_rate: float | None = None
    seed: int = 0
    noise_multiplier: float = 0.0
    max_grad_norm: float = 0.0
    rate: float = 0.0
    bound: Bound | None = None
    states: tuple[int, ...] = ()
    rounds: int = 0
    begun: int = 0
    alike: bool = False
    method: str = ""


@dataclass(frozen=True, repr=False)
class Task:
    """What an owner is asked to do in round `round`: start from `weights`, train as `training` says.

    Args:
        round: from 1 on.
        blueprint: of the model; None: there is none that Keras knows, and owners have trainers of their own.
        weights: of the model.
        training: how.
        run: tells apart rounds of the same number in different runs.
        lineage: the same for all runs that went on with one another, and for no others: what a trainer remembers is kept by it.
        config: what the strategy says to trainers of the owners' own.
        moved: of each of the weights, whether it is trained; empty: all that are no integers.
        arrays: what the strategy gives beside the weights, by name.
        extra: what it asks for beside the update: such arrays are behind those of `Update.delta`, in this order.
        sent: of each of the weights, whether rounds may change it: the others are in no update; empty: all that are no integers.
        base: `base_digest` of the blueprint and those others; empty: nobody has computed it. A task that arrives with one is `light`, and
            `federated.tasks.base.Bases` makes it whole; of any other task that arrives it is empty, so that nobody's word is taken for it.
    """

    round: int
    blueprint: Blueprint | None
    weights: list[Array]
    training: LocalTraining
    run: str = ""
    lineage: str = ""
    config: dict[str, Setting] = field(default_factory=dict)
    moved: tuple[bool, ...] = ()
    arrays: dict[str, list[Array]] = field(default_factory=dict)
    extra: tuple[Extra, ...] = ()
    sent: tuple[bool, ...] = ()
    base: bytes = b""

    @cached_property
    def travelling(self) -> tuple[bool, ...]:
        """Of each of the weights of a whole task, whether it is in an update."""
        return self.sent or self._floats

    @property
    def _floats(self) -> tuple[bool, ...]:
        return tuple(array.dtype.kind == "f" for array in self.weights)

    @cached_property
    def changing(self) -> Weights:
        """The weights that rounds may change."""
        return [array for array, travels in zip(self.weights, self.travelling, strict=True) if travels]

    @cached_property
    def kept(self) -> Weights:
        """The others."""
        return [array for array, travels in zip(self.weights, self.travelling, strict=True) if not travels]

    @cached_property
    def summed(self) -> list[Array]:
        """Arrays of the shapes and dtypes of an update: weights that rounds may change, and behind them what is asked for beside."""
        return [*self.changing, *(template for one in self.extra for template in one.templates)]

    @property
    def bounded(self) -> tuple[bool, ...]:
        """Of each of these, whether it counts in the norm of an update, and has noise where there is noise."""
        moved = [one for one, travels in zip(self.moved or self._floats, self.travelling, strict=True) if travels]
        return (*moved, *(True for one in self.extra for _ in one.forms))

    @property
    def given(self) -> int:
        """Bytes of the arrays in it that travel in each round."""
        return size(self.changing) + sum(size(arrays) for arrays in self.arrays.values())

    @cached_property
    def light(self) -> Task:
        """The task without what its base has: what travels in each round. Only of one whose base is known."""
        return dataclasses.replace(self, blueprint=None, weights=self.changing, sent=self.travelling)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it: two owners that have the same were asked the same."""
        base = self.base or base_digest(self.blueprint, self.kept)
        beside = sorted(self.arrays.items())
        more = [(name, _forms(arrays)) for name, arrays in beside]
        which = self.moved, self.travelling, _forms(self.changing)
        said = (self.run, self.lineage, self.round, base, self.training, sorted(self.config.items()), *which, more, self.extra)
        return _hashed(("confide task", *said), [*self.changing, *(array for _, arrays in beside for array in arrays)])


def base_digest(blueprint: Blueprint | None, kept: Weights) -> bytes:
    """Return the SHA-256 of what is the same in all rounds: the blueprint, and weights that no round changes, with their forms."""
    plan = None if blueprint is None else (blueprint.architecture, blueprint.compilation, blueprint.adapters)
    return _hashed(("confide base", plan, _forms(kept)), kept)


def _forms(arrays: Weights) -> list[tuple[tuple[int, ...], str]]:
    return [(array.shape, array.dtype.str) for array in arrays]


def _hashed(said: tuple[Any, ...], arrays: Weights) -> bytes:
    hashed = hashlib.sha256(msgspec.msgpack.encode(said))
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.digest()


@dataclass(frozen=True, repr=False)
class Update:
    """What an owner gives back.

    Args:
        round: that it belongs to.
        delta: what training added to those weights of the task that rounds may change, same shapes and dtypes; with `gradient`, minus the
            gradient (and what the forward pass added to weights that are not trained, the statistics of BatchNormalization). Behind them
            the arrays of `Task.extra`.
        examples: that it was trained on, at least 1.
        metrics: name -> value over the last local epoch, as Keras' `fit` tells it: of those whose states are not given.
        evaluates: whether the owner has evaluation data.
        states: of the metrics that `LocalTraining.states` asks for, after the last local epoch, one behind the other: a vector of float32
            or float64; empty if this owner tells no metrics.
    """

    round: int
    delta: list[Array]
    examples: int
    metrics: dict[str, float]
    evaluates: bool = False
    states: Array = field(default_factory=_nothing)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of given weights on an owner's evaluation data, over `examples` examples; 0 if it has none. States as in `Update`."""

    round: int
    examples: int
    metrics: dict[str, float]
    states: Array = field(default_factory=_nothing, compare=False)


def size(weights: Weights) -> int:
    """Bytes of the arrays."""
    return sum(array.nbytes for array in weights)
