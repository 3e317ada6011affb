"""How finely each feature of the input must be known, as its `Normalization` or the samples say, and which have too few steps for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.lowering import network as net
from protocols.lowering.features.places import MOVES, moved, whole_numbers
from protocols.lowering.network import Node, Real

ENOUGH = 256
"""Steps of the fixed point that a standard deviation should have: rounding is 1/512 of it then."""
CONSTANT = 1.001e-7
"""Keras divides by 1e-7 what did not vary when it was normalised: that says nothing of how finely it must be known."""
NORMALISING = ("Normalization",)
FEW_SAMPLES = 16
"""So many samples say how much a feature varies."""


@dataclass(frozen=True, eq=False)
class Spread:
    """What a model says of each element of its input; tables in the shape of an example.

    Attributes:
        whole: only whole numbers make sense.
        mean: where a normalisation has its zero; NaN where there is none.
        deviation: by which it divides; infinite where there is none.
    """

    whole: npt.NDArray[np.bool_] = field(repr=False)
    mean: Real = field(repr=False)
    deviation: Real = field(repr=False)


@dataclass(frozen=True)
class TooFewSteps:
    """A feature of which the fixed point of the input keeps too little.

    Attributes:
        feature: its index along the last axis of an example.
        deviation: how much it varies, in its own unit.
        step: what the integer 1 stands for.
    """

    feature: int
    deviation: float
    step: float

    def __str__(self) -> str:
        return f"feature {self.feature} varies by {self.deviation:.3g}, and inputs have steps of {self.step:.3g}"


def spread_of(nodes: Sequence[Node]) -> Spread:
    """What the nodes of a model say of its input: those that are normalised before anything else is computed."""
    shape = nodes[0].shape
    size = math.prod(shape)
    mean, deviation = np.full(size, np.nan), np.full(size, np.inf)
    read: dict[int, tuple[npt.NDArray[np.int64], float, float]] = {0: (np.arange(size).reshape(shape), 1.0, 0.0)}
    for position, node in enumerate(nodes[1:], 1):
        known = [read[x] for x in node.inputs if x in read]
        if len(known) < len(node.inputs):
            continue
        places, scale, offset = known[0]
        if isinstance(node, MOVES) and all(each[1:] == (scale, offset) for each in known):
            read[position] = (moved(node, [each[0] for each in known]), scale, offset)
        elif isinstance(node, net.Rescale):
            read[position] = (places, scale * node.scale, offset * node.scale + node.offset)
        elif isinstance(node, net.Affine) and node.kind in NORMALISING and scale:
            with np.errstate(divide="ignore", invalid="ignore"):
                centre = (-node.shift / node.scale - offset) / scale
                divisor = 1 / np.abs(node.scale * scale)
            flat = places.reshape(-1)
            middle, each = (np.broadcast_to(table, places.shape).reshape(-1) for table in (centre, divisor))
            smaller = each < deviation[flat]
            mean[flat[smaller]], deviation[flat[smaller]] = middle[smaller], each[smaller]
    return Spread(whole_numbers(nodes), mean.reshape(shape), deviation.reshape(shape))


def coarse(spread: Spread, step: Real, varies: npt.NDArray[np.bool_], samples: Real | None) -> tuple[TooFewSteps, ...]:
    """The features that vary by less than `ENOUGH` steps, by the model's own normalisation or on the samples; the worst first.

    Args:
        spread: what the model says.
        step: what the integer 1 of each element stands for, in the shape of an example.
        varies: which elements have a range that is more than one value.
        samples: (n, *shape), or None.
    """
    steps = _by_feature(step).max(axis=0)
    known = varies & (spread.deviation > CONSTANT)
    width = np.where(_by_feature(known), _by_feature(spread.deviation), np.inf).min(axis=0)
    if samples is not None and len(samples) >= FEW_SAMPLES:
        seen = np.ptp(_by_feature(samples), axis=0)
        width = np.minimum(width, np.where((seen > 0) & _by_feature(varies).any(axis=0), seen, np.inf))
    found = [TooFewSteps(int(f), float(width[f]), float(steps[f])) for f in np.flatnonzero(width < ENOUGH * steps)]
    return tuple(sorted(found, key=lambda each: each.deviation / each.step))


def _by_feature(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Features are those of the last axis; all other axes are taken together."""
    return table.reshape(-1, table.shape[-1])
