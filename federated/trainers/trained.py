"""What a trainer of the user's own has to have, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from federated.tasks.update import Array

Remembered = dict[str, Any]
"""What a trainer remembers from round to round: numbers, texts, truth values, None and arrays, in dicts and lists."""


@dataclass(frozen=True, repr=False)
class Trained:
    """What came of training.

    Args:
        delta: what it added to each of the weights: arrays of their shapes, in their order. Zeros for integers and frozen ones.
        examples: that it was over, at least 1: the weight of this owner in the mean.
        metrics: name -> number, of the training.
        extra: name -> arrays, of what the strategy asks for beside; see `Strategy.extra`.
    """

    delta: Sequence[Array]
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Sequence[Array]] = field(default_factory=dict)


@runtime_checkable
class OwnTrainer(Protocol):
    """A trainer of the user's own, for one owner. It runs in a thread of the owner's process, one call after the other.

    Attributes:
        follows: names of settings that it does something about, see `train`; none if it has no such attribute. An owner that is asked
            for one of them refuses the round if its trainer does not name it.
    """

    def train(self, weights: list[Array], config: Mapping[str, Any], state: Remembered) -> Trained:
        """Train from the global weights.

        Args:
            weights: copies, its own to change.
            config: `round` (from 1 on), `epochs`, `batch_size` (None: all examples in one step), `seed`, of this round and owner, and
                `learning_rate` (None: it decides itself); and what the strategy says and gives, see `Strategy.config` and
                `Strategy.arrays`: the latter are lists of arrays, its own to change. It has `proximal` (mu of the term
                mu/2 ||w - w_global||^2), and `method` (such as "scaffold"), where that is asked for and the trainer follows it.
            state: what it put in there in earlier rounds of this run; empty at first. What it holds when training ends is kept.
        """

    # def evaluate(self, weights, config, state) -> tuple[dict[str, float], int]: metrics, and over how many examples. A trainer without
    # it evaluates nothing.


def passes(config: Mapping[str, Any], examples: int) -> Iterator[list[Array]]:
    """Yield for each epoch of a round its batches: numbers of examples in an order made from the seed; the last may be smaller.

    Args:
        config: as `train` is given it.
        examples: that the owner has, at least 1.
    """
    batch = int(config["batch_size"] or examples)
    for epoch in range(int(config["epochs"] or 1)):
        order = np.random.default_rng([int(config["seed"] or 0), epoch]).permutation(examples)
        yield [order[start : start + batch] for start in range(0, examples, batch)]
