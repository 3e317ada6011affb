"""Additive secret sharing by hand: numbers that say nothing until all of them are added.

Over Z_2^64, the ring of everything else in `protocols`, or over the integers modulo a prime. This file knows no network: who holds
which share is the caller's business.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast, overload

import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.opaque import Whole, WholeArray, to_caller, whole_array, whole_number

Integers = npt.NDArray[np.integer[Any]]
Words = npt.NDArray[np.uint64]

RING: Final = 1 << 64
MAX_ARRAY_MODULUS: Final = 1 << 63  # so that the sum of two field elements fits a uint64
SMALL_PRIMES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
WITNESSES: Final = 40


@overload
def split(secret: int | float | Whole, parties: float = 3, *, modulus: float | None = None) -> list[Whole]: ...
@overload
def split(
    secret: Integers | npt.NDArray[np.floating[Any]] | Sequence[float], parties: float = 3, *, modulus: float | None = None
) -> list[WholeArray]: ...
def split(secret: Any, parties: float = 3, *, modulus: float | None = None) -> list[Whole] | list[WholeArray]:
    """Shares of a secret: all but the last are uniform, the last is the secret minus their sum.

    Shares are numbers that count like any others, but no Python integers or arrays of NumPy: `int(share)` and `numpy.asarray(share)` are.
    So R keeps them as they are. Adding the shares of two secrets one by one gives shares of the sum of the secrets, and multiplying each by
    a public integer gives shares of the product; `reconstruct` reduces. Arrays over Z_2^64 wrap by themselves; over a prime field reduce
    sums of arrays modulo Q before they reach 2^64, and add Q before subtracting.

    Whole numbers of magnitude below 2^53 may also be given as floats, as R gives them.

    Args:
        secret: an integer, or an array of integers of any shape, or a list of integers. Over Z_2^64 from -2^63 to 2^64 - 1; numbers from
            2^63 come back as negative ones, unless in a uint64 array. Over a field, above -Q and below Q; -s stands for Q - s.
        parties: how many shares, at least 2.
        modulus: None for Z_2^64, or a prime Q; below 2^63 for arrays.

    Returns:
        One share a party: from 0 to 2^64 - 1 or Q - 1 for an integer; for an array, arrays of its shape, uint64 over a field, and over
        Z_2^64 uint64 if the secret is, else int64.

    Raises:
        SharingError: fewer than two parties, a modulus that is not prime, or a secret that is out of range or not made of integers.

    Leaks:
        Nothing but the shape, as long as one share is missing: any parties - 1 shares are uniform and independent of the secret,
        against any adversary, however powerful. Nothing tells a wrong share from a right one.

    Example:
        >>> shares = split(77777, 3)
        >>> reconstruct(shares)
        77777
        >>> reconstruct([a + b for a, b in zip(split(11, 3), split(122, 3))])
        133

    References:
        Ito, Saito, Nishizeki, 1987, "Secret sharing scheme realizing general access structure"; Demmler, Schneider, Zohner, 2015,
        "ABY", NDSS, section III.A, for Z_2^l.
    """
    count = whole_number(parties)
    if count < 2:
        raise SharingError(f"{count} parties were asked for: a secret is shared by at least 2")
    order = _prime(modulus)
    array = whole_array(secret)
    if array is not None:
        return [WholeArray(share) for share in _split_array(array, count, order)]
    return [Whole(share) for share in _split_integer(whole_number(secret), count, order)]


@overload
def reconstruct(shares: Iterable[int | Whole], *, modulus: float | None = None) -> int: ...
@overload
def reconstruct(shares: Iterable[Integers | WholeArray], *, modulus: float | None = None) -> Integers: ...
def reconstruct(shares: Iterable[Any], *, modulus: float | None = None) -> int | Integers:
    """Reconstruct the secret that the shares of all parties stand for: their sum.

    Args:
        shares: what `split` returned, or sums of such, in any order, from every party: a missing share is not noticed, the result
            is then a uniform number. Integers and arrays of integers are shares, too; floats are none, they may have lost digits.
        modulus: the modulus that `split` was given.

    Returns:
        An integer from -2^63 to 2^63 - 1, or from 0 to Q - 1 over a field; or an array of the shape and dtype of the shares. In R the
        same number: a double beyond 32 bits, and beyond 2^53, which R's doubles cannot hold, a `Whole` or `WholeArray`.

    Raises:
        SharingError: fewer than two shares, shares of different shapes or dtypes, or a modulus that is not prime.
    """
    order = _prime(modulus)
    together = [np.asarray(share) if isinstance(share, WholeArray) else share for share in shares]
    if len(together) < 2:
        raise SharingError(f"there are {len(together)} shares: the shares of all parties are needed, at least 2")
    arrays = [share for share in together if isinstance(share, np.ndarray) and share.ndim]
    if not arrays:
        return cast(int, to_caller(_join_integers([_share(share) for share in together], order)))
    if len(arrays) < len(together):
        raise SharingError(f"{len(arrays)} of {len(together)} shares are arrays: all or none must be")
    return cast(Integers, to_caller(_join_arrays(arrays, order)))


def _share(value: Any) -> int:
    if isinstance(value, float | np.floating):
        raise SharingError("a float was given: shares are integers, and a float may have lost digits of one; give what split returned")
    return whole_number(value)


def _split_integer(secret: int, parties: int, modulus: int | None) -> list[int]:
    order = modulus or RING
    lowest = -RING // 2 if modulus is None else 1 - modulus
    if not lowest <= secret < order:
        raise SharingError(f"the secret is out of range: from {lowest} to {order - 1} is needed")
    shares = [secrets.randbelow(order) for _ in range(parties - 1)]
    return [*shares, (secret - sum(shares)) % order]


def _join_integers(shares: Sequence[int], modulus: int | None) -> int:
    total = sum(shares) % (modulus or RING)
    return total - RING if modulus is None and total >= RING // 2 else total


def _split_array(secret: Integers, parties: int, modulus: int | None) -> list[Integers]:
    dtype = np.dtype(np.uint64 if modulus or secret.dtype == np.uint64 else np.int64)
    last = _residues(secret, modulus)
    stream = KeyStream(fresh_key())
    shares = []
    for _ in range(parties - 1):
        share = _uniform(stream, secret.shape, modulus)
        last = _reduced(last + (np.uint64(modulus) - share if modulus else np.uint64(0) - share), modulus)
        shares.append(share)
    return [share.view(dtype) for share in (*shares, last)]


def _join_arrays(shares: list[Integers], modulus: int | None) -> Integers:
    first = shares[0]
    for share in shares:
        if share.shape != first.shape or share.dtype != first.dtype:
            raise SharingError(f"shares are {first.dtype} of shape {first.shape} and {share.dtype} of shape {share.shape}: all must match")
    if first.dtype != np.uint64 and (modulus or first.dtype != np.int64):
        raise SharingError(f"the shares are {first.dtype}: {'uint64' if modulus else 'int64 or uint64'} is needed")
    total = np.zeros(first.shape, np.uint64)
    for share in shares:
        total = _reduced(total + _reduced(share.astype(np.uint64), modulus), modulus)
    return total.view(first.dtype)


def _residues(secret: Integers, modulus: int | None) -> Words:
    if modulus is None:
        return secret.astype(np.uint64)
    if modulus >= MAX_ARRAY_MODULUS:
        raise SharingError(f"the modulus has {modulus.bit_length()} bits: arrays need one below 2^63; share integers one at a time")
    outside = (secret >= modulus) | (secret <= -modulus)
    if outside.any():
        raise SharingError(
            f"{np.count_nonzero(outside)} of {secret.size} secrets are out of range: from {1 - modulus} to {modulus - 1} is needed"
        )
    if secret.dtype.kind == "u":
        return secret.astype(np.uint64)
    return (secret.astype(np.int64) % np.int64(modulus)).astype(np.uint64)


def _reduced(words: Words, modulus: int | None) -> Words:
    return words % np.uint64(modulus) if modulus else words


def _uniform(stream: KeyStream, shape: tuple[int, ...], modulus: int | None) -> Words:
    """Uniform residues, by rejection: words are cut to the bits of the modulus and drawn again until they are below it."""
    words = stream.words(shape)
    if modulus is None:
        return words
    drop = np.uint64(64 - (modulus - 1).bit_length())
    words >>= drop
    while (outside := words >= np.uint64(modulus)).any():
        words[outside] = stream.words(int(np.count_nonzero(outside))) >> drop
    return words


def _prime(modulus: float | None) -> int | None:
    if modulus is None:
        return None
    order = whole_number(modulus)
    if not _is_prime(order):
        raise SharingError(f"the modulus {order} is not prime: a prime is needed, or None for Z_2^64")
    return order


@functools.lru_cache(maxsize=64)
def _is_prime(n: int) -> bool:
    """Whether n is prime, by Miller and Rabin with random witnesses: a composite passes with probability below 4^-40.

    Rabin, 1980, "Probabilistic algorithm for testing primality", Journal of Number Theory 12.
    """
    if n < 2:
        return False
    for prime in SMALL_PRIMES:
        if n % prime == 0:
            return n == prime
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    odd = (n - 1) >> twos
    return all(_passes(n, 2 + secrets.randbelow(n - 3), odd, twos) for _ in range(WITNESSES))


def _passes(n: int, witness: int, odd: int, twos: int) -> bool:
    """Whether witness^odd is 1, or one of its squarings is -1, modulo n."""
    power = pow(witness, odd, n)
    if power in (1, n - 1):
        return True
    for _ in range(twos - 1):
        power = power * power % n
        if power == n - 1:
            return True
    return False
