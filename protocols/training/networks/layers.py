"""What a network that is trained computes, as public nodes: what each writes forward. The way back follows from the operations.

A node reads the values of others, 0 being the input of the network and k what the k-th node gives; values are (batch, *shape). Weights
are named: nobody knows their numbers. Here are the linear ones, and products; what is compared is in `nonlinear.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from protocols.errors import ModelError
from protocols.mpc.engine.values import Padding, Pair, Shape
from protocols.mpc.numbers.shapes import windows
from protocols.mpc.operations.bilinear import Convolve, MatMul
from protocols.mpc.operations.moves import Concatenate, Permute, Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine, Scale
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION, WINDOW

Positions = Mapping[str, int]
DIGITS = 15
"""Significant bits of a public factor that is no power of two."""
LARGEST = 2.0 ** (WINDOW - 1 - FRACTION)
"""Activations lie within +-LARGEST."""


class Variable(msgspec.Struct, frozen=True):
    """A weight of a network as everybody knows it: its name and shape, and whether it is trained or stays as it is."""

    name: str
    shape: Shape
    trained: bool = True


class Weight(msgspec.Struct, frozen=True):
    """A weight by its name, in the shape in which a node needs it; or numbers of it in other places.

    Attributes:
        name: of the weight.
        shape: in which the node needs it.
        start: the number, in row-major order, that comes first.
        view: axes that are reshaped to `shape` in the end; empty for the weight as it is.
        steps: of the numbers along each axis of `view`: 0 where one is repeated, below 0 where they are turned round.
    """

    name: str
    shape: Shape
    start: int = 0
    view: Shape = ()
    steps: tuple[int, ...] = ()

    def share(self, draft: StepDraft, weights: Positions) -> int:
        """Return it as it is held."""
        return self._shaped(draft, weights[self.name])

    def wire(self, draft: StepDraft, weights: Positions) -> int:
        """Return it opened under a mask, once in a step."""
        return self._shaped(draft, draft.opened(weights[self.name]))

    def _shaped(self, draft: StepDraft, x: int) -> int:
        if self.view:
            x = self._placed(draft, x)
        return x if draft.value(x).shape == self.shape else draft.put(Reshape(x, self.shape), draft.bits(x))

    def _placed(self, draft: StepDraft, x: int) -> int:
        """Write the numbers between the first and the last that are needed, their axes in order, turned and repeated."""
        bits, size = draft.bits(x), draft.value(x).size
        axes = sorted((axis for axis, step in enumerate(self.steps) if step), key=lambda axis: -abs(self.steps[axis]))
        lengths = tuple(self.view[axis] for axis in axes)
        even = [math.prod(lengths[at + 1 :]) for at in range(len(lengths))] == [abs(self.steps[axis]) for axis in axes]
        low = self.start + sum(self.steps[axis] * (self.view[axis] - 1) for axis in axes if self.steps[axis] < 0)
        count = math.prod(lengths)
        if len(self.steps) != len(self.view) or not even or not 0 <= low <= size - count or min(self.view) < 1:
            raise ModelError(f"numbers from {self.start} in steps {self.steps} along {self.view} are not all of a part of {self.name!r}")
        x = draft.put(Reshape(x, (size,)), bits)
        if count < size:
            x = draft.put(Take(x, 0, tuple(range(low, low + count))), bits)
        x = draft.put(Reshape(x, lengths or (1,)), bits)
        for place, axis in enumerate(axes):
            if self.steps[axis] < 0:
                x = draft.put(Take(x, place, tuple(reversed(range(lengths[place])))), bits)
        order = tuple(axes.index(axis) for axis in sorted(axes))
        if order != tuple(range(len(order))):
            x = draft.put(Permute(x, order), bits)
        x = draft.put(Reshape(x, tuple(n if step else 1 for n, step in zip(self.view, self.steps, strict=True))), bits)
        for axis, (n, step) in enumerate(zip(self.view, self.steps, strict=True)):
            if not step and n > 1:
                x = draft.put(Take(x, axis, (0,) * n), bits)
        return x


class Layer(msgspec.Struct, frozen=True, tag=True):
    """A node.

    Attributes:
        inputs: which values it reads.
    """

    inputs: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse an axis that is counted from behind: it may be that of the examples. ModelError."""
        if min(getattr(self, "axis", 0), *getattr(self, "axes", ()), 0) < 0:
            raise ModelError(f"{self} is along an axis below 0: 0 is the first after the batch, and nothing is moved between examples")

    @property
    def grows(self) -> bool:
        """Whether it can give numbers larger than those that it takes, so that they must be watched."""
        return False

    @property
    def moves(self) -> tuple[str, ...]:
        """The names of kept numbers that it changes beside what gradients do: they follow what a step sees."""
        return ()

    @abstractmethod
    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write what it computes from `xs`; return the position of its value."""


class ProductLayer(Layer, frozen=True):
    """Z = X W (+ b) over the last axis. Rounds: 0, and 1 or 2 if X is not a wire yet; as many back."""

    kernel: Weight
    bias: Weight | None = None

    @property
    def grows(self) -> bool:
        """Sums."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Z."""
        x, kernel = draft.opened(xs[0]), self.kernel.wire(draft, weights)
        *lead, width = draft.value(x).shape
        flat = x if len(lead) == 1 else draft.put(Reshape(x, (math.prod(lead), width)))
        z = _biased(draft, draft.put(MatMul(flat, kernel), 2 * FRACTION), self.bias, weights)
        return z if len(lead) == 1 else draft.put(Reshape(z, (*lead, self.kernel.shape[1])), 2 * FRACTION)


