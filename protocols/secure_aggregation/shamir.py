"""Shamir's secret sharing of short secrets over a prime field, vectorised (Shamir, 1979).

A secret of 32 bytes is cut into limbs of 30 bits, each shared by a polynomial of degree threshold - 1 over Z_p, p = 2^31 - 1. Share j of a
secret is the row of its polynomials at x = j + 1. Any `threshold` shares give the secret; fewer say nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError
from protocols.mpc.parties.keystream import KeyStream, fresh_key

PRIME = (1 << 31) - 1
LIMB_BITS = 30
SECRET_BYTES = 32
LIMBS = -(-8 * SECRET_BYTES // LIMB_BITS)

Field = npt.NDArray[np.uint64]


def _limbs(secret: bytes) -> Field:
    number = int.from_bytes(secret, "little")
    return np.array([number >> (LIMB_BITS * i) & ((1 << LIMB_BITS) - 1) for i in range(LIMBS)], np.uint64)


def _uniform(shape: tuple[int, int]) -> Field:
    """Draw uniform field elements: 64 random bits modulo p, whose bias is below 2^-32."""
    return KeyStream(fresh_key()).words(shape) % np.uint64(PRIME)


def split(secret: bytes, *, threshold: int, shares: int) -> Field:
    """Split a secret of 32 bytes: (shares, limbs) field elements; row j is for x = j + 1.

    Raises:
        SharingError: a secret of another length, or a threshold that makes no sense.
    """
    if len(secret) != SECRET_BYTES:
        raise SharingError(f"a secret of {len(secret)} bytes was given, {SECRET_BYTES} are needed")
    if not 1 <= threshold <= shares < PRIME:
        raise SharingError(f"threshold {threshold} of {shares} shares; from 1 to the number of shares is needed")
    coefficients = np.vstack([_limbs(secret), _uniform((threshold - 1, LIMBS))])
    x = np.arange(1, shares + 1, dtype=np.uint64)[:, None]
    value = np.zeros((shares, LIMBS), np.uint64)
    for coefficient in coefficients[::-1]:  # Horner
        value = (value * x + coefficient) % np.uint64(PRIME)
    return value


def _at_zero(points: Sequence[int]) -> Field:
    return _coefficients(tuple(points))


@lru_cache(maxsize=64)
def _coefficients(points: tuple[int, ...]) -> Field:
    """Return the Lagrange coefficients: prod_{m != j} x_m / (x_m - x_j) modulo p."""
    coefficients = []
    for j in points:
        above, below = 1, 1
        for m in points:
            if m != j:
                above = above * m % PRIME
                below = below * (m - j) % PRIME
        coefficients.append(above * pow(below, -1, PRIME) % PRIME)
    found = np.array(coefficients, np.uint64)
    found.flags.writeable = False  # kept, and given out again
    return found


def combine(shares: Mapping[int, Field], *, threshold: int) -> bytes:
    """Return the secret, from shares by their number j.

    Raises:
        SharingError: fewer than `threshold` shares, shares that are no field elements, or shares that belong to no secret.
    """
    if len(shares) < threshold:
        raise SharingError(f"{len(shares)} shares are there, {threshold} are needed")
    chosen = sorted(shares)[:threshold]
    if any(shares[j].shape != (LIMBS,) or shares[j].dtype != np.uint64 for j in chosen):
        raise SharingError(f"a share has another form than {LIMBS} field elements")
    rows = np.stack([shares[j] for j in chosen])
    if (rows >= PRIME).any():
        raise SharingError("a share is no field element")
    weights = _at_zero([j + 1 for j in chosen])
    total = (weights[:, None] * rows % np.uint64(PRIME)).sum(axis=0, dtype=np.uint64) % np.uint64(PRIME)
    number = sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(total))
    if (total >> np.uint64(LIMB_BITS)).any() or number >> (8 * SECRET_BYTES):
        raise SharingError("the shares do not belong together")
    return number.to_bytes(SECRET_BYTES, "little")
