"""The normal distribution rounded to whole numbers, exactly: no value is more or less likely than it should be. Compiled, without the GIL.

Importing this module takes half a second (numba), or some seconds where its code is not on disk yet.

|x| = sigma (b + t) / 16 for a block b = 0, 1, .. and 0 <= t < 1. With b of probability proportional to exp(-(b / 16)^2 / 2), and t uniform
and accepted with probability exp(-t (2 b + t) / 512), the density of x is proportional to exp(-x^2 / (2 sigma^2)) (von Neumann; Karney,
2016, arXiv:1303.6257, Algorithm N, has blocks of width sigma). All that is asked of the uniform b, t and u is on which side of some real
number they lie, and so as many of their bits are made as it takes: a word of 64 bits is nearly always enough, in float64 with its errors
bounded (`_clear`); else a second (`_closed`); else `exact` goes on with as many words as it needs, in numbers of any length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

BLOCKS: Final = 16
"""In sigma."""
_CHOOSING, _PLACE, _COIN = 12, 35, 16
"""Bits of a word, below its sign: that choose b, of t, of u."""
_MORE_PLACE, _MORE_COIN = 17, 32
"""Bits of the second word, from its top: that go on with t, and with u."""

Words = Callable[[int], NDArray[np.uint64]]


CHUNK: Final = 1 << 14
"""Values that are made at once: few enough to stay in the cache."""


def rounded_normal(words: Words, out: NDArray[Any], sigma: float) -> None:
    """Fill `out` with independent values of N(0, sigma^2), rounded to whole numbers.

    Args:
        words: gives so many independent uniform words of 64 bits.
        out: (size,), C-contiguous, float32 or float64.
        sigma: above 0. Up to 2^26 or so it is fast.
    """
    filled, scratch = 0, Scratch(_tries(min(len(out), CHUNK)))
    while filled < len(out):
        part = out[filled : filled + CHUNK]
        values, accepted = decided(words, words(_tries(len(part))), sigma, scratch)
        filled += _packed(values, accepted, part)


def _tries(missing: int) -> int:
    """As many as nearly always suffice: 97 of 100 are accepted."""
    return missing + (missing >> 5) + 32


class Scratch:
    """Arrays that are written again and again, for fresh memory costs more than what is written to it.

    Args:
        size: values that it has room for.
    """

    def __init__(self, size: int) -> None:
        self.values, self.accepted, self.open = np.empty(size), np.empty(size, np.uint8), np.empty(size + 1, np.int64)


def decided(words: Words, tries: NDArray[np.uint64], sigma: float, scratch: Scratch) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Compute what each of these words begins: a value, and whether it is accepted.

    Args:
        words: gives further ones.
        tries: the words.
        sigma: above 0.
        scratch: with room for as many; the results are in it.
    """
    values, accepted = scratch.values[: len(tries)], scratch.accepted[: len(tries)]
    count = _clear(tries, _GUIDE, sigma, values, accepted, scratch.open)
    more, at = words(2 * count), np.zeros(3, np.int64)
    while not _closed(tries, more, _GUIDE, _THRESHOLDS, sigma, values, accepted, scratch.open[:count], at):
        place = scratch.open[at[0]]
        value = exact(int(tries[place]), _Source(more[at[2] : at[1]], words), sigma)
        values[place], accepted[place] = value or 0, value is not None
        at[0] += 1
    return values, accepted


class _Source:
    """The words that float64 has looked at for one value, in their order, and then new ones: none is used for two values."""

    def __init__(self, seen: NDArray[np.uint64], words: Words) -> None:
        self._seen, self._words = list(map(int, seen)), words

    def __call__(self) -> int:
        return self._seen.pop(0) if self._seen else int(self._words(1)[0])