class ConvolutionLayer(Layer, frozen=True):
    """Z = X * K (+ b), a cross-correlation of X (batch, H, W, C) and K (kh, kw, C / groups, F).

    Zeros between the places of a kernel (dilation) are put into the kernel, groups are convolved one by one.

    Rounds: 0, and 1 or 2 if X is not a wire yet; as many back.
    """

    kernel: Weight
    bias: Weight | None = None
    strides: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def grows(self) -> bool:
        """Sums."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Z."""
        x, kernel, padding = draft.opened(xs[0]), self.kernel.wire(draft, weights), self.padding
        for axis, step in enumerate(self.dilation):
            size = draft.value(kernel).shape[axis]
            if step > 1 and size > 1:
                places = tuple(range(0, step * size, step))
                kernel = draft.put(Put((kernel,), axis, (places,), places[-1] + 1))
        reach = draft.value(kernel).shape
        if any(zeros >= size for pair, size in zip(padding, reach, strict=False) for zeros in pair):
            x, padding = _padded(draft, x, padding), ((0, 0), (0, 0))
        if not 1 <= self.groups <= reach[3] or reach[3] % self.groups:
            raise ModelError(f"{reach[3]} filters in {self.groups} groups are not possible")
        each, out = reach[3] // self.groups, []
        for group in range(self.groups):
            inputs, filters = (tuple(range(group * n, (group + 1) * n)) for n in (reach[2], each))
            part = (x, kernel) if self.groups == 1 else (draft.put(Take(x, 3, inputs)), draft.put(Take(kernel, 3, filters)))
            out.append(draft.put(Convolve(*part, self.strides, padding), 2 * FRACTION))
        z = out[0] if self.groups == 1 else draft.put(Concatenate(tuple(out), 3), 2 * FRACTION)
        return _biased(draft, z, self.bias, weights)


class AffineLayer(Layer, frozen=True):
    """Y = s X (+ t) for each channel of the last axis. Rounds: 0 or 1; back 1 more where s is trained."""

    scale: Weight
    shift: Weight | None = None

    @property
    def grows(self) -> bool:
        """Products."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Y."""
        product = draft.put(Multiply(draft.affine(xs[0]), self.scale.wire(draft, weights)), 2 * FRACTION)
        return _biased(draft, product, self.shift, weights)


class ShiftedLayer(Layer, frozen=True):
    """Y = X + t, element for element. Rounds: 0."""

    shift: Weight

    @property
    def grows(self) -> bool:
        """A sum."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Y."""
        return _biased(draft, xs[0], self.shift, weights)


class RescaleLayer(Layer, frozen=True):
    """Y = s X + o with public numbers. Rounds: 0."""

    scale: float
    offset: float = 0.0

    @property
    def grows(self) -> bool:
        """Unless it only makes smaller."""
        return abs(self.scale) > 1 or self.offset != 0

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Y."""
        if not (2.0**-20 < abs(self.scale) < 2.0**20 and abs(self.offset) < LARGEST):
            raise ModelError(f"x is rescaled to {self.scale:g} x + {self.offset:g}: both must be within {LARGEST:g}, and not vanish")
        x = scaled(draft, xs[0], self.scale)
        return draft.put(Combine((x,), (1,), round(self.offset * 2.0 ** draft.bits(x))), draft.bits(x)) if self.offset else x


class AveragePoolLayer(Layer, frozen=True):
    """The mean of each window and channel: sums of the rows, then of the columns, divided by how many places lie inside of the image.

    The factor is 2^bits / (ph pw), rounded: exact for powers of two. Rounds: 0; the product has more fractional bits.
    """

    size: Pair
    strides: Pair
    padding: Padding = ((0, 0), (0, 0))

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the means."""
        image, sums = draft.value(xs[0]).shape, _padded(draft, xs[0], self.padding)
        grid = windows((image[1], image[2]), self.size, self.strides, self.padding)
        inside = []
        for axis, (size, stride, (before, after)) in enumerate(zip(self.size, self.strides, self.padding, strict=True)):
            slices = places_of(image[axis + 1] + before + after, grid[axis], size, stride, 0)
            sums = _added(draft, [draft.put(Take(sums, axis + 1, places), draft.bits(sums)) for places in slices])
            real = range(before, before + image[axis + 1])
            inside.append([sum(start in real for start in starts) for starts in zip(*slices, strict=True)])
        counts = [rows * columns for rows in inside[0] for columns in inside[1]]
        if len(set(counts)) == 1:
            return _divided(draft, sums, counts[0])
        bits = 10 + max(counts).bit_length()
        sums = draft.room(sums, bits)
        table = Scale(sums, tuple(round(2**bits / count) for count in counts), (1, *grid, 1))
        return draft.put(table, draft.bits(sums) + bits)


