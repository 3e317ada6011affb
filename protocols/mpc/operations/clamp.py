"""A client's input, cut into its range on shares, whatever ring element the client sent.

The servers hold m = x + lambda for an x of Z_2^64 that the client chose freely. Signed x is in the order of the unsigned
u = x + 2^63 = c - lambda, c = m + 2^63. For a public edge k, with [c < lambda] the borrow of that subtraction (interval containment:
Boyle et al., 2020, ePrint 2020/1392),

    [u < k] = [c < lambda] ^ [c - k < lambda] ^ [c < k]                     for every u, nothing wraps around
    y = low + [low <= x < high] (x - low) + [x >= high] (high - low)

so that y = min(max(x, low), high). [low <= x < high] needs the borrows at the edges low and high only, [x >= high] those at 0 and high:
three comparisons of 64 bits of public numbers with one and the same lambda, whose monomials are dealt once (`blocks.py`). No opening
comes before them, since m is public already. Then both bits are opened under masks rho (step 6 of `selection.py`), and y under its own.

Adversary: a client that does what it likes; servers and provider semi-honest, no two parties collude. **Leaks** nothing: what is opened
is masked by fresh uniform values, and whether an input was cut is known to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.values import Affine, Shape, Value, wire
from protocols.mpc.inputs import edges
from protocols.mpc.inputs.declared import RING_BITS
from protocols.mpc.operations.bits.blocks import Blocks, blocks_for
from protocols.mpc.operations.bits.conjunction import pack, unpack
from protocols.mpc.operations.wires import INPUT, check_first
from protocols.mpc.parties.exchange import Party, Ring, open_bits, open_sum
from protocols.mpc.parties.material import Field, Material, packed

EDGES = 3
"""The least ring element, low, high."""
TOP = 1 << (RING_BITS - 1)


class ClampedInput(Operation, frozen=True):
    """The client's example, cut into [low, high] whatever ring element was sent: a wire under a new mask.

    Tuples have an edge for each feature: tables of `shape`, broadcast over the example as numpy does. Rounds: 3. Bytes:
    8 + (6 (B - 1) + 2) / 8 an element and direction, 13.5 with the B = 8 blocks of 64 bits; dealt: 24 + (255 B + 1 + 3 * 367) / 8 = 417.
    """

    flat: ClassVar[bool] = True

    low: int | tuple[int, ...]
    high: int | tuple[int, ...]
    shape: Shape = ()

    def value(self, scope: Scope) -> Value:
        """Return a wire of the shape of an example."""
        shape = check_first(scope)
        edges.check(self.low, self.high, self.shape, shape)
        return wire(shape)

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the masks of what the client sends and of the result, and what the comparisons need."""
        return _fields(columns)

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return the bits of the comparisons, both bits under masks, and the result under its own."""
        return [EDGES * _blocks().opened * packed(columns), 2 * packed(columns), columns]

    def mask(self, side: Server | Dealer, at: int) -> Ring:
        """Return lambda of the result."""
        return side.field(at, "lambda").reshape(side.shape(at))

    def deal(self, dealer: Dealer, at: int) -> None:
        """Share what depends on the mask of what the client sends."""
        sent = dealer.field(at, "sent")
        dealer.sent = sent.reshape(dealer.shape(at))
        deal_words(sent, dealer.xor(at, "rho"), dealer.dealt(at, "words"))
        deal_bits(sent, dealer.dealt(at, "bits"))
        for k in range(EDGES):
            deal_node(dealer.xor(at, f"mu{k}"), dealer.dealt(at, f"node{k}"))
        super().deal(dealer, at)

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Compare with the edges, select, and open under a new mask."""
        sent = server.given[INPUT]
        assert not isinstance(sent, Affine)
        m = np.ascontiguousarray(sent).reshape(len(sent), -1)
        y = await self._clamped(server.me, m, server.material, at, server.values[at].shape)
        return Affine(y.reshape(sent.shape), lambda: {"R": self.mask(server, at)})

    async def _clamped(self, me: Party, m: Ring, material: Material, at: int, input_shape: Shape) -> Ring:
        """Return y + lambda' for masked inputs `m` (examples, elements)."""
        elements = m.shape[1]
        low, high = (edges.elements(edge, self.shape, input_shape) for edge in (self.low, self.high))
        span, first, second = high - low, low ^ np.uint64(TOP), high ^ np.uint64(TOP)  # the edges of u = x + 2^63
        c = m + np.uint64(TOP)
        borrows = await _borrows(me, [c, c - first, c - second], material, at)
        inside, above = borrows[1] ^ borrows[2], borrows[0] ^ borrows[2]
        if me.index == 0:
            inside ^= pack(((c < first) ^ (c < second)).view(np.uint8))
            above ^= pack((c >= second).view(np.uint8))
        e = _bits(await open_bits(me, np.concatenate([inside, above], axis=1) ^ material(at, "rho")), elements)
        y = _selected(me, e, m - low, span, material(at, "sent"), material(at, "words").reshape(len(m), 3, -1))
        if me.index == 0:
            y += low
        return await open_sum(me, y + material(at, "lambda"))

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Clip the example."""
        ends = [np.array(edge, np.int64).reshape(self.shape) for edge in (self.low, self.high)]
        return clear.given[INPUT].view(np.int64).clip(*ends).view(np.uint64)


def _blocks() -> Blocks:
    """All bits of the ring are compared; the sign position above them is always 0."""
    return blocks_for(RING_BITS + 1)


def _fields(elements: int) -> list[Field]:
    """List the masks of what the client sends ("sent"), of the result ("lambda") and of the bits; what is dealt for them; the nodes."""
    blocks, words = _blocks(), packed(elements)
    own = [Field("sent", elements), Field("lambda", elements), Field("rho", 2 * words)]
    dealt = [Field("words", 3 * elements, dealt=True), Field("bits", blocks.monomials * words, dealt=True)]
    nodes = [Field(f"mu{k}", blocks.opened * words) for k in range(EDGES)]
    return [*own, *dealt, *nodes, *(Field(f"node{k}", blocks.products * words, dealt=True) for k in range(EDGES))]


def _planes(x: Ring) -> Ring:
    """All bits of `x` (examples, elements), and a plane of zeros: (examples, 65, words)."""
    bits = np.empty((x.shape[0], RING_BITS, packed(x.shape[1])), np.uint64)
    kernels.bit_planes(np.ascontiguousarray(x), 0, bits)
    return np.concatenate([bits, np.zeros_like(bits[:, :1])], axis=1)


def _bits(words: Ring, elements: int) -> Ring:
    """Two packed rows of bits an example, (examples, 2 * words), as 0 and 1: (2, examples, elements)."""
    return np.stack([unpack(half, elements) for half in np.split(words, 2, axis=1)]).astype(np.uint64)


def deal_words(sent: Ring, rho: Ring, words: Ring) -> None:
    """Turn party 0's key stream in `words` (examples, 3 * elements) into party 1's shares of rho_0, rho_0 lambda and rho_1.

    Args:
        sent: lambda, (examples, elements).
        rho: both rows of bits, packed, (examples, 2 * words).
        words: overwritten.
    """
    inside, above = _bits(rho, sent.shape[1])
    shares = words.reshape(len(sent), 3, -1)
    for i, value in enumerate((inside, inside * sent, above)):
        np.subtract(value, shares[:, i], out=shares[:, i])


def deal_bits(sent: Ring, bits: Ring) -> None:
    """XOR the monomials of the bits of lambda into `bits`, which holds party 0's key stream."""
    blocks = _blocks()
    kernels.deal_blocks(_planes(sent), blocks.table, bits.reshape(len(bits), blocks.monomials, -1))


