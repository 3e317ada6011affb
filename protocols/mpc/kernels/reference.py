"""The kernels in plain numpy: the oracle of the tests, and what runs where numba cannot be imported. Obviously right, not fast.

Every function has the name, the arguments and the result of its compiled twin. numpy's unsigned integers wrap modulo 2^64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]
Real = npt.NDArray[np.float64]


def matmul(a: Ring, b: Ring, out: Ring, accumulate: bool) -> None:
    """Write a (m, k) @ b (k, n) modulo 2^64 to out (m, n), or add it to out."""
    product = a @ b
    out[...] = out + product if accumulate else product


def _windows(x: Ring, out: Ring, size: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]) -> Ring:
    """Return the windows of x (N, H, W, C) as (N, OH, OW, C, kh, kw)."""
    reach = tuple((n - 1) * step + 1 for n, step in zip(size, dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))  # type: ignore[call-overload, unused-ignore]
    spread: Ring = windows[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    return spread[:, : out.shape[1], : out.shape[2]]


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
    kh, kw, depth, filters = kernel.shape
    windows = _windows(x, out, (kh, kw), (stride_h, stride_w), (dilation_h, dilation_w))
    share = filters // groups
    for group in range(groups):
        channels = windows[:, :, :, group * depth : (group + 1) * depth].transpose(0, 1, 2, 4, 5, 3)
        columns = slice(group * share, (group + 1) * share)
        product = channels.reshape(*out.shape[:3], kh * kw * depth) @ kernel[..., columns].reshape(kh * kw * depth, share)
        out[..., columns] = out[..., columns] + product if accumulate else product


def kernel_gradient(x: Ring, gradient: Ring, out: Ring, stride_h: int, stride_w: int) -> None:
    """Write sum_{n, i, j} x[n, i s_h + y, j s_w + z, c] gradient[n, i, j, f] to out (kh, kw, C, F)."""
    for y in range(out.shape[0]):
        for z in range(out.shape[1]):
            seen = x[:, y::stride_h, z::stride_w][:, : gradient.shape[1], : gradient.shape[2]]
            out[y, z] = seen.reshape(-1, x.shape[3]).T @ gradient.reshape(-1, gradient.shape[3])


def sum_pool(x: Ring, out: Ring, size_h: int, size_w: int, stride_h: int, stride_w: int) -> None:
    """Write the sums over windows of x (N, H, W, C) to out (N, OH, OW, C)."""
    out[...] = _windows(x, out, (size_h, size_w), (stride_h, stride_w), (1, 1)).sum(axis=(4, 5), dtype=np.uint64)


def encode(x: Real, scale: float, limit: float, out: npt.NDArray[np.int64]) -> bool:
    """Write x / scale, rounded half to even, to out; return whether every |x / scale| is below `limit` (NaN is not).

    Where it returns False, out is not meaningful.
    """
    with np.errstate(over="ignore"):
        values = x / scale
    fits = bool((np.abs(values) < limit).all())
    if fits:
        out[...] = np.rint(values).astype(np.int64)
    return fits


def decode(x: npt.NDArray[np.int64], scale: float, out: Real) -> None:
    """Write x * scale to out."""
    out[...] = x * scale
