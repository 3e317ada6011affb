"""A network in the owner's hands: a list of plain nodes with real weights, between Keras and the program.

A node names its inputs by their position in the list. Weights are float64, layouts those of Keras with channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.curves.activations import Curve
from protocols.mpc.engine.values import Pair, Shape

Real = npt.NDArray[np.float64]
Padding = tuple[Pair, Pair]
NO_PADDING: Padding = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """An operation: from which layer it comes, what it reads, and the shape of what it gives (without the batch axis)."""

    layer: str
    kind: str
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Start(Node):
    """The input of the model."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Node):
    """x * kernel + bias; kernel (kh, kw, channels / groups, filters)."""

    kernel: Real
    bias: Real | None
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def multiplications(self) -> int:
        """How many an example needs."""
        return int(np.prod(self.shape[:2])) * self.kernel.size


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """x kernel + bias over the last axis; kernel (inputs, units)."""

    kernel: Real
    bias: Real | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelAffine(Node):
    """scale * x + shift with private values, one for each channel of the last axis."""

    scale: Real
    shift: Real


@dataclass(frozen=True, eq=False, kw_only=True)
class Shifted(Node):
    """x + shift with private numbers, one for each element."""

    shift: Real


@dataclass(frozen=True, eq=False, kw_only=True)
class Rescale(Node):
    """scale * x + offset with public numbers."""

    scale: float
    offset: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Scaled(Node):
    """x times a public table of powers of two, at least 1, of its shape."""

    table: Real


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Node):
    """Means over windows; where `padding` reaches into a window, over the part that lies inside."""

    size: Pair
    strides: Pair
    padding: Padding = NO_PADDING


@dataclass(frozen=True, eq=False, kw_only=True)
class Rectify(Node):
    """slope * (x - threshold) below the threshold, x above, never more than `maximum`."""

    slope: float = 0.0
    threshold: float = 0.0
    maximum: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """Largest of each window; what lies outside is not there. `size` (h, w) over (height, width, channels)."""

    size: Pair
    strides: Pair
    padding: Padding = NO_PADDING


@dataclass(frozen=True, eq=False, kw_only=True)
class Curved(Node):
    """A function of each element, as a spline over the range of its values."""

    curve: Curve


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Node):
    """exp(x) / sum exp(x) over the last axis, or its logarithm."""

    log: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class OneHot(Node):
    """[i <= x < i + 1] for i from 0 to the length of the last axis, which is new."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalised(Node):
    """(x - mean) / sqrt(variance + epsilon) over the last axis; if not `centred`, x / sqrt(mean of x x + epsilon)."""

    epsilon: float
    centred: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth(Node):
    """[x >= 0], or [x = 0], as 1 or 0."""

    equal: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Inverse(Node):
    """1 / x, or 1 / sqrt(x), of what is proved to be positive."""

    root: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Logarithm(Node):
    """log x of what is proved to be positive."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TopK(Node):
    """One-hot rows (k, n) of the k largest of a vector (n,), ties to the lower index."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Masked(Node):
    """Scores before a softmax: as they are where `keep`, and the second input if there is one, is 1; elsewhere so low that exp is 0."""

    keep: Real


@dataclass(frozen=True, eq=False, kw_only=True)
class Largest(Node):
    """The largest of several values, element for element; with `smallest`, the smallest."""

    smallest: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Multiplied(Node):
    """The product of several private values, element for element, broadcast."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Matrices(Node):
    """The matrix product of two private values over their last two axes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Taken(Node):
    """Slices along an axis."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Permuted(Node):
    """The axes in another order."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Shaped(Node):
    """The same elements in another shape."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Within(Node):
    """The same integers, which must be proved to lie in the closed range of their type in Keras, where they would wrap around."""

    dtype: str
    low: int
    high: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Padded(Node):
    """Zeros around height and width."""

    padding: Padding


@dataclass(frozen=True, eq=False, kw_only=True)
class Joined(Node):
    """Values joined along an axis (0 is the first after the batch)."""

    axis: int


@dataclass(frozen=True, eq=False, kw_only=True)
class SignedSum(Node):
    """A sum with signs."""

    signs: tuple[int, ...]


def windows(shape: Sequence[int], size: Pair, strides: Pair, padding: Padding = NO_PADDING, dilation: Pair = (1, 1)) -> Pair:
    """How many windows fit along height and width."""
    h, w = (
        (n + sum(pad) - step * (k - 1) - 1) // stride + 1
        for n, k, stride, pad, step in zip(shape[:2], size, strides, padding, dilation, strict=True)
    )
    return h, w


def same_padding(shape: Sequence[int], size: Pair, strides: Pair, dilation: Pair = (1, 1)) -> Padding:
    """TensorFlow's 'same': ceil(n / stride) windows, the odd zero at the end."""
    (top, left), (bottom, right) = zip(
        *(_same(n, step * (k - 1) + 1, stride) for n, k, stride, step in zip(shape[:2], size, strides, dilation, strict=True)), strict=True
    )
    return (top, bottom), (left, right)


def _same(n: int, reach: int, stride: int) -> Pair:
    total = max(0, (-(-n // stride) - 1) * stride + reach - n)
    return total // 2, total - total // 2
