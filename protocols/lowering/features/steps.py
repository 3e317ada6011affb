"""How finely each feature of the input must be known, as its `Normalization` or the samples say, and which have too few steps for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.lowering.features.places import Seen, vocabularies
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node, Real

ENOUGH = 256
"""Steps of the fixed point that a standard deviation should have: rounding is 1/512 of it then."""
CONSTANT = 1.001e-7
"""Keras divides by 1e-7 what did not vary when it was normalised: that says nothing of how finely it must be known."""
FEW_SAMPLES = 16
"""So many samples say how much a feature varies."""


@dataclass(frozen=True, eq=False)
class Spread:
    """What a model says of each element of its input; tables in the shape of an example.

    Attributes:
        whole: only whole numbers make sense.
        mean: where a normalisation has its zero; NaN where there is none.
        deviation: by which it, or the layer that reads it first, divides; infinite where that says nothing.
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


def spread_of(nodes: Sequence[Node], seen: Sequence[Seen | None]) -> Spread:
    """Return what the nodes of a model say of its input, by what reads it first, behind moves, public scales, rectifiers and clips.

    A normalisation, or whatever else scales and shifts channel by channel, says by how much and about what each varies. A dense layer or
    convolution whose weights differ from channel to channel by more than `ENOUGH` says how much those with the largest vary.
    """
    shape = nodes[0].shape
    mean, deviation = np.full(math.prod(shape), np.nan), np.full(math.prod(shape), np.inf)
    for node, value in zip(nodes[1:], seen[1:], strict=True):
        read = seen[node.inputs[0]] if node.inputs else None
        if read is None:
            continue
        if isinstance(node, net.ChannelAffine) and value is not None and value.weighed:
            _narrow(mean, deviation, value, about=-value.offset / value.scale)
        elif isinstance(node, net.Product | net.Convolution) and not read.weighed:
            _narrow(mean, deviation, read.scaled(_outstanding(node), 0.0), about=np.full(read.scale.shape, np.nan))
    return Spread(np.isfinite(vocabularies(nodes, seen)[0]), mean.reshape(shape), deviation.reshape(shape))


def _narrow(mean: Real, deviation: Real, value: Seen, *, about: Real) -> None:
    """Note that elements vary by what the value divides them by, where that is no more than what is known."""
    element, scale, about = value.element.reshape(-1), value.scale.reshape(-1), about.reshape(-1)
    divisor = np.divide(1.0, np.abs(scale), out=np.full(scale.shape, np.inf), where=scale != 0)
    smaller = divisor <= deviation[element]
    mean[element[smaller]], deviation[element[smaller]] = about[smaller], divisor[smaller]


def _outstanding(node: net.Product | net.Convolution) -> Real:
    """Return the largest weight of each channel that has one `ENOUGH` times as large as another channel has; 0 for other channels."""
    kernel = np.abs(node.kernel)
    if isinstance(node, net.Convolution):
        kh, kw, depth, filters = kernel.shape
        kernel = kernel.reshape(kh * kw, depth, node.groups, filters // node.groups).transpose(2, 1, 0, 3).reshape(depth * node.groups, -1)
    largest: Real = kernel.max(axis=1)
    least = largest[largest > 0].min(initial=np.inf)
    return np.where(largest >= ENOUGH * least, largest, 0.0)


def said(nodes: Sequence[Node], seen: Sequence[Seen | None], spread: Spread, samples: Real | None) -> tuple[Real, Real]:
    """Return the ends of the range of each element that need no rounding outwards; NaN where there are none.

    They are those of a table for what is looked up in it, and the only value of a feature that did not vary, on the samples either, when it
    was normalised: divided by 1e-7 anything else would be far away from all that was seen.
    """
    low, high = vocabularies(nodes, seen)
    if samples is not None:
        rows = _by_feature(samples)
        alone = np.broadcast_to((rows == rows[0]).all(axis=0), low.shape) & (spread.deviation <= CONSTANT)
        low, high = (np.where(alone, rows[0], end) for end in (low, high))
    return low, high


def coarse(spread: Spread, step: Real, varies: npt.NDArray[np.bool_], samples: Real | None) -> tuple[TooFewSteps, ...]:
    """Return the features that vary by less than `ENOUGH` steps, by the model's own normalisation or on the samples; the worst first.

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
