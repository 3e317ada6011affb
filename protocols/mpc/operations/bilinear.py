"""Products of two wires: matrices, convolutions and their transposes (ABY2.0, ePrint 2020/1225, section 3).

With m_X = X + lambda_X and m_Y = Y + lambda_Y known to both servers, a bilinear product o gives

    [Z]_i = (i_0 m_X - lambda_{X,i}) o m_Y - m_X o lambda_{Y,i} + gamma_i,   gamma_0 + gamma_1 = lambda_X o lambda_Y,

with i_0 = 1 for party 0 only. A mask may serve several products: each has its own gamma.

Adversary: semi-honest, no two parties collude. **Rounds**: 0; the result is not rounded. **Leaks** nothing.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Padding, Pair, Shape, Value
from protocols.mpc.numbers import ring, shapes
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Field


class Bilinear(Operation, frozen=True):
    """Z = X o Y for wires `x` and `y`; a share. Rounds: 0. Bytes dealt: 8 an element of the product."""

    abstract: ClassVar[bool] = True

    x: int
    y: int

    @abstractmethod
    def product(self, x: Ring, y: Ring) -> Ring:
        """Return x o y modulo 2^64."""
        raise NotImplementedError

    @abstractmethod
    def transposed(self, tape: Tape, gradient: int, side: int) -> Bilinear:
        """Return the product of a gradient and the other operand that is the gradient by this one."""
        raise NotImplementedError

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Multiply by the other operand."""
        x, other = self.operands[side], self.operands[1 - side]
        gradient = tape.wire(gradient)
        product = tape.put(self.transposed(tape, gradient, side), tape.bits(gradient) + tape.bits(other))
        return tape.times(product, 1, tape.bits(at) - tape.bits(x) - tape.bits(other))

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return gamma."""
        return [Field("gamma", columns, dealt=True)]

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share lambda_X o lambda_Y."""
        dealer.give(at, "gamma", self.product(dealer.mask(self.x), dealer.mask(self.y)))

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return [Z]_i: two products."""
        x, y = server.affine(self.x), server.affine(self.y)
        left = (x.a if server.me.index == 0 else np.uint64(0)) - x.mask
        total = server.field(at, "gamma").reshape(server.shape(at)) + self.product(left, y.a)
        total -= self.product(x.a, y.mask)
        return total

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the product."""
        return self.product(clear[self.x], clear[self.y])


