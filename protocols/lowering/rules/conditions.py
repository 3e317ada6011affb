"""Rules of comparisons, of what is made of truths, and of casts; see `operations.py` for what a rule is."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import Operand, plus, times
from protocols.lowering.rules.operations import Call, Result, operates
from protocols.lowering.rules.truths import is_truth, truth_of


@operates("Cast", "SaturateCast")
def cast(b: NetworkBuilder, call: Call) -> Result:
    """To floating point, to [x != 0], or of whole numbers to integers that hold them."""
    (x,) = call.values
    if str(call.operation.dtype) == "bool":
        return truth(b, call, x)
    if "float" not in str(call.operation.dtype) and not call.whole and not _whole(b, x):
        raise refuse(call.operation, f"it casts to {call.operation.dtype}", "floating point")
    return x


def _whole(b: NetworkBuilder, x: int) -> bool:
    """Whether a value is integers for sure: truths, or the input itself."""
    return isinstance(b.nodes[x], net.Start) or is_truth(b, x)


def truth(b: NetworkBuilder, call: Call, x: int) -> int:
    """[x != 0] of a private value."""
    found: int = truth_of(b, call.operation, x)
    return found


def _truths(b: NetworkBuilder, call: Call) -> list[Operand]:
    """Return the operands as truths; those of bitwise operations must be some."""
    name = type(call.operation).__name__
    if name.startswith("Bitwise"):
        for x in call.operands:
            known = is_truth(b, x) if isinstance(x, int) else bool(((x == 0) | (x == 1)).all())
            if not known:
                raise refuse(call.operation, "its operands are numbers of several bits", "comparisons, and ops.logical_and or logical_or")
    return [truth_of(b, call.operation, x) for x in call.operands]


@operates("LogicalAnd", "BitwiseAnd")
def logical_and(b: NetworkBuilder, call: Call) -> Result:
    """x y of truths."""
    return times(b, call.operation, *_truths(b, call))


@operates("LogicalNot")
def logical_not(b: NetworkBuilder, call: Call) -> Result:
    """1 - x of a truth."""
    found: int = _inverted(b, call, truth(b, call, call.values[0]))
    return found


def _inverted(b: NetworkBuilder, call: Call, x: Any) -> Any:
    return 1 - x if isinstance(x, np.ndarray) else plus(b, call.operation, np.array(1.0), x, -1)


@operates("LogicalOr", "BitwiseOr")
def logical_or(b: NetworkBuilder, call: Call) -> Result:
    """1 - (1 - x) (1 - y) of truths."""
    neither = times(b, call.operation, *(_inverted(b, call, x) for x in _truths(b, call)))
    return plus(b, call.operation, np.array(1.0), neither, -1)


@operates("Greater", "GreaterEqual", "Less", "LessEqual")
def compare(b: NetworkBuilder, call: Call) -> Result:
    """[x >= y] = [x - y >= 0], and [x > y] = 1 - [y - x >= 0]."""
    x, y = call.operands
    name = type(call.operation).__name__
    forward = name in ("GreaterEqual", "Less")  # x - y, otherwise y - x
    difference = plus(b, call.operation, x, y, -1) if forward else plus(b, call.operation, y, x, -1)
    truth = b.add(net.Truth, call.operation, [difference], b.shape(difference))
    return truth if name.endswith("Equal") else plus(b, call.operation, np.array(1.0), truth, -1)


@operates("Equal", "NotEqual")
def equal(b: NetworkBuilder, call: Call) -> Result:
    """[x = y], or 1 - [x = y]."""
    x, y = call.operands
    difference = plus(b, call.operation, x, y, -1)
    truth = b.add(net.Truth, call.operation, [difference], b.shape(difference), equal=True)
    return truth if type(call.operation).__name__ == "Equal" else plus(b, call.operation, np.array(1.0), truth, -1)


@operates("Where")
def where(b: NetworkBuilder, call: Call) -> Result:
    """y + c (x - y) for a private truth c = [condition != 0]."""
    condition, x, y = call.operands
    condition = truth_of(b, call.operation, condition)
    if isinstance(condition, np.ndarray):
        keep = (condition != 0).astype(np.float64)
        sides = ((x, keep), (y, 1 - keep))
        kept, other = (side * each if not isinstance(each, int) else times(b, call.operation, each, side) for each, side in sides)
        return plus(b, call.operation, kept, other)
    if not isinstance(x, int) and not isinstance(y, int):
        return plus(b, call.operation, times(b, call.operation, condition, x - y), y)
    return plus(b, call.operation, times(b, call.operation, condition, plus(b, call.operation, x, y, -1)), y)
