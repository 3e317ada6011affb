"""Convolutions and sums over windows modulo 2^64, channels last, without padding (pad first).

A convolution is a gathered product: the rows are the corners of the windows, the depth runs over the positions inside a window. A
depthwise one, which has one input channel a product, and sums over windows run along the channels instead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.mpc.kernels.compiler import compiled
from protocols.mpc.kernels.matmul import gathered_product

Ring = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]


@compiled("int64[::1](int64, int64, int64, int64, int64, int64, int64, int64)")
def _corners(n: int, height: int, width: int, channels: int, out_height: int, out_width: int, down: int, right: int) -> Index:
    """Return the position of the first element of each window in the flat input (n, height, width, channels)."""
    corners = np.empty(n * out_height * out_width, np.int64)
    i = 0
    for image in range(n):
        for y in range(out_height):
            for x in range(out_width):
                corners[i] = ((image * height + y * down) * width + x * right) * channels
                i += 1
    return corners


@compiled("int64[::1](int64, int64, int64, int64, int64, int64, int64)")
def _positions(kh: int, kw: int, depth: int, width: int, channels: int, dilation_h: int, dilation_w: int) -> Index:
    """Return the positions of the elements of a window relative to its first one, in the order of the kernel."""
    positions = np.empty(kh * kw * depth, np.int64)
    i = 0
    for y in range(kh):
        for x in range(kw):
            for c in range(depth):
                positions[i] = (y * dilation_h * width + x * dilation_w) * channels + c
                i += 1
    return positions


@compiled(
    "void(Array(uint64, 4, 'C', readonly=True), Array(uint64, 4, 'C', readonly=True), uint64[:, :, :, ::1], int64, int64, int64, int64)"
)
def _depthwise(x: Ring, kernel: Ring, out: Ring, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int) -> None:
    n, out_height, out_width, channels = out.shape
    for image in range(n):
        for i in range(out_height):
            for j in range(out_width):
                target = out[image, i, j]
                for y in range(kernel.shape[0]):
                    for z in range(kernel.shape[1]):
                        source = x[image, i * stride_h + y * dilation_h, j * stride_w + z * dilation_w]
                        weights = kernel[y, z, 0]
                        for c in range(channels):
                            target[c] += source[c] * weights[c]


@compiled(
    "void(Array(uint64, 4, 'C', readonly=True), Array(uint64, 4, 'C', readonly=True), uint64[:, :, :, ::1],"
    " int64, int64, int64, int64, int64, boolean)"
)
def conv2d(
    x: Ring,
    kernel: Ring,
    out: Ring,
    stride_h: int,
    stride_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    accumulate: bool,
) -> None:
    """Write the cross-correlation of x (N, H, W, C) and kernel (kh, kw, C / groups, F) to out (N, OH, OW, F), or add it to out."""
    (n, height, width, channels), (kh, kw, depth, filters) = x.shape, kernel.shape
    if not accumulate:
        out[:] = 0
    if depth == 1 and groups == channels and filters == channels and groups > 1:
        _depthwise(x, kernel, out, stride_h, stride_w, dilation_h, dilation_w)
        return
    corners = _corners(n, height, width, channels, out.shape[1], out.shape[2], stride_h, stride_w)
    positions = _positions(kh, kw, depth, width, channels, dilation_h, dilation_w)
    share = filters // groups
    for group in range(groups):
        gathered_product(
            x.reshape(-1),
            corners,
            positions + group * depth,
            kernel.reshape(-1),
            filters,
            group * share,
            (group + 1) * share,
            out.reshape(-1),
        )


@compiled("void(Array(uint64, 4, 'C', readonly=True), Array(uint64, 4, 'C', readonly=True), uint64[:, :, :, ::1], int64, int64)")
def kernel_gradient(x: Ring, gradient: Ring, out: Ring, stride_h: int, stride_w: int) -> None:
    """Write sum_{n, i, j} x[n, i s_h + y, j s_w + z, c] gradient[n, i, j, f] to out (kh, kw, C, F). Positions are rows, windows depth."""
    (n, height, width, channels), (kh, kw, _, filters) = x.shape, out.shape
    out[:] = 0
    corners = _corners(n, height, width, channels, gradient.shape[1], gradient.shape[2], stride_h, stride_w)
    positions = _positions(kh, kw, channels, width, channels, 1, 1)
    gathered_product(x.reshape(-1), positions, corners, gradient.reshape(-1), filters, 0, filters, out.reshape(-1))


@compiled("void(Array(uint64, 4, 'C', readonly=True), uint64[:, :, :, ::1], int64, int64, int64, int64)")
def sum_pool(x: Ring, out: Ring, size_h: int, size_w: int, stride_h: int, stride_w: int) -> None:
    """Write the sums over windows of x (N, H, W, C) to out (N, OH, OW, C)."""
    n, out_height, out_width, channels = out.shape
    out[:] = 0
    for image in range(n):
        for i in range(out_height):
            for j in range(out_width):
                target = out[image, i, j]
                for y in range(size_h):
                    for z in range(size_w):
                        source = x[image, i * stride_h + y, j * stride_w + z]
                        for c in range(channels):
                            target[c] += source[c]
