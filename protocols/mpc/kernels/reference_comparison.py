"""The kernels of `comparison.py` in plain numpy: the oracle of the tests, and what runs where numba cannot be imported."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]
Table = npt.NDArray[np.int64]

_ONE = np.uint64(1)
_ALL = ~np.uint64(0)


def bit_planes(x: Ring, first: int, out: Ring) -> None:
    """See `comparison.bit_planes`."""
    examples, elements = x.shape
    padded = np.zeros((examples, 64 * out.shape[2]), np.uint64)
    padded[:, :elements] = x
    groups = padded.reshape(examples, out.shape[2], 64)
    for plane in range(out.shape[1]):
        bits = (groups >> np.uint64(first + plane)) & _ONE
        out[:, plane] = np.bitwise_or.reduce(bits << np.arange(64, dtype=np.uint64), axis=2)


def _unpacked(words: Ring, elements: int) -> Ring:
    bits = (words[:, :, None] >> np.arange(64, dtype=np.uint64)) & _ONE
    return bits.reshape(len(words), -1)[:, :elements]


def _monomial(planes: list[Ring], subset: int) -> Ring:
    chosen = [plane for j, plane in enumerate(planes) if subset >> j & 1]
    product: Ring = np.bitwise_and.reduce(chosen)
    return product


def deal_blocks(r: Ring, sizes: Table, dealt: Ring) -> None:
    """See `comparison.deal_blocks`."""
    bit, plane = 0, 0
    for size in sizes.tolist():
        highest_first = [r[:, bit + size - 1 - j] for j in range(size)]
        for subset in range(1, 1 << size):
            dealt[:, plane] ^= _monomial(highest_first, subset)
            plane += 1
        bit += size
    dealt[:, plane] ^= r[:, -1]


def block_shares(c: Ring, bits: Ring, mu: Ring, sizes: Table, party: int, opened: Ring, last: Ring) -> None:
    """See `comparison.block_shares`."""
    blocks, bit, plane = len(sizes), 0, 0
    for b, size in enumerate(sizes.tolist()):
        clear = [~c[:, bit + size - 1 - j] for j in range(size)]
        shares = [np.full_like(last, _ALL if party == 0 else 0), *(bits[:, plane + s] for s in range((1 << size) - 1))]
        generate, propagate = np.zeros_like(last), np.zeros_like(last)
        for subset in range(1 << size):
            coefficient = np.full_like(last, _ALL)
            for j in range(size):
                if not subset >> j & 1:
                    coefficient &= clear[j]
            propagate ^= coefficient & shares[subset]
        for subset in range(1, 1 << size):
            lowest = subset.bit_length() - 1  # the lowest bit of the block in this monomial
            coefficient = clear[lowest].copy()
            for j in range(lowest):
                if not subset >> j & 1:
                    coefficient &= clear[j]
            generate ^= coefficient & shares[subset]
        if b < blocks - 1:
            opened[:, b] = generate ^ mu[:, b]
        if b > 0:
            opened[:, blocks - 2 + b] = propagate ^ mu[:, blocks - 2 + b]
        bit += size
        plane += (1 << size) - 1
    last[...] = generate ^ bits[:, plane] ^ (c[:, -1] if party == 0 else np.uint64(0))


def _products(blocks: int) -> list[tuple[int | None, int]]:
    """List the dealt products in order: (block of the g or None, mask over p_{B-1}, p_{B-2}, ...)."""
    order: list[tuple[int | None, int]] = []
    for j in range(blocks - 1):
        order += [(None, subset | 1 << j) for subset in range(1, 1 << j)]
        order += [(blocks - 2 - j, subset) for subset in range(1, 2 << j)]
    return order


def deal_node(mu: Ring, blocks: int, dealt: Ring) -> None:
    """See `comparison.deal_node`."""
    p = [mu[:, 2 * (blocks - 1) - 1 - j] for j in range(blocks - 1)]
    for plane, (g, subset) in enumerate(_products(blocks)):
        value = _monomial(p, subset)
        dealt[:, plane] ^= value if g is None else value & mu[:, g]


def node_shares(v: Ring, mu: Ring, node: Ring, blocks: int, party: int, sign: Ring) -> None:
    """See `comparison.node_shares`."""
    top = blocks - 1
    shares: dict[tuple[int | None, int], Ring] = {(None, 0): np.full_like(sign, _ALL if party == 0 else 0)}
    for j in range(top):
        shares[None, 1 << j] = mu[:, 2 * top - 1 - j]
        shares[top - 1 - j, 0] = mu[:, top - 1 - j]
    shares |= {product: node[:, plane] for plane, product in enumerate(_products(blocks))}
    for j in range(top):
        g = top - 1 - j
        for subset in range(2 << j):
            coefficient = np.full_like(sign, _ALL)
            for i in range(j + 1):
                if not subset >> i & 1:
                    coefficient &= v[:, 2 * top - 1 - i]
            sign ^= coefficient & ((v[:, g] & shares[None, subset]) ^ shares[g, subset])


def deal_selection(r: Ring, rho: Ring, drop: int, dealt: Ring) -> None:
    """See `comparison.deal_selection`."""
    high, wrap, bit = r >> np.uint64(drop), r >> np.uint64(63), _unpacked(rho, r.shape[1])
    for i, value in enumerate((high, wrap, bit, bit * high, bit * wrap)):
        dealt[:, i] = value - dealt[:, i]


def selection(c: Ring, e: Ring, dealt: Ring, setting: Table, party: int, out: Ring) -> None:
    """See `comparison.selection`."""
    drop, window = int(setting[0]), int(setting[1])
    positive, negative, step = (np.uint64(int(s) % 2**64) for s in setting[2:])
    first, bit = np.uint64(1 - party), _unpacked(e, c.shape[1])
    with np.errstate(over="ignore"):
        kappa = np.uint64(2 ** (64 - drop) % 2**64) * (_ONE - (c >> np.uint64(63)))
        a = (c >> np.uint64(drop)) - np.uint64(1 << (window - 1))
        high, wrap, rho, rho_high, rho_wrap = (dealt[:, i] for i in range(5))
        t = first * a - high + kappa * wrap
        sign = _ONE - bit - bit
        selected = bit * t + sign * (a * rho - rho_high + kappa * rho_wrap)
        out[...] = negative * t + (positive - negative) * selected + step * (first * bit + sign * rho)


def piecewise(c: Ring, e: Ring, mask: Ring, choice: Ring, pieces: Ring, setting: Table, party: int, out: Ring) -> None:
    """See `comparison.piecewise`."""
    drop, window = int(setting[0]), int(setting[1])
    first, knots = np.uint64(1 - party), choice.shape[1]
    bits = _unpacked(e, knots * c.shape[1]).reshape(len(c), knots, -1)

    def rounded(c: Ring, one: Ring | np.uint64, r: Ring, h: Ring) -> Ring:
        """Return A - R + kappa h, times what `one`, `r` and `h` were multiplied with."""
        kappa = np.uint64(2 ** (64 - drop) % 2**64) * (_ONE - (c >> np.uint64(63)))
        t: Ring = one * ((c >> np.uint64(drop)) - np.uint64(1 << (window - 1))) - r + kappa * h
        return t

    with np.errstate(over="ignore"):
        y = pieces[0, 1] * rounded(c, first, mask[:, 0], mask[:, 1]) + first * pieces[0, 2]
        for k, (knot, slope, offset) in enumerate(pieces[1:]):
            rho, rho_r, rho_h = choice[:, k].transpose(1, 0, 2)
            bit, sign = bits[:, k], _ONE - bits[:, k] - bits[:, k]
            y += offset * (first * bit + sign * rho)
            y += slope * (bit * rounded(c - knot, first, mask[:, 0], mask[:, 1]) + sign * rounded(c - knot, rho, rho_r, rho_h))
    out[...] = y


def deal_piecewise(r: Ring, rho: Ring, drop: int, mask: Ring, choice: Ring) -> None:
    """See `comparison.deal_piecewise`."""
    knots = choice.shape[1]
    bits = _unpacked(rho, knots * r.shape[1]).reshape(len(r), knots, -1)
    for i, value in enumerate((r >> np.uint64(drop), r >> np.uint64(63))):
        mask[:, i] = value - mask[:, i]
        choice[:, :, 1 + i] = bits * value[:, None] - choice[:, :, 1 + i]
    choice[:, :, 0] = bits - choice[:, :, 0]
