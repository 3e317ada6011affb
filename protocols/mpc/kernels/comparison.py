"""Bit-sliced comparison, selection and the dealer's side of both, compiled.

Sixty-four elements travel in one word: plane j of a batch holds bit j of every element. Arrays are C-contiguous uint64; axis 0 is the
example, `words` = ceil(elements / 64). The inner loops run over the words of one plane, which the compiler turns into vector code.

The monomials of a block of k bits are numbered by masks in which the highest bit of the block is mask bit 0 (`blocks.py` says why);
mask S is stored in plane S - 1 of its block. `protocols.mpc.kernels.reference_comparison` has the same functions in plain numpy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.mpc.kernels.compiler import compiled

Ring = npt.NDArray[np.uint64]
Table = npt.NDArray[np.int64]

_MASKS = (0x00000000FFFFFFFF, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF, 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555)


@compiled("void(uint64[::1])")
def transpose_64(square: Ring) -> None:
    """Transpose a 64 x 64 bit matrix in place: bit j of word i becomes bit i of word j (Warren, Hacker's Delight, 7-3)."""
    width = 32
    for stage in range(6):
        mask = np.uint64(_MASKS[stage])
        shift = np.uint64(width)
        for start in range(0, 64, 2 * width):
            for i in range(start, start + width):
                low, high = square[i], square[i + width]
                swap = ((low >> shift) ^ high) & mask
                square[i + width] = high ^ swap
                square[i] = low ^ (swap << shift)
        width >>= 1


@compiled("void(uint64[:,::1], int64, uint64[:,:,::1])")
def bit_planes(x: Ring, first: int, out: Ring) -> None:
    """Planes of the bits first, first + 1, ... of `x` (examples, elements) into `out` (examples, planes, words)."""
    examples, elements = x.shape
    planes, words = out.shape[1], out.shape[2]
    square = np.empty(64, np.uint64)
    for u in range(examples):
        for word in range(words):
            start = 64 * word
            filled = min(64, elements - start)
            for i in range(filled):
                square[i] = x[u, start + i] >> np.uint64(first)
            for i in range(filled, 64):
                square[i] = np.uint64(0)
            transpose_64(square)
            for plane in range(planes):
                out[u, plane, word] = square[plane]


@compiled("void(uint64[:,:,::1], int64[::1], uint64[:,:,::1])")
def deal_blocks(r: Ring, sizes: Table, dealt: Ring) -> None:
    """XOR all monomials of the mask bits, and the sign bit, into `dealt`, which holds party 0's key stream.

    `r` (examples, window, words) are the planes of the mask, least significant first, the sign position last; `sizes` the bits of each
    block, least significant block first; `dealt` (examples, sum(2^size - 1) + 1, words).
    """
    examples, window, words = r.shape
    monomials = np.empty((256, words), np.uint64)
    for u in range(examples):
        bit, plane = 0, 0
        for b in range(sizes.size):
            size = sizes[b]
            for j in range(size):  # mask bit j is the j-th highest bit of the block
                source = bit + size - 1 - j
                for subset in range(1 << j):
                    for word in range(words):
                        value = r[u, source, word]
                        if subset:
                            value &= monomials[subset, word]
                        monomials[subset | (1 << j), word] = value
            for subset in range(1, 1 << size):
                for word in range(words):
                    dealt[u, plane, word] ^= monomials[subset, word]
                plane += 1
            bit += size
        for word in range(words):
            dealt[u, plane, word] ^= r[u, window - 1, word]


@compiled("void(uint64[:,:,::1], uint64[:,:,::1], uint64[:,:,::1], int64[::1], int64, uint64[:,:,::1], uint64[:,::1])")
def block_shares(c: Ring, bits: Ring, mu: Ring, sizes: Table, party: int, opened: Ring, last: Ring) -> None:
    """One party's shares of g and p of every block from the public planes `c`: no communication (section 2.3, step 4).

    Writes g_i ^ mu for i < B - 1 and p_i ^ mu for i > 0 into `opened` (examples, 2 (B - 1), words), the g first, and
    c_s ^ r_s ^ g_{B-1} into `last` (examples, words).
    """
    examples, window, words = c.shape
    blocks = sizes.size
    coefficient = np.empty((256, words), np.uint64)
    generate = np.empty(words, np.uint64)
    propagate = np.empty(words, np.uint64)
    ones = ~np.uint64(0)
    for u in range(examples):
        bit, plane = 0, 0
        for b in range(blocks):
            size = sizes[b]
            for word in range(words):
                generate[word] = 0
                coefficient[0, word] = ones
            for j in range(size):
                source = bit + size - 1 - j
                for subset in range(1 << j):
                    monomial = plane + (subset | (1 << j)) - 1
                    for word in range(words):
                        above = coefficient[subset, word]
                        term = above & ~c[u, source, word]
                        coefficient[subset | (1 << j), word] = above
                        coefficient[subset, word] = term
                        generate[word] ^= term & bits[u, monomial, word]
            if b > 0:
                for word in range(words):
                    propagate[word] = coefficient[0, word] if party == 0 else np.uint64(0)
                for subset in range(1, 1 << size):
                    for word in range(words):
                        propagate[word] ^= coefficient[subset, word] & bits[u, plane + subset - 1, word]
                for word in range(words):
                    opened[u, blocks - 2 + b, word] = propagate[word] ^ mu[u, blocks - 2 + b, word]
            if b < blocks - 1:
                for word in range(words):
                    opened[u, b, word] = generate[word] ^ mu[u, b, word]
            bit += size
            plane += (1 << size) - 1
        for word in range(words):
            value = generate[word] ^ bits[u, plane, word]
            if party == 0:
                value ^= c[u, window - 1, word]
            last[u, word] = value


@compiled("void(uint64[:,:,::1], int64, uint64[:,:,::1])")
def deal_node(mu: Ring, blocks: int, dealt: Ring) -> None:
    """XOR the products of the node's masks into `dealt` (examples, products, words), which holds party 0's key stream.

    `mu` (examples, 2 (B - 1), words) are the opened masks of g_0..g_{B-2}, p_1..p_{B-1}. Order of the products: see `blocks.py`.
    """
    examples, words = mu.shape[0], mu.shape[2]
    top = blocks - 1
    product = np.empty((128, words), np.uint64)
    for u in range(examples):
        plane = 0
        for j in range(top):  # mask bit j is p_{B-1-j}
            source = 2 * top - 1 - j
            for subset in range(1 << j):
                for word in range(words):
                    value = mu[u, source, word]
                    if subset:
                        value &= product[subset, word]
                        dealt[u, plane, word] ^= value
                    product[subset | (1 << j), word] = value
                if subset:
                    plane += 1
            for subset in range(1, 2 << j):  # products with g of block B - 2 - j
                for word in range(words):
                    dealt[u, plane, word] ^= product[subset, word] & mu[u, top - 1 - j, word]
                plane += 1


@compiled("void(uint64[:,:,::1], uint64[:,:,::1], uint64[:,:,::1], int64, int64, uint64[:,::1])")
def node_shares(v: Ring, mu: Ring, node: Ring, blocks: int, party: int, sign: Ring) -> None:
    """Add sum_i g_i prod_{j>i} p_j to `sign` (examples, words), which holds the share of c_s ^ r_s ^ g_{B-1}: no communication.

    `v` are the opened planes, `mu` this party's shares of their masks, `node` its shares of the products of masks.
    With g = v_g ^ mu_g and p = v_p ^ mu_p each term is sum_T prod_{p not in T} v_p (v_g mu_T ^ mu_{g, T}).
    """
    examples, words = v.shape[0], v.shape[2]
    top = blocks - 1
    coefficient = np.empty((128, words), np.uint64)
    plane_of = np.empty(128, np.int64)
    ones = ~np.uint64(0)
    constant = ones if party == 0 else np.uint64(0)
    for u in range(examples):
        plane = 0
        for word in range(words):
            coefficient[0, word] = ones
        for j in range(top):
            p, g = 2 * top - 1 - j, top - 1 - j
            for subset in range(1 << j):
                plane_of[subset | (1 << j)] = plane if subset else -1 - p
                if subset:
                    plane += 1
                for word in range(words):
                    above = coefficient[subset, word]
                    coefficient[subset | (1 << j), word] = above
                    coefficient[subset, word] = above & v[u, p, word]
            for word in range(words):
                sign[u, word] ^= coefficient[0, word] & ((v[u, g, word] & constant) ^ mu[u, g, word])
            for subset in range(1, 2 << j):
                at = plane_of[subset]
                for word in range(words):
                    product = node[u, at, word] if at >= 0 else mu[u, -1 - at, word]
                    sign[u, word] ^= coefficient[subset, word] & ((v[u, g, word] & product) ^ node[u, plane, word])
                plane += 1


@compiled("void(uint64[:,::1], uint64[:,::1], int64, uint64[:,:,::1])")
def deal_selection(r: Ring, rho: Ring, drop: int, dealt: Ring) -> None:
    """Turn party 0's key stream in `dealt` (examples, 5, elements) into party 1's shares of R, h, rho, rho R, rho h.

    `r` (examples, elements) is the mask, `rho` (examples, words) the packed random bits; R = r >> drop, h = the top bit of r.
    """
    for u in range(r.shape[0]):
        for i in range(r.shape[1]):
            high = r[u, i] >> np.uint64(drop)
            wrap = r[u, i] >> np.uint64(63)
            bit = (rho[u, i >> 6] >> np.uint64(i & 63)) & np.uint64(1)
            dealt[u, 0, i] = high - dealt[u, 0, i]
            dealt[u, 1, i] = wrap - dealt[u, 1, i]
            dealt[u, 2, i] = bit - dealt[u, 2, i]
            dealt[u, 3, i] = bit * high - dealt[u, 3, i]
            dealt[u, 4, i] = bit * wrap - dealt[u, 4, i]


@compiled("void(uint64[:,::1], uint64[:,::1], uint64[:,:,::1], int64[::1], int64, uint64[:,::1])")
def selection(c: Ring, e: Ring, dealt: Ring, setting: Table, party: int, out: Ring) -> None:
    """One party's share of D (positive t + step) + (1 - D) negative t from public c and e: no communication (step 6).

    `setting` is (drop, window, positive, negative, step); `dealt` this party's shares of R, h, rho, rho R, rho h.
    """
    drop, window = np.uint64(setting[0]), np.uint64(setting[1])
    negative, step = np.uint64(setting[3]), np.uint64(setting[4])
    jump = np.uint64(setting[2]) - negative
    first = np.uint64(1 - party)
    half = np.uint64(1) << (window - np.uint64(1))
    unit = np.uint64(1) << ((np.uint64(64) - drop) & np.uint64(63))
    if setting[0] == 0:
        unit = np.uint64(0)
    for u in range(c.shape[0]):
        for i in range(c.shape[1]):
            bit = (e[u, i >> 6] >> np.uint64(i & 63)) & np.uint64(1)
            sign = np.uint64(1) - bit - bit
            kappa = unit * (np.uint64(1) - (c[u, i] >> np.uint64(63)))
            a = (c[u, i] >> drop) - half
            t = first * a - dealt[u, 0, i] + kappa * dealt[u, 1, i]
            rho_t = a * dealt[u, 2, i] - dealt[u, 3, i] + kappa * dealt[u, 4, i]
            d = first * bit + sign * dealt[u, 2, i]
            out[u, i] = negative * t + jump * (bit * t + sign * rho_t) + step * d


@compiled("void(uint64[:,::1], uint64[:,::1], uint64[:,:,::1], uint64[:,:,:,::1], uint64[:,::1], int64[::1], int64, uint64[:,::1])")
def piecewise(c: Ring, e: Ring, mask: Ring, choice: Ring, pieces: Ring, setting: Table, party: int, out: Ring) -> None:
    """One party's share of slopes[k] t + offsets[k] from public c and e: no communication (`protocols/mpc/operations/piecewise.py`).

    `e` are the opened bits, element i of knot k at k * elements + i; `mask` (examples, 2, elements) and `choice` (examples, knots, 3,
    elements) this party's shares of R, h and of rho, rho R, rho h; `pieces` (1 + knots, 3) the first piece as (0, slope, offset), then for
    each knot (knot << drop, jump of the slope, jump of the offset); `setting` is (drop, window).
    """
    drop, window = np.uint64(setting[0]), np.uint64(setting[1])
    first = np.uint64(1 - party)
    half = np.uint64(1) << (window - np.uint64(1))
    unit = np.uint64(1) << ((np.uint64(64) - drop) & np.uint64(63))
    if setting[0] == 0:
        unit = np.uint64(0)
    elements = c.shape[1]
    for u in range(c.shape[0]):
        slope, offset = pieces[0, 1], pieces[0, 2]
        for i in range(elements):
            kappa = unit * (np.uint64(1) - (c[u, i] >> np.uint64(63)))
            a = (c[u, i] >> drop) - half
            out[u, i] = slope * (first * a - mask[u, 0, i] + kappa * mask[u, 1, i]) + first * offset
        for k in range(choice.shape[1]):
            knot, slope, offset = pieces[k + 1, 0], pieces[k + 1, 1], pieces[k + 1, 2]
            for i in range(elements):
                at = k * elements + i
                bit = (e[u, at >> 6] >> np.uint64(at & 63)) & np.uint64(1)
                sign = np.uint64(1) - bit - bit
                difference = c[u, i] - knot
                kappa = unit * (np.uint64(1) - (difference >> np.uint64(63)))
                a = (difference >> drop) - half
                t = first * a - mask[u, 0, i] + kappa * mask[u, 1, i]
                rho_t = a * choice[u, k, 0, i] - choice[u, k, 1, i] + kappa * choice[u, k, 2, i]
                out[u, i] += offset * (first * bit + sign * choice[u, k, 0, i]) + slope * (bit * t + sign * rho_t)


@compiled("void(uint64[:,::1], uint64[:,::1], int64, uint64[:,:,::1], uint64[:,:,:,::1])")
def deal_piecewise(r: Ring, rho: Ring, drop: int, mask: Ring, choice: Ring) -> None:
    """Turn party 0's key stream in `mask` and `choice` into party 1's shares of R, h and, for each knot, rho, rho R, rho h."""
    elements = r.shape[1]
    for u in range(r.shape[0]):
        for i in range(elements):
            mask[u, 0, i] = (r[u, i] >> np.uint64(drop)) - mask[u, 0, i]
            mask[u, 1, i] = (r[u, i] >> np.uint64(63)) - mask[u, 1, i]
        for k in range(choice.shape[1]):
            for i in range(elements):
                at = k * elements + i
                bit = (rho[u, at >> 6] >> np.uint64(at & 63)) & np.uint64(1)
                choice[u, k, 0, i] = bit - choice[u, k, 0, i]
                choice[u, k, 1, i] = bit * (r[u, i] >> np.uint64(drop)) - choice[u, k, 1, i]
                choice[u, k, 2, i] = bit * (r[u, i] >> np.uint64(63)) - choice[u, k, 2, i]
