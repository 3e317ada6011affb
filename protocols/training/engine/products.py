"""The products of two wires: matrices, convolutions and their transposes. Each is linear in both of its operands.

Masked values, masks and shares go the same way: a server and the crypto provider call the same function.
"""

from __future__ import annotations

from protocols.mpc.numbers import ring
from protocols.mpc.parties.exchange import Ring
from protocols.training.engine.circuit import Bilinear, Convolve, InputGradient, KernelGradient, MatMul


def product(op: Bilinear, x: Ring, y: Ring) -> Ring:
    """x o y modulo 2^64."""
    match op:
        case MatMul(_, _, transpose_x, transpose_y):
            return ring.matmul(x.T if transpose_x else x, y.T if transpose_y else y)
        case Convolve(_, _, strides, padding):
            return ring.conv2d(x, y, strides=strides, padding=padding)
        case KernelGradient(_, _, size, strides, padding):
            return ring.kernel_gradient(x, y, size, strides=strides, padding=padding)
        case InputGradient(_, _, image, strides, padding):
            return ring.input_gradient(x, y, image, strides=strides, padding=padding)
