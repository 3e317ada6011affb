"""Products of two masked wires, element for element or of matrices (Section 2.2; ABY2.0, ePrint 2020/1225, section 3).

With m_X = X + lambda_X and m_Y = Y + lambda_Y known to both servers, a bilinear product o gives

    [Z]_i = (i_0 m_X - lambda_{X,i}) o m_Y - m_X o lambda_{Y,i} + gamma_i,   gamma_0 + gamma_1 = lambda_X o lambda_Y,

with i_0 = 1 for party 0 only. A mask may serve several products: each has its own gamma. A square is the product of a wire with itself.

Adversary: semi-honest, no two parties collude. **Rounds**: 0; the result is not rounded. **Leaks** nothing.
"""

from __future__ import annotations

import numpy as np

from protocols.mpc.numbers import ring
from protocols.mpc.operations.instructions import Hadamard, MatMul
from protocols.mpc.parties.exchange import Party, Ring


def product(op: Hadamard | MatMul, x: Ring, y: Ring) -> Ring:
    """X o Y modulo 2^64 for arrays (examples, *shape)."""
    if isinstance(op, Hadamard):
        z: Ring = x * y
        return z
    rows, columns = x.shape[-2], y.shape[-1]
    out = np.empty((*x.shape[:-1], columns), np.uint64)
    each = out.reshape(-1, rows, columns)
    for z, a, b in zip(each, x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]), strict=True):
        ring.matmul(a, b, out=z)
    return out


def deal(op: Hadamard | MatMul, x: Ring, y: Ring, gamma: Ring) -> None:
    """The dealer's half: turns party 0's key stream in `gamma` (examples, elements) into lambda_X o lambda_Y - gamma_0."""
    np.subtract(product(op, x, y).reshape(gamma.shape), gamma, out=gamma)


def evaluate(me: Party, op: Hadamard | MatMul, wires: tuple[Ring, Ring], masks: tuple[Ring, Ring], gamma: Ring) -> Ring:
    """[Z]_i from the masked values m_X, m_Y, this server's halves of their masks, and gamma_i (examples, *shape)."""
    (x, y), (mask_x, mask_y) = wires, masks
    left = (x if me.index == 0 else np.uint64(0)) - mask_x
    z: Ring = product(op, left, y) - product(op, x, mask_y) + gamma
    return z