class ShapedLayer(Layer, frozen=True):
    """The numbers of an example in another shape. Rounds: 0."""

    shape: Shape

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the same in their new places."""
        return draft.put(Reshape(xs[0], (draft.value(xs[0]).shape[0], *self.shape)), draft.bits(xs[0]))


class PermutedLayer(Layer, frozen=True):
    """The axes in another order; 0 is the first after the batch. Rounds: 0."""

    axes: tuple[int, ...]

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the same in their new places."""
        return draft.put(Permute(xs[0], (0, *(axis + 1 for axis in self.axes))), draft.bits(xs[0]))


class TakenLayer(Layer, frozen=True):
    """Slices along an axis; 0 is the first after the batch. Rounds: 0."""

    axis: int
    indices: tuple[int, ...]

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the slices."""
        return draft.put(Take(xs[0], self.axis + 1, self.indices), draft.bits(xs[0]))


class PaddedLayer(Layer, frozen=True):
    """Zeros around height and width. Rounds: 0."""

    padding: Padding

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the larger images."""
        return _padded(draft, xs[0], self.padding)


class JoinedLayer(Layer, frozen=True):
    """Values side by side along an axis; 0 is the first after the batch. Rounds: 0, or 1."""

    axis: int

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the values with as many fractional bits each."""
        if len({draft.bits(x) for x in xs}) > 1:
            xs = [draft.rounded(x) for x in xs]
        return draft.put(Concatenate(tuple(xs), self.axis + 1), draft.bits(xs[0]))


class SumLayer(Layer, frozen=True):
    """A sum with signs. Rounds: 0."""

    signs: tuple[int, ...]

    @property
    def grows(self) -> bool:
        """A sum."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the sum, with the most fractional bits of any."""
        if len(self.signs) != len(xs) or not set(self.signs) <= {1, -1}:
            raise ModelError(f"{len(xs)} values are added with the signs {self.signs}")
        most = max(draft.bits(x) for x in xs)
        factors = tuple(sign << (most - draft.bits(x)) for sign, x in zip(self.signs, xs, strict=True))
        return draft.put(Combine(tuple(xs), factors), most)


class MultipliedLayer(Layer, frozen=True):
    """The product of values, element for element, broadcast. Rounds: 0 or 1 a factor; back 1."""

    @property
    def grows(self) -> bool:
        """A product."""
        return True

    def write(self, draft: StepDraft, weights: Positions, xs: Sequence[int]) -> int:
        """Write the products, rounded in between."""
        product, *others = xs
        for x in others:
            product = draft.put(Multiply(draft.affine(product), draft.affine(x)), 2 * FRACTION)
        return product


def _biased(draft: StepDraft, z: int, bias: Weight | None, weights: Positions) -> int:
    """Z + b."""
    if bias is None:
        return z
    bits = draft.bits(z)
    return draft.put(Combine((z, bias.share(draft, weights)), (1, 1 << (bits - FRACTION))), bits)


def _added(draft: StepDraft, xs: Sequence[int]) -> int:
    return xs[0] if len(xs) == 1 else draft.put(Combine(tuple(xs), (1,) * len(xs)), draft.bits(xs[0]))


def scaled(draft: StepDraft, x: int, scale: float) -> int:
    """`scale` times x, for a public number with `DIGITS` significant bits. Rounds: 0, or 1."""
    shift = max(0, DIGITS - math.floor(math.log2(abs(scale))))
    return draft.times(x, round(scale * 2.0**shift), shift)


def _divided(draft: StepDraft, x: int, places: int) -> int:
    bits = places.bit_length() - 1
    return draft.times(x, 1, bits) if places == 1 << bits else draft.times(x, round(2.0 ** (10 + bits) / places), 10 + bits)


def _padded(draft: StepDraft, x: int, padding: Padding) -> int:
    """Zeros around the second and third axes."""
    for axis, (before, after) in enumerate(padding):
        length = draft.value(x).shape[axis + 1]
        if before or after:
            places = tuple(range(before, before + length))
            x = draft.put(Put((x,), axis + 1, (places,), length + before + after), draft.bits(x))
    return x


def places_of(length: int, count: int, size: int, stride: int, before: int) -> list[tuple[int, ...]]:
    """For each place in a window, the slices of an axis that are there, or nearest inside: window i begins at i stride - before."""
    starts = range(-before, count * stride - before, stride)
    return [tuple(min(max(start + place, 0), length - 1) for start in starts) for place in range(size)]
