"""Values x = a - R + kappa h at one server: shares of them, and of their products, in one pass. Arrays are flat; empty where there is none.

`protocols.mpc.kernels.reference_affine` has the same functions in plain numpy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.mpc.kernels.compiler import compiled

Ring = npt.NDArray[np.uint64]

_READ = "Array(uint64, 1, 'C', readonly=True)"


@compiled(f"void({_READ}, {_READ}, {_READ}, int64, int64, int64, uint64[::1])")
def rounded_share(c: Ring, big: Ring, top: Ring, drop: int, window: int, party: int, out: Ring) -> None:
    """Write the share of t = (c >> drop) - 2^(window - 1) - R + kappa h to out, kappa = 2^(64 - drop) where bit 63 of c is 0, else 0."""
    shift, back, one = np.uint64(drop), np.uint64(1) << np.uint64(window - 1), np.uint64(1)
    wrap = one << np.uint64(64 - drop) if drop > 0 else np.uint64(0)
    for i in range(c.size):
        t = wrap * (one - (c[i] >> np.uint64(63))) * top[i] - big[i]
        if party == 0:
            t += (c[i] >> shift) - back
        out[i] = t


@compiled(f"void({', '.join([_READ] * 12)}, int64, uint64[::1])")
def affine_product(
    a: Ring, kappa: Ring, big: Ring, top: Ring, b: Ring, eta: Ring, other: Ring, bit: Ring,
    big_other: Ring, big_bit: Ring, top_other: Ring, top_bit: Ring, party: int, out: Ring,
) -> None:  # fmt: skip
    """Write the share of (a - R + kappa h)(b - S + eta g) to out, for shares of R, h, S, g and of R S, R g, h S, h g."""
    zero = np.uint64(0)
    has_big, has_top, has_other, has_bit = big.size > 0, top.size > 0, other.size > 0, bit.size > 0
    for i in range(a.size):
        y = b[i] if party == 0 else zero
        if has_other:
            y -= other[i]
        if has_bit:
            y += eta[i] * bit[i]
        total = a[i] * y
        if has_big:
            times = b[i] * big[i]
            if has_other:
                times -= big_other[i]
            if has_bit:
                times += eta[i] * big_bit[i]
            total -= times
        if has_top:
            times = b[i] * top[i]
            if has_other:
                times -= top_other[i]
            if has_bit:
                times += eta[i] * top_bit[i]
            total += kappa[i] * times
        out[i] = total


@compiled(f"void({', '.join([_READ] * 6)}, int64, uint64[::1])")
def affine_square(a: Ring, kappa: Ring, big: Ring, top: Ring, big_big: Ring, big_top: Ring, party: int, out: Ring) -> None:
    """Write the share of (a - R + kappa h)^2 to out, for shares of R, h, R R and R h; h h is h."""
    zero, two = np.uint64(0), np.uint64(2)
    has_big, has_top = big.size > 0, top.size > 0
    for i in range(a.size):
        total = a[i] * a[i] if party == 0 else zero
        if has_big:
            total += big_big[i] - two * a[i] * big[i]
        if has_top:
            total += kappa[i] * (two * a[i] + kappa[i]) * top[i]
            if has_big:
                total -= two * kappa[i] * big_top[i]
        out[i] = total
