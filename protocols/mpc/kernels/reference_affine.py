"""Shares of affine values and of their products in plain numpy: the oracle of the tests, and what runs where numba cannot be imported."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]


def rounded_share(c: Ring, big: Ring, top: Ring, drop: int, window: int, party: int, out: Ring) -> None:
    """Write the share of t = (c >> drop) - 2^(window - 1) - R + kappa h to out, kappa = 2^(64 - drop) where bit 63 of c is 0, else 0."""
    kappa = np.uint64(2 ** (64 - drop) % 2**64) * (np.uint64(1) - (c >> np.uint64(63)))
    out[...] = kappa * top - big
    if party == 0:
        out += (c >> np.uint64(drop)) - np.uint64(1 << (window - 1))


def affine_product(
    a: Ring, kappa: Ring, big: Ring, top: Ring, b: Ring, eta: Ring, other: Ring, bit: Ring,
    big_other: Ring, big_bit: Ring, top_other: Ring, top_bit: Ring, party: int, out: Ring,
) -> None:  # fmt: skip
    """Write the share of (a - R + kappa h)(b - S + eta g) to out, for shares of R, h, S, g and of R S, R g, h S, h g."""

    def times(x: Ring, x_other: Ring, x_bit: Ring) -> Ring:
        """Return the share of x (b - S + eta g) for a share of x."""
        product: Ring = b * x
        if other.size:
            product = product - x_other
        return product + eta * x_bit if bit.size else product

    y = (b if party == 0 else np.zeros_like(b)) - (other if other.size else np.uint64(0))
    out[...] = a * (y + eta * bit if bit.size else y)
    if big.size:
        out -= times(big, big_other, big_bit)
    if top.size:
        out += kappa * times(top, top_other, top_bit)


def affine_square(a: Ring, kappa: Ring, big: Ring, top: Ring, big_big: Ring, big_top: Ring, party: int, out: Ring) -> None:
    """Write the share of (a - R + kappa h)^2 to out, for shares of R, h, R R and R h; h h is h."""
    two = np.uint64(2)
    out[...] = a * a if party == 0 else 0
    if big.size:
        out += big_big - two * a * big
    if top.size:
        out += (two * a + kappa) * kappa * top
    if big.size and top.size:
        out -= two * kappa * big_top