def exact(word: int, more: Callable[[], int], sigma: float) -> int | None:
    """Return the value that a word of 64 bits begins, None where it is not accepted: what float64 does, with numbers of any length.

    Args:
        word: the sign, and the first bits of b, t and u.
        more: gives further words of 64 bits.
        sigma: above 0.
    """
    chosen = word >> 51 & 0xFFF
    b = _block(chosen, more) if _GUIDE[chosen] < 0 else int(_GUIDE[chosen])
    t, u, places, coins = word >> _COIN & (1 << _PLACE) - 1, word & (1 << _COIN) - 1, _PLACE, _COIN
    while True:
        accepted = _accepted(b, t, places, u, coins)
        if accepted is False:
            return None
        value = _whole(b, t, places, sigma)
        if accepted and value is not None:
            return -value if word >> 63 else value
        next_t, next_u = (more(), more()) if places > _PLACE else (0, 0)
        if places > _PLACE:
            t, u, places, coins = t << 64 | next_t, u << 64 | next_u, places + 64, coins + 64
        else:
            second = more()
            t, places = t << _MORE_PLACE | second >> 64 - _MORE_PLACE, places + _MORE_PLACE
            u, coins = u << _MORE_COIN | second >> 64 - _MORE_PLACE - _MORE_COIN & (1 << _MORE_COIN) - 1, coins + _MORE_COIN


def _block(chosen: int, more: Callable[[], int]) -> int:
    """b, from its first 12 bits and as many as it takes."""
    s, bits = chosen << 52 | more() >> 12, 64
    while True:
        thresholds = cumulative(bits)
        b = next((i for i, threshold in enumerate(thresholds) if threshold >= s - 1), None)
        if b is not None and thresholds[b] > s + 1:
            return b
        s, bits = s << 64 | more(), bits + 64


