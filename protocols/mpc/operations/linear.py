"""Matrix products and convolutions of a masked wire with shared weights (Section 2.2; ABY2.0 section 3; Turbospeedz, ePrint 2019/080).

With m_X = X + lambda_X and M_W = W + lambda_W known to both servers, any bilinear product o gives

    [Z]_i = m_X o W_i + C_i,   C_i = gamma_i - lambda_{X,i} o M_W + b_i,   gamma_0 + gamma_1 = lambda_X o lambda_W,

where W_0 = -lambda_{W,0} and W_1 = M_W - lambda_{W,1}. C_i does not depend on the input: it is made ahead. Online there is one ring
product a server and no communication. lambda_X may serve several products (each has its own gamma); lambda_W serves all requests.

Adversary: semi-honest, no two parties collude. **Rounds**: 0. **Leaks** nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from protocols.mpc.numbers import ring
from protocols.mpc.operations.instructions import Conv2D, Dense, Shape
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream, derive

PIECE = 1 << 17
"""Words of a mask that are expanded at a time where they are only added to something."""


@dataclass(frozen=True)
class WeightShares:
    """What one server holds of a model.

    Attributes:
        masked: M_W = W + lambda_W of every weight, known to both servers.
        share: this server's additive share W_i of every weight.
    """

    masked: Sequence[Ring] = field(repr=False)
    share: Sequence[Ring] = field(repr=False)

    @classmethod
    def of(cls, me: Party, masked: Sequence[Ring], masks: Sequence[Ring]) -> WeightShares:
        """From the masked weights and this server's half lambda_{W,i} of their masks, which the shares are written over."""
        for m, mask in zip(masked, masks, strict=True):
            np.negative(mask, out=mask)
            if me.index:
                mask += m
        return cls(masked, masks)


def weight_masks(key: bytes, shapes: Sequence[Shape]) -> list[Ring]:
    """One server's half of the masks of all weights of a model, expanded from its key for that model."""
    return [KeyStream(derive(key, "weight", index)).words(shape) for index, shape in enumerate(shapes)]


def summed_weight_masks(keys: tuple[bytes, bytes], shapes: Sequence[Shape]) -> list[Ring]:
    """The masks lambda_W of all weights, both halves added. Slow for a large model; runs in a thread."""
    masks = weight_masks(keys[0], shapes)
    for index, mask in enumerate(masks):
        stream, flat = KeyStream(derive(keys[1], "weight", index)), mask.reshape(-1)
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            piece += stream.words(piece.size)
    return masks


def product(op: Dense | Conv2D, x: Ring, weight: Ring, *, add_to: Ring | None = None) -> Ring:
    """X o weight modulo 2^64 for `x` (examples, *shape); with `add_to` (examples, elements) the product is added to it in place."""
    if isinstance(op, Conv2D):
        return ring.conv2d(
            x,
            weight,
            strides=op.strides,
            padding=op.padding,
            dilation=op.dilation,
            groups=op.groups,
            out=None if add_to is None else add_to.reshape(len(x), *_grid(op, x, weight), weight.shape[3]),
            accumulate=add_to is not None,
        )
    rows = x.reshape(-1, x.shape[-1])
    out = None if add_to is None else add_to.reshape(len(rows), weight.shape[1])
    return ring.matmul(rows, weight, out=out, accumulate=add_to is not None).reshape(*x.shape[:-1], weight.shape[1])


def _grid(op: Conv2D, x: Ring, weight: Ring) -> tuple[int, int]:
    h, w = (
        (n + sum(pad) - step * (k - 1) - 1) // stride + 1
        for n, k, stride, pad, step in zip(x.shape[1:3], weight.shape[:2], op.strides, op.padding, op.dilation, strict=True)
    )
    return h, w


def deal(op: Dense | Conv2D, mask: Ring, weight_mask: Ring, gamma: Ring) -> None:
    """The dealer's half: turns party 0's key stream in `gamma` (examples, elements) into gamma_1 = lambda_X o lambda_W - gamma_0."""
    gamma *= ~gamma.dtype.type(0)  # -1 modulo 2^64
    product(op, mask, weight_mask, add_to=gamma)


def prepare(op: Dense | Conv2D, mask: Ring, weights: WeightShares, gamma: Ring) -> None:
    """Turns gamma_i in place into C_i = gamma_i - lambda_{X,i} o M_W + b_i."""
    product(op, -mask, weights.masked[op.weight], add_to=gamma)
    if op.bias is not None:
        units = gamma.reshape(-1, len(weights.share[op.bias]))
        units += weights.share[op.bias]


def evaluate(op: Dense | Conv2D, m: Ring, weights: WeightShares, constant: Ring) -> Ring:
    """[Z]_i = m_X o W_i + C_i; consumes C_i (`constant`, (examples, elements)): the result is written over it."""
    return product(op, m, weights.share[op.weight], add_to=constant)
