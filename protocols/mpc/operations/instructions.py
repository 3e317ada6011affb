"""The operations of a program, as everybody knows them: what each reads, and its public numbers.

What an operation means for shapes is in `mpc/program.py`; how it runs is in the file of its name here. This file knows no shares.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Shape = tuple[int, ...]


Kind = Literal["wire", "share"]


Pair = tuple[int, int]


class Op(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An operation of a program. Its position in the program is the number of the value that it makes."""


class Input(Op, frozen=True):
    """The client's example, masked by the client: a wire."""


class ClampedInput(Op, frozen=True):
    """The client's example, cut into [low, high] whatever ring element was sent: a wire under a new mask. Rounds: 3 (`clamp.py`).

    Tuples have an edge for each feature: tables of `shape`, broadcast over the example as numpy does.
    """

    low: int | tuple[int, ...]
    high: int | tuple[int, ...]
    shape: Shape = ()


class Open(Op, frozen=True):
    """Turns share `x` into a wire: both servers open x + lambda. Rounds: 1. Bytes: 8 an element and direction."""

    x: int


class AsShare(Op, frozen=True):
    """Turns wire `x` into a share without communication: m - lambda_0 and -lambda_1."""

    x: int


class Dense(Op, frozen=True):
    """Z = X W (+ b) over the last axis of wire `x`; W has shape (inputs, units), b (units,), both shared."""

    x: int
    weight: int
    bias: int | None = None


class Conv2D(Op, frozen=True):
    """Z = X * W (+ b): wire `x` (H, W, C), kernel (kh, kw, C / groups, filters), cross-correlation as in Keras, channels last.

    `padding` is ((top, bottom), (left, right)) zeros. Depthwise convolution is `groups` = C with filters ordered by input channel.
    """

    x: int
    weight: int
    bias: int | None = None
    strides: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1


class Shift(Op, frozen=True):
    """Z = X + B, element for element: share `x`, a shared weight of its shape."""

    x: int
    weight: int


class Truncate(Op, frozen=True):
    """t = floor(x / 2^drop) + u, u in {0, 1} random: unbiased stochastic rounding of share `x` (section 2.3, step 2). Rounds: 1.

    Holds for |x| <= 2^(drop + window - 1) - 2^(drop + 1).
    """

    x: int
    drop: int
    window: int


class Select(Op, frozen=True):
    """y = D * (positive * t + step) + (1 - D) * negative * t with t as in `Truncate` and D = [t >= 0]. Rounds: 3.

    ReLU is (1, 0, 0); LeakyReLU is (2^q, a, 0); a threshold theta is x - theta with step theta. Same precondition as `Truncate`.
    """

    x: int
    drop: int
    window: int
    positive: int = 1
    negative: int = 0
    step: int = 0


class Piecewise(Op, frozen=True):
    """y = slopes[k] t + offsets[k] with t as in `Truncate` and k the number of `knots` <= t: any piecewise linear function. Rounds: 3.

    `knots` increase; there is one slope and one offset more than knots. A step function has slopes 0. Holds for
    |x| <= 2^(drop + window - 2) - 2^(drop + 1) and |knots| <= 2^(window - 2): differences of both are compared.
    """

    x: int
    drop: int
    window: int
    knots: tuple[int, ...]
    slopes: tuple[int, ...]
    offsets: tuple[int, ...]


class Hadamard(Op, frozen=True):
    """Z = X Y, element for element, of wires `x` and `y`: as many axes each, broadcast as numpy does."""

    x: int
    y: int


class MatMul(Op, frozen=True):
    """Z = X Y over the last two axes of wires `x` (..., n, k) and `y` (..., k, m); the axes before are the same."""

    x: int
    y: int


class Reshape(Op, frozen=True):
    """The elements of `x` in row-major order, in another shape (without the batch axis)."""

    x: int
    shape: Shape


class Permute(Op, frozen=True):
    """The axes of `x` in another order; 0 is the first axis after the batch."""

    x: int
    axes: tuple[int, ...]


class Take(Op, frozen=True):
    """The slices `indices` of `x` along `axis`, in that order, any of them any number of times."""

    x: int
    axis: int
    indices: tuple[int, ...]


class Pad(Op, frozen=True):
    """Zeros around the first two axes of `x` (H, W, C): `padding` is ((top, bottom), (left, right))."""

    x: int
    padding: tuple[Pair, Pair]


class SumPool(Op, frozen=True):
    """Sums over windows of `x` (H, W, C), zeros outside. An average pool is this with the division in the public scale."""

    x: int
    size: Pair
    strides: Pair
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))


class Concatenate(Op, frozen=True):
    """The values `xs`, all of one kind, joined along `axis` (0 is the first axis after the batch)."""

    xs: tuple[int, ...]
    axis: int


class Combine(Op, frozen=True):
    """sum_i factors[i] * xs[i] + constant with public integers, over values of one kind and shape."""

    xs: tuple[int, ...]
    factors: tuple[int, ...]
    constant: int = 0


class Multiply(Op, frozen=True):
    """`x` times a public table of integers `factors`, of shape `shape`, broadcast over the example as numpy does."""

    x: int
    factors: tuple[int, ...]
    shape: Shape


class Argmax(Op, frozen=True):
    """One-hot bits of the largest of the elements of share `x` (n,), ties to the lower index, XOR-shared (section 2.5).

    Differences are compared after dropping `drop` bits; 0 makes the comparison exact.
    """

    x: int
    drop: int
    window: int


class AddNoise(Op, frozen=True):
    """x + eta_0 + eta_1: each server adds to its half of share `x` a discrete Gaussian of `sigma` of its own, which nobody else knows."""

    x: int
    sigma: int


AnyOp = (
    Input
    | ClampedInput
    | Open
    | AsShare
    | Dense
    | Conv2D
    | Shift
    | Hadamard
    | MatMul
    | Truncate
    | Select
    | Piecewise
    | Reshape
    | Permute
    | Take
    | Pad
    | SumPool
    | Concatenate
    | Combine
    | Multiply
    | Argmax
    | AddNoise
)
