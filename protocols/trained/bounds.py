"""How large values can be, operation by operation, as integers: what is known where nobody knows the weights.

`reach` is the largest absolute value that an operation can give, from those of what it reads; `window` is how large what it reads may be,
so that it computes what it says. An operation without a rule here is refused by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from protocols.errors import UnsupportedLayer
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.values import Shape, Value
from protocols.mpc.operations.argmax import OneHotArgmax
from protocols.mpc.operations.bilinear import Convolve, MatMul
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.moves import Concatenate, Pad, Permute, Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Scale, Sum, SumPool
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import AsShare, Open

Reaches = Sequence[float]


def window(op: Operation, x: Value) -> float:
    """Return how large the operand `x` of an operation may be in absolute value; infinity where it does not matter."""
    match op:
        case Truncate() | Select():
            return 2.0 ** (op.drop + op.window - 1) - 2.0 ** (op.drop + 1)
        case Piecewise():
            return 2.0 ** (op.drop + op.window - 2) - 2.0 ** (op.drop + 1)
        case Sign(window=int(bits)):
            return 2.0 ** (op.drop + bits - 1) - 2.0 ** (op.drop + 1)
        case OneHotArgmax():
            return 2.0 ** (op.window - 2) - 1
    return math.inf


def reach(op: Operation, xs: Sequence[Value], reaches: Reaches) -> float:
    """Return the largest absolute value of what an operation gives.

    Args:
        op: the operation.
        xs: what is known of the values that it reads.
        reaches: how large these can be.

    Raises:
        UnsupportedLayer: there is no rule for it.
    """
    rule = _RULES.get(type(op))
    if rule is None:
        raise UnsupportedLayer(
            f"the network computes {type(op).__name__}, for which nothing says how large it can be: it cannot be served as it was trained;"
            " reveal() it, and share what is revealed"
        )
    return rule(op, xs, reaches)


def _same(op: Any, xs: Sequence[Value], reaches: Reaches) -> float:
    return max(reaches)


def _put(op: Put, xs: Sequence[Value], reaches: Reaches) -> float:
    """Return the most that can be added up at one place."""
    return max(Counter(index for indices in op.places for index in indices).values()) * max(reaches)


def _summed(op: Sum, xs: Sequence[Value], reaches: Reaches) -> float:
    return (xs[0].size if op.axis is None else xs[0].shape[op.axis]) * reaches[0]


def _products(op: MatMul, xs: Sequence[Value], reaches: Reaches) -> float:
    return xs[0].shape[-2 if op.transpose_x else -1] * reaches[0] * reaches[1]


def _convolved(op: Convolve, xs: Sequence[Value], reaches: Reaches) -> float:
    return _terms(xs[1].shape) * reaches[0] * reaches[1]


def _terms(kernel: Shape) -> int:
    return math.prod(kernel[:3])


def _pieces(op: Piecewise, xs: Sequence[Value], reaches: Reaches) -> float:
    """Straight lines are largest at their ends."""
    t = min(reaches[0] / 2.0**op.drop + 2, 2.0 ** (op.window - 1))
    ends = [-t, *(float(knot) for knot in op.knots), t]
    lines = zip(ends[:-1], ends[1:], op.slopes, op.offsets, strict=True)
    return max(abs(slope * min(max(x, -t), t) + offset) for low, high, slope, offset in lines for x in (low, high))


def _rounded(op: Truncate | Select, reaches: Reaches) -> float:
    return min(reaches[0] / 2.0**op.drop + 2, 2.0 ** (op.window - 1))


_RULES: dict[type, Callable[[Any, Sequence[Value], Reaches], float]] = {
    **dict.fromkeys((Open, AsShare, Reshape, Permute, Take, Pad, Concatenate, Row, Piece), _same),
    Combine: lambda op, xs, reaches: sum(abs(factor) * most for factor, most in zip(op.factors, reaches, strict=True)) + abs(op.constant),
    Scale: lambda op, xs, reaches: max(map(abs, op.factors)) * reaches[0],
    SumPool: lambda op, xs, reaches: math.prod(op.size) * reaches[0],
    Sum: _summed,
    Put: _put,
    MatMul: _products,
    Convolve: _convolved,
    Multiply: lambda op, xs, reaches: reaches[0] * reaches[-1],
    Truncate: lambda op, xs, reaches: _rounded(op, reaches),
    Select: lambda op, xs, reaches: max(abs(op.positive), abs(op.negative)) * _rounded(op, reaches) + abs(op.step),
    Piecewise: _pieces,
    Sign: lambda op, xs, reaches: 1.0,
    OneHotArgmax: lambda op, xs, reaches: 1.0,
}
