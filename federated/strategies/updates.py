"""What a strategy is given of a round: the mean of what owners sent, and, where it needs them, what each of them sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from federated.tasks.update import Array, Setting, Weights

Named = Mapping[str, Weights]
"""Lists of arrays by name."""


@dataclass(frozen=True, repr=False)
class Asked:
    """What one owner is asked, see `Strategy.plan`.

    Args:
        config: what its trainer is told beside what all are, see `Strategy.config`.
        arrays: what its trainer is given beside the weights, see `Strategy.arrays`.
    """

    config: Mapping[str, Setting] = field(default_factory=dict)
    arrays: Named = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class OwnerUpdate:
    """What one owner sent.

    Attributes:
        owner: its name.
        delta: what training added to each of the weights, float64.
        examples: that it was trained on; 1 where owners count alike.
        metrics: name -> value, as the owner tells them.
        extra: what it gave beside, by name, see `Strategy.extra`.
    """

    owner: str
    delta: Weights
    examples: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Named = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Updates:
    """What came of a round.

    Attributes:
        mean: of what owners added to each of the weights, float64, weighted by their examples.
        extra: the mean of what they gave beside, weighted alike, by name, see `Strategy.extra`.
        examples: of all of them; where owners count alike, how many owners there were.
        owners: that the federation has, whether they were asked or not.
        metrics: name -> mean.
        single: each owner's own, in the order of their names; empty unless the strategy has `single_updates`.
    """

    mean: Weights
    extra: Named = field(default_factory=dict)
    examples: int = 1
    owners: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    single: tuple[OwnerUpdate, ...] = ()


def stacked(updates: Updates) -> list[Array]:
    """Return for each of the weights the single updates as one array (owners, *shape), float64."""
    return [np.stack(column).astype(np.float64, copy=False) for column in zip(*(one.delta for one in updates.single), strict=True)]
