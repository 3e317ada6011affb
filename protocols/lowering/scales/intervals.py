"""Interval arithmetic over integers: for each element of a value, the range it can have, and what it was on the calibration samples.

Bounds are float64 with outward slack: sums are exact to a relative 2^-53 for each of at most 2^31 terms, and every result is widened by a
relative 1e-6 and one unit, so a bound is never too small. Samples are the same integers in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from protocols.lowering.nodes.network import Padding, Real
from protocols.mpc.engine.values import Pair

SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Interval:
    """low <= x <= high for each element (*shape); samples (n, *shape), n = 0 without calibration."""

    low: Real
    high: Real
    samples: Real

    @property
    def largest(self) -> float:
        """The largest absolute value that any element can have."""
        return float(max(-self.low.min(), self.high.max(), 0.0))

    @property
    def largest_sample(self) -> float:
        """The largest absolute value on the samples."""
        return float(np.abs(self.samples).max(initial=0.0))

    def expected(self, margin: float) -> float:
        """Return the largest absolute value by proof, or `margin` times that on the samples if there are any and that is less."""
        return min(self.largest, margin * self.largest_sample + 1) if len(self.samples) else self.largest

    def mapped(self, function: Callable[[Real], Real]) -> Interval:
        """Apply an increasing function, element for element or moving elements, of arrays (n, *shape)."""
        return Interval(function(self.low[None])[0], function(self.high[None])[0], function(self.samples))

    def part(self, axis: int, start: int, stop: int) -> Interval:
        """Of the elements from `start` to `stop` along an axis."""
        at = (*[slice(None)] * axis, slice(start, stop))
        return Interval(self.low[at], self.high[at], self.samples[(slice(None), *at)])

    def linear(self, function: Callable[[Real, Real], Real], weight: Real, bias: Real | None) -> Interval:
        """weight o x + bias: centre and radius, |weight| for the radius."""
        centre, radius = (self.low + self.high) / 2, (self.high - self.low) / 2
        middle, reach = function(centre[None], weight)[0], function(radius[None], np.abs(weight))[0]
        offset = 0.0 if bias is None else bias
        reach = reach + SLACK * (np.abs(middle) + np.abs(offset) + reach) + 1
        return Interval(middle - reach + offset, middle + reach + offset, function(self.samples, weight) + offset)

    def widened(self) -> Interval:
        """With slack for the float64 arithmetic that made the bounds."""
        slack = SLACK * np.maximum(np.abs(self.low), np.abs(self.high)) + 1
        return Interval(self.low - slack, self.high + slack, self.samples)

    def clipped(self, largest: float) -> Interval:
        """Cut to [-largest, largest]."""
        return Interval(self.low.clip(-largest, largest), self.high.clip(-largest, largest), self.samples)


def combined(values: list[Interval], factors: list[int], constant: int) -> Interval:
    """sum factor * value + constant."""
    low = sum((f * (v.low if f >= 0 else v.high) for v, f in zip(values, factors, strict=True)), np.float64(constant))
    high = sum((f * (v.high if f >= 0 else v.low) for v, f in zip(values, factors, strict=True)), np.float64(constant))
    samples = sum((f * v.samples for v, f in zip(values, factors, strict=True)), np.float64(constant))
    magnitude = sum(
        (abs(f) * np.maximum(np.abs(v.low), np.abs(v.high)) for v, f in zip(values, factors, strict=True)), np.float64(abs(constant))
    )
    slack = magnitude * 2.0**-40  # whole numbers stay whole where they are small
    return Interval(np.asarray(low) - slack, np.asarray(high) + slack, np.asarray(samples))


def convolve(
    x: Real, kernel: Real, *, strides: Pair, padding: Padding, dilation: Pair = (1, 1), groups: int = 1, grid: tuple[int, ...]
) -> Real:
    """x (n, H, W, C) * kernel in float64, tap by tap."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    kh, kw, channels, filters = kernel.shape
    each = filters // groups
    out = np.zeros((len(x), *grid, filters))
    for i, j in itertools.product(range(kh), range(kw)):
        rows = slice(i * dilation[0], i * dilation[0] + (grid[0] - 1) * strides[0] + 1, strides[0])
        columns = slice(j * dilation[1], j * dilation[1] + (grid[1] - 1) * strides[1] + 1, strides[1])
        patch = padded[:, rows, columns].reshape(len(x), *grid, groups, channels)
        taps = kernel[i, j].reshape(channels, groups, each).transpose(1, 0, 2)
        out += (patch[..., None, :] @ taps)[..., 0, :].reshape(out.shape) if groups > 1 else patch[..., 0, :] @ kernel[i, j]
    return out


def sums(x: Real, *, size: Pair, strides: Pair, padding: Padding, grid: tuple[int, ...]) -> Real:
    """Sum over windows of x (n, H, W, C): along the columns of each window, then along its row of sums."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    columns = np.zeros((len(x), grid[0], *padded.shape[2:]))
    for i in range(size[0]):
        columns += padded[:, i : i + (grid[0] - 1) * strides[0] + 1 : strides[0]]
    out = np.zeros((len(x), *grid, x.shape[3]))
    for j in range(size[1]):
        out += columns[:, :, j : j + (grid[1] - 1) * strides[1] + 1 : strides[1]]
    return out