class MatMul(Bilinear, frozen=True):
    """Z = X Y over the last two axes of wires `x` (..., n, k) and `y` (..., k, m), each transposed first if asked.

    The axes before are the same.
    """

    x: int
    y: int
    transpose_x: bool = False
    transpose_y: bool = False

    def value(self, scope: Scope) -> Value:
        """Return a share, (..., n, m)."""
        x, y = scope.operand(self.x, "wire"), scope.operand(self.y, "wire")
        if x.batched != y.batched:
            raise ProgramError("a matrix product of wires is one of two that are there for each example, or of two that are not")
        a, b = (_turned(v.shape, turn) for v, turn in ((x, self.transpose_x), (y, self.transpose_y)))
        return Value(shapes.matrix_product(a, b), "share", x.batched)

    def product(self, x: Ring, y: Ring) -> Ring:
        """Multiply matrices, one by one."""
        a, b = (v.swapaxes(-1, -2) if turn else v for v, turn in ((x, self.transpose_x), (y, self.transpose_y)))
        if a.ndim == 2:
            return ring.matmul(a, b)
        out = np.empty((*a.shape[:-1], b.shape[-1]), np.uint64)
        each = out.reshape(-1, *out.shape[-2:])
        for z, left, right in zip(each, a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True):
            ring.matmul(left, right, out=z)
        return out

    def transposed(self, tape: Tape, gradient: int, side: int) -> Bilinear:
        """Of Z = A B: G B^T by A, A^T G by B; turned where the operand is."""
        if side == 0:
            turned = MatMul(self.y, gradient, self.transpose_y, transpose_y=True)
            return turned if self.transpose_x else MatMul(gradient, self.y, transpose_y=not self.transpose_y)
        turned = MatMul(gradient, self.x, transpose_x=True, transpose_y=self.transpose_x)
        return turned if self.transpose_y else MatMul(self.x, gradient, transpose_x=not self.transpose_x)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Multiply as numpy does."""
        a, b = (v.swapaxes(-1, -2) if t else v for v, t in ((clear[self.x], self.transpose_x), (clear[self.y], self.transpose_y)))
        product: Ring = a @ b
        return product


def _turned(shape: Shape, transpose: bool) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if transpose and len(shape) >= 2 else shape


class _Windowed(Bilinear, frozen=True):
    """What a convolution and its transposes have in common: four axes each, none of them a batch that is left out."""

    abstract: ClassVar[bool] = True

    def _shapes(self, scope: Scope) -> tuple[Shape, Shape]:
        x, y = scope.operand(self.x, "wire"), scope.operand(self.y, "wire")
        if x.batched or y.batched or len(x.shape) != 4 or len(y.shape) != 4:
            raise ProgramError(f"two values with four axes are needed, not {x.shape} and {y.shape}")
        return x.shape, y.shape


def _convolved(image: Shape, kernel: Shape, strides: Pair, padding: Padding) -> Shape:
    """Return the shape of a convolution of (n, H, W, C) with a kernel (kh, kw, C, F).

    Raises:
        ProgramError: the channels differ, no window fits, or a padding is as large as a window.
    """
    if any(zeros >= k for pair, k in zip(padding, kernel[:2], strict=True) for zeros in pair):
        raise ProgramError(f"paddings {padding} must be smaller than a window of {kernel[:2]}")
    grid = shapes.windows(image[1:3], (kernel[0], kernel[1]), strides, padding)
    if image[3] != kernel[2] or min(grid) < 1:
        raise ProgramError(f"an input of shape {image[1:]} does not fit a kernel {kernel} with strides {strides} and paddings {padding}")
    return (image[0], *grid, kernel[3])


class Convolve(_Windowed, frozen=True):
    """The cross-correlation of wires x (n, H, W, C) and y, a kernel (kh, kw, C, F); a share (n, OH, OW, F)."""

    x: int
    y: int
    strides: Pair
    padding: Padding

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        return Value(_convolved(*self._shapes(scope), self.strides, self.padding), "share", batched=False)

    def product(self, x: Ring, y: Ring) -> Ring:
        """Convolve."""
        return ring.conv2d(x, y, strides=self.strides, padding=self.padding)

    def transposed(self, tape: Tape, gradient: int, side: int) -> Bilinear:
        """Transposed in its input, or in its kernel."""
        image, kernel = tape.value(self.x).shape, tape.value(self.y).shape
        if side == 0:
            return InputGradient(gradient, self.y, (image[1], image[2]), self.strides, self.padding)
        return KernelGradient(self.x, gradient, (kernel[0], kernel[1]), self.strides, self.padding)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Convolve, slowly."""
        return slow_convolution(clear[self.x], clear[self.y], self.strides, self.padding)