def deal_node(mu: Ring, node: Ring) -> None:
    """XOR the products of the masks of one comparison into `node`, which holds party 0's key stream."""
    blocks = _blocks()
    kernels.deal_node(mu.reshape(len(mu), blocks.opened, -1), blocks.count, node.reshape(len(node), blocks.products, -1))


async def _borrows(me: Party, c: list[Ring], material: Material, position: int) -> list[Ring]:
    """XOR shares (examples, words) of [c < lambda] for each of several public arrays. **Rounds**: 1."""
    blocks = _blocks()
    bits = material(position, "bits")
    bits = bits.reshape(len(bits), blocks.monomials, -1)
    opened = np.empty((len(c), len(bits), blocks.opened, bits.shape[2]), np.uint64)
    borrows = [np.empty((len(bits), bits.shape[2]), np.uint64) for _ in c]
    masks = [material(position, f"mu{k}").reshape(opened.shape[1:]) for k in range(len(c))]
    for k, (mu, borrow) in enumerate(zip(masks, borrows, strict=True)):
        kernels.block_shares(_planes(c[k]), bits, mu, blocks.table, me.index, opened[k], borrow)
    v = await open_bits(me, opened)
    for k, (mu, borrow) in enumerate(zip(masks, borrows, strict=True)):
        node = material(position, f"node{k}").reshape(len(bits), blocks.products, -1)
        kernels.node_shares(v[k], mu, node, blocks.count, me.index, borrow)
    return borrows


def _selected(me: Party, e: Ring, masked: Ring, span: Ring, sent: Ring, words: Ring) -> Ring:
    """Share inside (x - low) + above span, given the opened e = (inside ^ rho_0, above ^ rho_1) and masked = x - low + lambda."""
    sign = np.uint64(1) - e - e
    y: Ring = sign[0] * (masked * words[:, 0] - words[:, 1]) - e[0] * sent + span * sign[1] * words[:, 2]
    if me.index == 0:
        y += e[0] * masked + span * e[1]
    return y
