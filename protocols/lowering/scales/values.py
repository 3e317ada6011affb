"""A value of a program while it is written: where it is, on which scale, and in which range."""

from __future__ import annotations

import math
from dataclasses import dataclass

from protocols.lowering.scales.intervals import Interval
from protocols.mpc.engine.values import Kind, Shape


@dataclass(frozen=True, eq=False)
class RangedValue:
    """A value of the program while it is written: where it is, what it is, and how large it can be."""

    position: int
    kind: Kind
    scale: float
    range: Interval

    @property
    def shape(self) -> Shape:
        """Without the batch axis."""
        return self.range.low.shape


def saturated(x: RangedValue, before: RangedValue, *, maximum: float, unit: float) -> Interval:
    """Return the range of x = min(before, maximum), which was made of two values rounded to multiples of `unit` or less."""
    slack = 4 * math.ceil(unit / x.scale)
    low = min(before.range.low.min() * before.scale, maximum) / x.scale - slack
    high = maximum / x.scale + slack
    return Interval(x.range.low.clip(low, high), x.range.high.clip(low, high), x.range.samples)