class KernelGradient(_Windowed, frozen=True):
    """What `Convolve` gives is linear in its kernel: the transpose of that, for wires x (n, H, W, C) and y (n, OH, OW, F); a share."""

    x: int
    y: int
    size: Pair
    strides: Pair
    padding: Padding

    def value(self, scope: Scope) -> Value:
        """Return a share of the shape of the kernel."""
        image, gradient = self._shapes(scope)
        kernel = (*self.size, image[3], gradient[3])
        _check_gradient(gradient, _convolved(image, kernel, self.strides, self.padding))
        return Value(kernel, "share", batched=False)

    def product(self, x: Ring, y: Ring) -> Ring:
        """Correlate inputs and gradients."""
        return ring.kernel_gradient(x, y, self.size, strides=self.strides, padding=self.padding)

    def transposed(self, tape: Tape, gradient: int, side: int) -> Bilinear:
        """<S, K(x, y)> = <y, x * S>: transposed in the input of the convolution, or the convolution itself."""
        image = tape.value(self.x).shape
        if side == 0:
            return InputGradient(self.y, gradient, (image[1], image[2]), self.strides, self.padding)
        return Convolve(self.x, gradient, self.strides, self.padding)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Sum over windows, one place of the kernel at a time."""
        x, y = np.pad(clear[self.x], ((0, 0), *self.padding, (0, 0))), clear[self.y]
        out = np.zeros(clear.values[at].shape, np.uint64)
        for i, j in itertools.product(range(self.size[0]), range(self.size[1])):
            patch = x[:, _steps(i, y.shape[1], self.strides[0]), _steps(j, y.shape[2], self.strides[1])]
            out[i, j] = np.tensordot(patch, y, ((0, 1, 2), (0, 1, 2)))
        return out


class InputGradient(_Windowed, frozen=True):
    """What `Convolve` gives is linear in its input: the transpose of that, for wires x (n, OH, OW, F) and y, the kernel; a share."""

    x: int
    y: int
    image: Pair
    strides: Pair
    padding: Padding

    def value(self, scope: Scope) -> Value:
        """Return a share of the shape of the input."""
        gradient, kernel = self._shapes(scope)
        image = (gradient[0], *self.image, kernel[2])
        _check_gradient(gradient, _convolved(image, kernel, self.strides, self.padding))
        return Value(image, "share", batched=False)

    def product(self, x: Ring, y: Ring) -> Ring:
        """Convolve the gradients back."""
        return ring.input_gradient(x, y, self.image, strides=self.strides, padding=self.padding)

    def transposed(self, tape: Tape, gradient: int, side: int) -> Bilinear:
        """<S, I(x, y)> = <x, S * y>: the convolution itself, or transposed in its kernel."""
        kernel = tape.value(self.y).shape
        if side == 0:
            return Convolve(gradient, self.y, self.strides, self.padding)
        return KernelGradient(gradient, self.x, (kernel[0], kernel[1]), self.strides, self.padding)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Add each gradient to where it came from, one place of the kernel at a time."""
        x, y = clear[self.x], clear[self.y]
        (top, bottom), (left, right) = self.padding
        h, w = self.image
        out = np.zeros((len(x), h + top + bottom, w + left + right, y.shape[2]), np.uint64)
        for i, j in itertools.product(range(y.shape[0]), range(y.shape[1])):
            out[:, _steps(i, x.shape[1], self.strides[0]), _steps(j, x.shape[2], self.strides[1])] += np.tensordot(x, y[i, j], (3, 1))
        return out[:, top : top + h, left : left + w]


def _check_gradient(gradient: Shape, fits: Shape) -> None:
    if gradient != fits:
        raise ProgramError(f"the gradient by an output of shape {fits} is needed, not {gradient}")


def _steps(start: int, count: int, step: int) -> slice:
    return slice(start, start + (count - 1) * step + 1, step)


def slow_convolution(x: Ring, kernel: Ring, strides: Pair, padding: Padding, dilation: Pair = (1, 1), groups: int = 1) -> Ring:
    """Return the cross-correlation of x (n, H, W, C) with a kernel (kh, kw, C / groups, F), in plain numpy."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    kh, kw, channels, filters = kernel.shape
    h, w = (
        (n - step * (k - 1) - 1) // stride + 1 for n, k, stride, step in zip(padded.shape[1:3], (kh, kw), strides, dilation, strict=True)
    )
    out = np.zeros((len(x), h, w, filters), np.uint64)
    each = filters // groups
    for group, i, j in itertools.product(range(groups), range(kh), range(kw)):
        patch = padded[:, _steps(i * dilation[0], h, strides[0]), _steps(j * dilation[1], w, strides[1])]
        inputs = patch[..., group * channels : (group + 1) * channels]
        out[..., group * each : (group + 1) * each] += np.tensordot(inputs, kernel[i, j, :, group * each : (group + 1) * each], 1)
    return out