@functools.lru_cache(maxsize=8)
def cumulative(bits: int) -> tuple[int, ...]:
    """P(block <= b) times 2^bits, rounded down (or up: it is within 1), for b = 0, 1, .. as long as it is below 2^bits - 2."""
    with localcontext(prec=bits * 31 // 100 + 30) as context:
        weights: list[Decimal] = []
        while not weights or weights[-1] > Decimal(10) ** -context.prec:
            weights.append((-Decimal(len(weights) ** 2) / (2 * BLOCKS * BLOCKS)).exp())
        total, part, found = sum(weights), Decimal(0), []
        for weight in weights:
            part += weight
            found.append(int(part / total * (1 << bits)))
    return tuple(threshold for threshold in found if threshold < (1 << bits) - 2)


def _accepted(b: int, t: int, places: int, u: int, coins: int) -> bool | None:
    """Whether u < exp(-t (2 b + t) / 512), or None if that depends on further bits of t or u."""
    with localcontext(prec=(places + coins) * 31 // 100 + 30) as context:
        margin = Decimal(10) ** (5 - context.prec)
        least, most = (
            (-place * (2 * b + place) / (2 * BLOCKS * BLOCKS)).exp()
            for place in (Decimal(t + 1) / (1 << places), Decimal(t) / (1 << places))
        )
        if Decimal(u + 1) / (1 << coins) <= least - margin:
            return True
        return False if Decimal(u) / (1 << coins) >= most + margin else None


def _whole(b: int, t: int, places: int, sigma: float) -> int | None:
    """Sigma (b + t) / 16, rounded; None if that depends on further bits of t."""
    ends = [Fraction(sigma) / BLOCKS * (b + Fraction(t + last, 1 << places)) + Fraction(1, 2) for last in (0, 1)]
    whole = ends[0].__floor__()
    return whole if ends[1] <= whole + 1 else None


def _guide(thresholds: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the block for each 12 first bits, or -1 where they do not say it."""
    found = np.full(1 << _CHOOSING, -1, np.float32)
    for chosen in range(1 << _CHOOSING):
        first, last = chosen << 52, (chosen + 1) << 52
        b = next((i for i, threshold in enumerate(thresholds) if threshold > first), None)
        if b is not None and thresholds[b] >= last and (b == 0 or thresholds[b - 1] + 1 < first):
            found[chosen] = b
    return found


_THRESHOLDS = np.array(cumulative(64), np.uint64)
_GUIDE = _guide(cumulative(64))


def compiled(*signatures: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for the types of `signatures`, kept on disk where that can be written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            made: Callable[..., Any] = numba.njit(list(signatures), cache=True, **options)(function)
        except RuntimeError:
            made = numba.njit(list(signatures), **options)(function)
        return made

    return decorate


@compiled("int64(uint64[::1], float32[::1], float64, float64[::1], uint8[::1], int64[::1])")
def _clear(
    words: NDArray[np.uint64],
    guide: NDArray[np.float32],
    sigma: float,
    values: NDArray[np.float64],
    accepted: NDArray[np.uint8],
    open_: NDArray[np.int64],
) -> int:
    """Compute the values of all words, which are accepted for sure, and the places of the others; return how many those are.

    Without a branch, for one that cannot be foretold takes longer than all the rest. 1 - x <= exp(-x); t is below its next 35 bits.
    """
    scale = sigma / 16.0
    count = np.int64(0)
    unsure = scale * 2.0**-35
    for i in range(len(words)):
        word = words[i]
        b = np.float64(guide[np.int64(word >> np.uint64(51)) & 4095])
        t = np.float64(np.int64(word >> np.uint64(16)) & 0x7FFFFFFFF) * 2.0**-35
        u = np.float64(np.int64(word) & 0xFFFF) * 2.0**-16
        value = (b + t) * scale
        whole = np.rint(value)
        sure = abs(value - whole) + value * 2.0**-50 + unsure < 0.5
        taken = (u + (2.0**-16 + 2.0**-30) <= 1.0 - t * (2.0 * b + t) * (1.0 / 512.0)) & sure & (b >= 0.0)
        values[i] = whole * np.float64(1 - 2 * np.int64(word >> np.uint64(63)))
        accepted[i] = taken
        open_[count] = i
        count += 1 - np.int64(taken)
    return int(count)


@compiled("b1(uint64[::1], uint64[::1], float32[::1], uint64[::1], float64, float64[::1], uint8[::1], int64[::1], int64[::1])")
def _closed(
    words: NDArray[np.uint64],
    more: NDArray[np.uint64],
    guide: NDArray[np.float32],
    thresholds: NDArray[np.uint64],
    sigma: float,
    values: NDArray[np.float64],
    accepted: NDArray[np.uint8],
    open_: NDArray[np.int64],
    at: NDArray[np.int64],
) -> bool:
    """Go on with the open places from at[0], with further words from at[1]; False at the first that takes more, with words from at[2].

    Float64 is off by less than 2^-30 (first word) or 2^-45 (second) in a chance, and by less than 2^-50 of itself in a value.
    """
    scale = sigma / 16.0
    j = at[1]
    for n in range(at[0], len(open_)):
        at[0], at[2] = n, j
        i = open_[n]
        word = words[i]
        b = np.int64(guide[np.int64(word >> np.uint64(51)) & 4095])
        if b < 0:
            s = ((word >> np.uint64(51)) & np.uint64(4095)) << np.uint64(52) | more[j] >> np.uint64(12)
            j += 1
            at[1] = j
            b = np.searchsorted(thresholds, s)  # the first that is not below s
            if (b > 0 and s - thresholds[b - 1] <= np.uint64(1)) or b == len(thresholds) or thresholds[b] - s <= np.uint64(1):
                return False
        t = np.float64(np.int64(word >> np.uint64(16)) & 0x7FFFFFFFF) * 2.0**-35
        u = np.float64(np.int64(word) & 0xFFFF) * 2.0**-16
        chance = np.exp(-t * (2.0 * b + t) * (1.0 / 512.0))
        value = (b + t) * scale
        whole = np.rint(value)
        sure = abs(value - whole) + value * 2.0**-50 + scale * 2.0**-35 < 0.5
        taken = u + (2.0**-16 + 2.0**-30) <= chance
        if u < chance + 2.0**-30 and not (taken and sure):
            second = more[j]
            j += 1
            at[1] = j
            t += np.float64(second >> np.uint64(47)) * 2.0**-52
            u += np.float64((second >> np.uint64(15)) & np.uint64(0xFFFFFFFF)) * 2.0**-48
            chance = np.exp(-t * (2.0 * b + t) * (1.0 / 512.0))
            value = (b + t) * scale
            whole = np.rint(value)
            sure = abs(value - whole) + value * 2.0**-50 + scale * 2.0**-52 < 0.5
            taken = u + (2.0**-48 + 2.0**-45) <= chance
            if u < chance + 2.0**-45 and not (taken and sure):
                return False
        values[i] = whole * np.float64(1 - 2 * np.int64(word >> np.uint64(63)))
        accepted[i] = taken
    at[0] = len(open_)
    return True


@compiled("int64(float64[::1], uint8[::1], float32[::1])", "int64(float64[::1], uint8[::1], float64[::1])")
def _packed(values: NDArray[np.float64], accepted: NDArray[np.uint8], out: NDArray[Any]) -> int:
    """Pack accepted values, one behind the other, until `out` is full; return how many there are."""
    filled = np.int64(0)
    for i in range(len(values)):
        if filled == len(out):
            break
        out[filled] = values[i]
        filled += np.int64(accepted[i])
    return int(filled)
