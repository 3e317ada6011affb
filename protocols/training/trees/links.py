"""Probabilities on shares, within 2^-17: what gradients of a classification are made of."""

from __future__ import annotations

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.argmax import OneHotArgmax
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.regression.exponential import EXPONENT, FLOOR, exp
from protocols.training.trees.ratios import GUESS, normaliser, reciprocal
from protocols.training.trees.units import BITS, VALUE


def _window(bits: int) -> int:
    """Of scores within +-2^bits, and of the ends of the exponential, which few and small steps do not reach."""
    return VALUE + max(bits, FLOOR.bit_length() - 2) + 3


def sigmoid(build: Builder, z: int, bits: int) -> tuple[int, int]:
    """Write the sigmoid of a share with `VALUE` fractional bits within +-2^bits, and 4 times its slope.

    With e = e^-|z| it is q = e / (1 + e) where z < 0, else 1 - q. Rounds: 23.

    Returns:
        Shares with `VALUE` fractional bits.
    """
    drop, edge = VALUE - EXPONENT, FLOOR << EXPONENT
    t = build(Piecewise(z, drop, _window(bits) - drop, (-edge, 0, edge), (0, 1, -1, 0), (-edge, 0, 0, -edge)))
    positive = build(Sign(build(Truncate(build(Combine((z,), (2,))), 1, _window(bits)))))
    power = exp(build, t)
    half = build(Truncate(power, 1, 62))
    y = reciprocal(build, build(Open(build(Combine((half,), (1,), 1 << (BITS - 1))))))  # of (1 + e) / 2
    drop = BITS + GUESS + 1 - VALUE
    q = build(Truncate(build(Multiply(power, y)), drop, 63 - drop))
    chance = build(Combine((positive, q, build(Multiply(positive, q))), (1 << VALUE, 1, -2)))
    return chance, build(Combine((q, build(Truncate(build(Multiply(q, q)), VALUE, 63 - VALUE))), (4, -4)))


def softmax(build: Builder, z: int, classes: int, bits: int) -> tuple[int, int]:
    """Write the softmax of the rows of a share (n, classes) with `VALUE` fractional bits within +-2^bits, and 4 times p (1 - p).

    Rounds: about 30.

    Returns:
        Shares with `VALUE` fractional bits.
    """
    logits = build(Truncate(build(Combine((z,), (2,))), 1, _window(bits)))
    top = build(Sum(build(Multiply(build(OneHotArgmax(logits, _window(bits) + 1)), logits)), 1))
    drop, edge = VALUE - EXPONENT, FLOOR << EXPONENT
    below = build(Combine((logits, top), (1, -1)))
    powers = exp(build, build(Piecewise(below, drop, _window(bits) + 1 - drop, (-edge, 0), (0, 1, 0), (-edge, 0, 0))))
    least = 1 << (BITS - (classes - 1).bit_length())  # the sum is from 1 to `classes`
    total = build(Sum(powers, 1))
    cut = (classes - 1).bit_length()
    share = build(Open(build(Truncate(total, cut, 63 - cut))))
    v = normaliser(build, share, least)
    y = reciprocal(build, build(Open(build(Multiply(share, v)))))
    near = build(Multiply(build(Truncate(build(Multiply(powers, y)), GUESS, 63 - GUESS)), v))  # p times 2^cut
    p = build(Truncate(near, cut + BITS - VALUE, 63 - cut - BITS + VALUE))
    return p, build(Combine((p, build(Truncate(build(Multiply(p, p)), VALUE, 63 - VALUE))), (4, -4)))
