"""Arrays over the ring Z_2^64: checked fronts of the kernels. All sums and products wrap modulo 2^64.

A ring element is a uint64. Addition, subtraction and multiplication of arrays are numpy's own operators; what numpy does slowly or
not at all is here. This file knows no network, no Keras and no randomness.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.mpc import kernels

Ring = npt.NDArray[np.uint64]
"""An array of elements of Z_2^64."""

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

WORD = np.dtype(np.uint64)


def matmul(a: Ring, b: Ring, *, out: Ring | None = None, accumulate: bool = False) -> Ring:
    """Return the matrix product a b modulo 2^64.

    Args:
        a: shape (m, k), uint64.
        b: shape (k, n), uint64.
        out: where to write, shape (m, n), uint64, C-contiguous, apart from `a` and `b`; a new array by default.
        accumulate: add to `out` instead of replacing it.

    Returns:
        `out`, shape (m, n).

    Raises:
        ValueError: shapes or dtypes do not fit.

    Example:
        >>> matmul(np.array([[1, 2]], np.uint64), np.array([[3], [2**64 - 1]], np.uint64))
        array([[1]], dtype=uint64)
    """
    _check("a", a, 2)
    _check("b", b, 2)
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}: the columns of a and the rows of b must be as many")
    out = _target(out, (a.shape[0], b.shape[1]), accumulate, (a, b))
    kernels.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b), out, accumulate)
    return out


def conv2d(
    x: Ring,
    kernel: Ring,
    *,
    strides: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
    out: Ring | None = None,
    accumulate: bool = False,
) -> Ring:
    """Return the cross-correlation of x and kernel modulo 2^64, as Keras computes it, channels last.

    z[n, i, j, f] = sum_{y, x', c} x[n, i s_h + y d_h, j s_w + x' d_w, g C / groups + c] kernel[y, x', c, f] with the group
    g = f // (F / groups).

    Args:
        x: shape (N, H, W, C), uint64.
        kernel: shape (kh, kw, C / groups, F), uint64.
        strides: steps (down, right) from one window to the next, at least 1.
        padding: zeros around x, ((top, bottom), (left, right)).
        dilation: steps (down, right) inside a window, at least 1.
        groups: how many groups the channels fall into; a divisor of C and of F.
        out: where to write, shape (N, OH, OW, F), uint64, C-contiguous, apart from `x` and `kernel`; a new array by default.
        accumulate: add to `out` instead of replacing it.

    Returns:
        `out`, shape (N, OH, OW, F) with OH = floor((H + top + bottom - d_h (kh - 1) - 1) / s_h) + 1.

    Raises:
        ValueError: shapes, dtypes or settings do not fit.
    """
    _check("x", x, 4)
    _check("kernel", kernel, 4)
    kh, kw, depth, filters = kernel.shape
    if groups < 1 or x.shape[3] != depth * groups or filters % groups:
        raise ValueError(
            f"x has shape {x.shape}, the kernel {kernel.shape}, and there are {groups} groups:"
            " the kernel's third axis must be C / groups, and groups must divide its fourth"
        )
    shape = (x.shape[0], *_windows(x.shape, (kh, kw), strides, padding, dilation), filters)
    out = _target(out, shape, accumulate, (x, kernel))
    kernels.conv2d(pad(x, padding), np.ascontiguousarray(kernel), out, *strides, *dilation, groups, accumulate)
    return out


def kernel_gradient(x: Ring, gradient: Ring, size: Pair, *, strides: Pair = (1, 1), padding: Padding = ((0, 0), (0, 0))) -> Ring:
    """Transpose `conv2d` as a linear function of its kernel: sum_{n, i, j} x[n, i s_h + y, j s_w + z, c] gradient[n, i, j, f].

    Args:
        x: the input of the convolution, shape (N, H, W, C), uint64.
        gradient: shape of its output, (N, OH, OW, F), uint64.
        size: height and width of the kernel.
        strides: those of the convolution.
        padding: that of the convolution.

    Returns:
        A new array of shape (kh, kw, C, F).

    Raises:
        ValueError: shapes, dtypes or settings do not fit.
    """
    _check("x", x, 4)
    _check("gradient", gradient, 4)
    _require_gradient(gradient, (x.shape[0], *_windows(x.shape, size, strides, padding, (1, 1))))
    out = np.empty((*size, x.shape[3], gradient.shape[3]), WORD)
    kernels.kernel_gradient(pad(x, padding), np.ascontiguousarray(gradient), out, *strides)
    return out


def input_gradient(gradient: Ring, kernel: Ring, image: Pair, *, strides: Pair = (1, 1), padding: Padding = ((0, 0), (0, 0))) -> Ring:
    """Transpose `conv2d` as a linear function of its input: sum of gradient[n, i, j, f] kernel[y, z, c, f] at i s_h + y, j s_w + z.

    A convolution itself: of the gradient with zeros between (strides) and around it, with the kernel turned by 180 degrees.

    Args:
        gradient: shape of the output of the convolution, (N, OH, OW, F), uint64.
        kernel: shape (kh, kw, C, F), uint64.
        image: height and width of its input.
        strides: those of the convolution.
        padding: that of the convolution, each less than the kernel is long.

    Returns:
        A new array of shape (N, H, W, C).

    Raises:
        ValueError: shapes, dtypes or settings do not fit.
    """
    _check("gradient", gradient, 4)
    _check("kernel", kernel, 4)
    (kh, kw), (top, left) = kernel.shape[:2], (padding[0][0], padding[1][0])
    _require_gradient(gradient, (gradient.shape[0], *_windows((0, *image), (kh, kw), strides, padding, (1, 1))))
    if gradient.shape[3] != kernel.shape[3] or top >= kh or left >= kw:
        raise ValueError(
            f"gradient has shape {gradient.shape}, the kernel {kernel.shape}, padding is {padding}: they do not fit each other"
        )
    spread = np.zeros((len(gradient), image[0] + kh - 1, image[1] + kw - 1, gradient.shape[3]), WORD)
    spread[:, kh - 1 - top :: strides[0], kw - 1 - left :: strides[1]][:, : gradient.shape[1], : gradient.shape[2]] = gradient
    return conv2d(spread, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def sum_pool(x: Ring, size: Pair, strides: Pair, padding: Padding = ((0, 0), (0, 0))) -> Ring:
    """Sum over windows of x modulo 2^64, channels last; what lies outside counts as zero.

    Args:
        x: shape (N, H, W, C), uint64.
        size: height and width of a window, at least 1.
        strides: steps (down, right) from one window to the next, at least 1.
        padding: zeros around x, ((top, bottom), (left, right)).

    Returns:
        A new array of shape (N, OH, OW, C) with OH = floor((H + top + bottom - size_h) / s_h) + 1.

    Raises:
        ValueError: shapes, dtypes or settings do not fit.
    """
    _check("x", x, 4)
    out = np.empty((x.shape[0], *_windows(x.shape, size, strides, padding, (1, 1)), x.shape[3]), WORD)
    kernels.sum_pool(pad(x, padding), out, *size, *strides)
    return out


def pad(x: Ring, padding: Padding) -> Ring:
    """`x` with zeros around its second and third axes.

    Args:
        x: shape (N, H, W, C), uint64.
        padding: how many zeros, ((top, bottom), (left, right)).

    Returns:
        A C-contiguous array of shape (N, top + H + bottom, left + W + right, C); `x` itself where nothing needs to be done.

    Raises:
        ValueError: shape, dtype or padding do not fit.
    """
    _check("x", x, 4)
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return np.ascontiguousarray(x)
    if min(top, bottom, left, right) < 0:
        raise ValueError(f"the padding is {padding}: numbers of zeros, at least 0, are needed")
    n, height, width, channels = x.shape
    padded = np.zeros((n, top + height + bottom, left + width + right, channels), WORD)
    padded[:, top : top + height, left : left + width] = x
    return padded


def _check(name: str, array: Ring, dimensions: int) -> None:
    if array.dtype != WORD or array.ndim != dimensions:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}: uint64 with {dimensions} axes is needed")


def _require_gradient(gradient: Ring, shape: tuple[int, ...]) -> None:
    if gradient.shape[:3] != shape:
        raise ValueError(f"gradient has shape {gradient.shape}: the convolution has an output of shape {shape} and its filters")


def _target(out: Ring | None, shape: tuple[int, ...], accumulate: bool, operands: tuple[Ring, ...]) -> Ring:
    if out is None:
        return np.zeros(shape, WORD) if accumulate else np.empty(shape, WORD)
    if out.dtype != WORD or out.shape != shape:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}: uint64 of shape {shape} is needed")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out of shape {shape} has strides {out.strides}: a C-contiguous array that can be written is needed")
    if any(np.may_share_memory(out, operand) for operand in operands):
        raise ValueError("out shares memory with an operand: give it memory of its own")
    return out


def _windows(shape: tuple[int, ...], size: Pair, strides: Pair, padding: Padding, dilation: Pair) -> Pair:
    """How many windows fit down and right."""
    if min(*size, *strides, *dilation) < 1 or min(*padding[0], *padding[1]) < 0:
        raise ValueError(
            f"the window is {size}, strides are {strides}, dilation is {dilation}, padding is {padding}:"
            " windows, strides and dilations are at least 1, paddings at least 0"
        )
    height, width = (
        (n + sum(zeros) - step * (reach - 1) - 1) // stride + 1
        for n, zeros, step, reach, stride in zip(shape[1:3], padding, dilation, size, strides, strict=True)
    )
    if height < 1 or width < 1:
        raise ValueError(f"no window of {size} with dilation {dilation} fits into shape {shape} with padding {padding}")
    return height, width
