"""The layers that can be trained: each with its shapes, what it computes, and how a gradient goes back through it.

A layer takes and gives a `Signal`. Forward it gives what it computes and what it keeps for the way back; backward it takes the gradient
G by what it gave, and gives the gradients by its weights, summed over the batch, and the gradient by what it took. All that is compared
is compared forward. Comparisons are right for activations, and differences of those that share a pooling window, within +-512.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import msgspec

from protocols.mpc.circuit import Builder
from protocols.mpc.engine.values import Padding, Pair, Shape
from protocols.mpc.numbers.shapes import windows
from protocols.mpc.operations.bilinear import Convolve, InputGradient, KernelGradient, MatMul
from protocols.mpc.operations.moves import Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.functions import FRACTION, WINDOW

Positions = dict[str, int]
Shapes = dict[str, Shape]


class Signal(NamedTuple):
    """An activation or a gradient on its way: the position of a value (batch, *shape), and its fractional bits."""

    at: int
    bits: int = FRACTION


class Back(NamedTuple):
    """What comes back from a layer: the gradients by its weights, by name, and by its input (None where nobody needs it)."""

    gradients: dict[str, Signal]
    below: Signal | None


class Layer(msgspec.Struct, frozen=True, tag=True):
    """A layer for examples of `shape`, without the batch."""

    shape: Shape

    @property
    def output(self) -> Shape:
        """The shape of what it computes for an example."""
        return self.shape

    @property
    def weights(self) -> Shapes:
        """The shapes of its weights, in the order of Keras."""
        return {}

    @abstractmethod
    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, Any]:
        """What it computes from `x`, and what `backward` needs. Kernels are wires, biases shares."""

    @abstractmethod
    def backward(self, build: Builder, weights: Positions, kept: Any, gradient: Signal, *, first: bool) -> Back:
        """Backpropagate: the gradients by the weights and by the input, given the `gradient` by the output.

        The `first` layer with weights does not compute the gradient by its input.
        """


class Dense(Layer, frozen=True):
    """Z = X W (+ b) for X (batch, inputs) and W (inputs, units). Back: dW = X^T G, db = the sum of G over the batch, dX = G W^T.

    Rounds: 0, and 1 or 2 if X or G is not a wire yet.
    """

    units: int
    bias: bool

    @property
    def output(self) -> Shape:
        """(units,)."""
        return (self.units,)

    @property
    def weights(self) -> Shapes:
        """Kernel and bias."""
        return {"kernel": (self.shape[0], self.units)} | ({"bias": (self.units,)} if self.bias else {})

    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, int]:
        """Z, and X as a wire."""
        wire = opened(build, x)
        return _biased(build, build(MatMul(wire, weights["kernel"])), weights), wire

    def backward(self, build: Builder, weights: Positions, kept: int, gradient: Signal, *, first: bool) -> Back:
        """dW, db, dX."""
        g = opened(build, gradient, wide=True)
        gradients = {"kernel": Signal(build(MatMul(kept, g, transpose_x=True)), 2 * FRACTION)}
        if self.bias:
            gradients["bias"] = Signal(build(Sum(g, 0, keep=False)))
        return Back(gradients, None if first else Signal(build(MatMul(g, weights["kernel"], transpose_y=True)), 2 * FRACTION))


class Conv2D(Layer, frozen=True):
    """Z = X * K (+ b), a cross-correlation of X (batch, H, W, C) and K (kh, kw, C, F); it is linear in X and in K.

    Back: dK is the transpose of K -> X * K applied to G, dX that of X -> X * K; db = the sum of G over batch and places.

    Rounds: 0, and 1 or 2 if X or G is not a wire yet.
    """

    filters: int
    size: Pair
    strides: Pair
    padding: Padding
    bias: bool

    @property
    def output(self) -> Shape:
        """(OH, OW, F)."""
        return (*windows(self.shape[:2], self.size, self.strides, self.padding), self.filters)

    @property
    def weights(self) -> Shapes:
        """Kernel and bias."""
        return {"kernel": (*self.size, self.shape[2], self.filters)} | ({"bias": (self.filters,)} if self.bias else {})

    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, int]:
        """Z, and X as a wire."""
        wire = opened(build, x)
        return _biased(build, build(Convolve(wire, weights["kernel"], self.strides, self.padding)), weights), wire

    def backward(self, build: Builder, weights: Positions, kept: int, gradient: Signal, *, first: bool) -> Back:
        """dK, db, dX."""
        g = opened(build, gradient, wide=True)
        gradients = {"kernel": Signal(build(KernelGradient(kept, g, self.size, self.strides, self.padding)), 2 * FRACTION)}
        if self.bias:
            places = build.value(g).size // self.filters
            gradients["bias"] = Signal(build(Sum(build(Reshape(g, (places, self.filters))), 0, keep=False)))
        image = self.shape[0], self.shape[1]
        below = None if first else Signal(build(InputGradient(g, weights["kernel"], image, self.strides, self.padding)), 2 * FRACTION)
        return Back(gradients, below)


class ReLU(Layer, frozen=True):
    """Y = D X with D = [X > 0]. Back: D G, with the D of the way forward. Rounds: 3, back 1."""

    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, int]:
        """D X, and D."""
        value, sign = _compared(build, x, strict=True)
        return Signal(build(Multiply(sign, value))), sign

    def backward(self, build: Builder, weights: Positions, kept: int, gradient: Signal, *, first: bool) -> Back:
        """D G."""
        return Back({}, Signal(build(Multiply(kept, affine(build, gradient, wide=True)))))


class MaxPooling2D(Layer, frozen=True):
    """The largest of each window and channel, first within rows, then of the rows: the maximum of two is b + [a >= b] (a - b).

    Back: of the gradient g of a maximum of two, a gets D g and b gets g - D g, which is a wire where g and D g are: of equals the first
    gets it, as in Keras. A place outside of the image stands for the nearest place inside, so that padding never is the largest.

    Rounds: 3 a level of pairs, so 6 for 2x2, and 1 if X is not rounded yet; back 1 a level, and 1 or 2 if G is not a wire yet.
    """

    size: Pair
    strides: Pair
    padding: Padding

    @property
    def output(self) -> Shape:
        """(OH, OW, C)."""
        return (*windows(self.shape[:2], self.size, self.strides, self.padding), self.shape[2])

    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, list[_Tree]]:
        """The maxima, and the bits of each comparison, within rows and among them."""
        kept: list[_Tree] = []
        x = x if x.bits == FRACTION else Signal(affine(build, x))  # rounded once, so that equals stay equal
        for axis in (2, 1):
            x, tree = _largest(build, [Signal(build(Take(x.at, axis, places)), x.bits) for places in self._places(axis)])
            kept.append(tree)
        return x, kept

    def backward(self, build: Builder, weights: Positions, kept: list[_Tree], gradient: Signal, *, first: bool) -> Back:
        """G where the largest was."""
        g = opened(build, gradient, wide=True)
        for axis, tree in zip((1, 2), reversed(kept), strict=True):
            parts = _chosen(build, tree, g)
            g = build(Put(tuple(parts), axis, tuple(self._places(axis)), self.shape[axis - 1]))
        return Back({}, Signal(g))

    def _places(self, axis: int) -> list[tuple[int, ...]]:
        """For each place in a window, which slices of an axis are there, window by window."""
        i = axis - 1
        return _places(self.shape[i], self.output[i], self.size[i], self.strides[i], self.padding[i][0])


class AveragePooling2D(Layer, frozen=True):
    """The mean of each window and channel: sums of the rows, then of the columns, times 1 / (ph pw). Back: each place gets its part of G.

    The factor is 2^bits / (ph pw), rounded: exact for powers of two. Windows lie inside of the image.

    Rounds: 0; the product has more fractional bits.
    """

    size: Pair
    strides: Pair

    @property
    def output(self) -> Shape:
        """(OH, OW, C)."""
        return (*windows(self.shape[:2], self.size, self.strides, ((0, 0), (0, 0))), self.shape[2])

    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, None]:
        """The means."""
        sums = x.at
        for axis in (1, 2):
            sums = _added(build, [build(Take(sums, axis, places)) for places in self._places(axis)])
        return self._divided(build, Signal(sums, x.bits)), None

    def backward(self, build: Builder, weights: Positions, kept: None, gradient: Signal, *, first: bool) -> Back:
        """G divided among the places."""
        spread = gradient.at
        for axis in (2, 1):
            places = tuple(self._places(axis))
            spread = build(Put((spread,) * len(places), axis, places, self.shape[axis - 1]))
        return Back({}, self._divided(build, Signal(spread, gradient.bits)))

    def _divided(self, build: Builder, x: Signal) -> Signal:
        places = math.prod(self.size)
        bits = places.bit_length() - 1
        if places != 1 << bits:
            bits = 10 + bits
        if x.bits + bits > 3 * FRACTION:
            x = Signal(affine(build, x, wide=True))
        return Signal(build(Combine((x.at,), (round(2**bits / places),))), x.bits + bits)

    def _places(self, axis: int) -> list[tuple[int, ...]]:
        i = axis - 1
        return _places(self.shape[i], self.output[i], self.size[i], self.strides[i], 0)


class Flatten(Layer, frozen=True):
    """The numbers of an example in a row. Back: in their places again. Rounds: 0."""

    @property
    def output(self) -> Shape:
        """(numbers,)."""
        return (math.prod(self.shape),)

    def forward(self, build: Builder, weights: Positions, x: Signal) -> tuple[Signal, None]:
        """The same in a row."""
        return _reshaped(build, x, self.output), None

    def backward(self, build: Builder, weights: Positions, kept: None, gradient: Signal, *, first: bool) -> Back:
        """The same in its places."""
        return Back({}, _reshaped(build, gradient, self.shape))


AnyLayer = Dense | Conv2D | ReLU | MaxPooling2D | AveragePooling2D | Flatten


def same(image: Pair, size: Pair, strides: Pair) -> Padding:
    """The padding that Keras calls "same": ceil(n / stride) windows, zeros on both sides, an odd one at the end."""
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(image, size, strides, strict=True)]
    return (total[0] // 2, -(-total[0] // 2)), (total[1] // 2, -(-total[1] // 2))


def opened(build: Builder, x: Signal, *, wide: bool = False) -> int:
    """`x` as a wire with `FRACTION` fractional bits. Rounds: 0 to 2. `wide` values may be up to 2^(62 - bits), others +-512."""
    value = x.at if x.bits == FRACTION else affine(build, x, wide=wide)
    return value if build.value(value).kind == "wire" else build(Open(value))


def affine(build: Builder, x: Signal, *, wide: bool = False) -> int:
    """`x` as an affine value with `FRACTION` fractional bits. Rounds: 0 or 1."""
    if x.bits == FRACTION:
        return x.at if build.value(x.at).kind != "share" else build(Open(x.at))
    drop = x.bits - FRACTION
    return build(Truncate(x.at, drop, 63 - drop if wide else WINDOW))


def _compared(build: Builder, x: Signal, *, strict: bool = False) -> tuple[int, int]:
    """`x` as an affine value with `FRACTION` fractional bits, and [x >= 0], or [x > 0]. Rounds: 3, or 2 for a wire."""
    value = affine(build, x)
    known = build.value(value)
    if known.cut is None and known.kind != "wire":
        value = build(Open(value))
        known = build.value(value)
    return value, build(Sign(value, WINDOW if known.cut is None else None, strict))


def _biased(build: Builder, z: int, weights: Positions) -> Signal:
    """Z + b, where products have twice the fractional bits."""
    if "bias" in weights:
        z = build(Combine((z, weights["bias"]), (1, 1 << FRACTION)))
    return Signal(z, 2 * FRACTION)


def _reshaped(build: Builder, x: Signal, shape: Shape) -> Signal:
    return Signal(build(Reshape(x.at, (build.value(x.at).shape[0], *shape))), x.bits)


def _added(build: Builder, xs: list[int]) -> int:
    return xs[0] if len(xs) == 1 else build(Combine(tuple(xs), (1,) * len(xs)))


def _places(length: int, count: int, size: int, stride: int, before: int) -> list[tuple[int, ...]]:
    """For each place in a window, the slices of an axis that are there, or nearest inside: window i begins at i stride - before."""
    starts = range(-before, count * stride - before, stride)
    return [tuple(min(max(start + place, 0), length - 1) for start in starts) for place in range(size)]


class _Tree(NamedTuple):
    """How the largest of some values was found: by D = [a >= b] of two halves, or there was one value."""

    sign: int = -1
    halves: tuple[_Tree, ...] = ()


def _largest(build: Builder, xs: list[Signal]) -> tuple[Signal, _Tree]:
    """The largest of some values element by element. Rounds: 3 a level."""
    if len(xs) == 1:
        return xs[0], _Tree()
    (a, left), (b, right) = (_largest(build, half) for half in (xs[: len(xs) // 2], xs[len(xs) // 2 :]))
    difference, sign = _compared(build, Signal(build(Combine((a.at, b.at), (1, -1)))))
    larger = build(Combine((build(Multiply(sign, difference)), b.at), (1, 1)))
    return Signal(larger), _Tree(sign, (left, right))


def _chosen(build: Builder, tree: _Tree, g: int) -> list[int]:
    """The wire `g` where the largest was among the values of a tree, as wires, and 0 elsewhere. Rounds: 1 a level."""
    if not tree.halves:
        return [g]
    first = build(Open(build(Multiply(tree.sign, g))))
    second = build(Combine((g, first), (1, -1)))
    return [part for half, gradient in zip(tree.halves, (first, second), strict=True) for part in _chosen(build, half, gradient)]
