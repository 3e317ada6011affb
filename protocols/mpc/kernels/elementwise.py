"""Fixed point in one pass over the elements. This file knows no shapes: arrays are flat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.mpc.kernels.compiler import compiled

Ring = npt.NDArray[np.uint64]
Real = npt.NDArray[np.float64]


@compiled("boolean(Array(float64, 1, 'C', readonly=True), float64, float64, int64[::1])")
def encode(x: Real, scale: float, limit: float, out: npt.NDArray[np.int64]) -> bool:
    """Write x / scale, rounded half to even, to out; return whether every |x / scale| is below `limit` (NaN is not).

    Where it returns False, out is not meaningful.
    """
    fits = True
    for i in range(x.size):
        value = x[i] / scale
        fits &= abs(value) < limit
        out[i] = np.int64(np.rint(value))
    return fits


@compiled("void(Array(int64, 1, 'C', readonly=True), float64, float64[::1])")
def decode(x: npt.NDArray[np.int64], scale: float, out: Real) -> None:
    """Write x * scale to out."""
    for i in range(x.size):
        out[i] = x[i] * scale
