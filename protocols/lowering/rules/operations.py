"""Rules of `keras.ops` in functional models and in the `call` of layers that have no rule of their own.

What only moves elements is asked of Keras itself, on their numbers: one rule serves all such operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np

from protocols.curves.activations import CURVES, Curve, curve_of
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.numbers import EXAMPLES
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import Operand, broadcast, plus, times
from protocols.mpc.engine.values import Shape


@dataclass(frozen=True, eq=False)
class Call:
    """An operation in the graph.

    Attributes:
        operation: of `keras.ops`.
        operands: what it is called with: private values and constants, in order, without its settings.
        shapes: of what it gives, without the batch axis.
        run: calls it for `EXAMPLES` examples, with these arrays in the places of its private values; `alone`: and zeros in those of
            constants that are put beside them.
        named: the operands by the names of their parameters, where they have one each.
        whole: whether what it is called with are whole numbers or truths in Keras.
        dtypes: of what it gives, in Keras.
    """

    operation: Any
    operands: list[Operand]
    shapes: list[Shape]
    run: Callable[..., Any]
    named: dict[str, Any]
    whole: bool = False
    dtypes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> Shape:
        """Of its only result."""
        return self.shapes[0]

    @property
    def values(self) -> list[int]:
        """The private values."""
        return [x for x in self.operands if not isinstance(x, np.ndarray)]

    def axis(self, rank: int) -> int:
        """Its axis, 0 the first after the batch."""
        return axis_of(self.operation, self.operation.axis, rank)


Result = int | list[int]
OPERATIONS: dict[str, Callable[[NetworkBuilder, Call], Result]] = {}


def operates(*names: str) -> Callable[[Callable[[NetworkBuilder, Call], Result]], Callable[[NetworkBuilder, Call], Result]]:
    """Register a rule for operations of these classes."""

    def register(rule: Callable[[NetworkBuilder, Call], Result]) -> Callable[[NetworkBuilder, Call], Result]:
        OPERATIONS.update(dict.fromkeys(names, partial(_in_its_type, rule)))
        return rule

    return register


def _in_its_type(rule: Callable[[NetworkBuilder, Call], Result], b: NetworkBuilder, call: Call) -> Result:
    """Apply a rule; where Keras gives integers of a type that results could leave, they must be proved to stay inside."""
    result = rule(b, call)
    if isinstance(result, list) or type(call.operation).__name__ in STAY_INSIDE or "int" not in "".join(call.dtypes):
        return result
    ends = np.iinfo(call.dtypes[0])
    return b.add(net.Within, call.operation, [result], b.shape(result), dtype=call.dtypes[0], low=int(ends.min), high=int(ends.max))


def axis_of(operation: Any, axis: Any, rank: int) -> int:
    """One axis, 0 the first after the batch; `rank` counts the batch, too."""
    (one,) = axis if isinstance(axis, list | tuple) and len(axis) == 1 else (axis,)
    if not isinstance(one, int) or not 0 < (one + rank if one < 0 else one) < rank:
        raise refuse(operation, f"its axis is {axis}", f"one axis from 1 to {rank - 1}")
    return (one + rank if one < 0 else one) - 1


MOVES = ("Reshape", "Transpose", "ExpandDims", "Squeeze", "Swapaxes", "Moveaxis", "Ravel", "Rot90", "Roll", "Flip")
COPIES = ("GetItem", "Slice", "Take", "Split", "ArraySplit", "Unstack", "Diagonal", "Repeat", "Tile", "BroadcastTo", "Pad", "Tril", "Triu")
MOST_INDICES = 1024
OTHERS = ("Concatenate", "Stack", "Hstack", "Vstack", "DepthToSpace", "SpaceToDepth", "Identity", "StopGradient", "ConvertToTensor")


MOVED = frozenset((*MOVES, *COPIES, *OTHERS))
PUT_BESIDE = frozenset(("Concatenate", "Stack", "Hstack", "Vstack", "Pad"))
"""Those of them in which constants stand beside private values."""
STAY_INSIDE = MOVED | {"Maximum", "Minimum", "Max", "Min", "OneHot", "Argmax", "Argmin", "TopK"}
"""Operations whose results are in their integer type because their inputs are, or by their meaning."""


@operates(*MOVED)
def moved(b: NetworkBuilder, call: Call) -> Result:
    """Move elements to other places: the operation itself, applied to their numbers, says where each comes from."""
    values, name = call.values, type(call.operation).__name__
    if name == "Take" and isinstance(call.operands[0], np.ndarray):
        return looked_up(b, call)
    if name == "Roll":  # by as many as are tried is by none
        given = call.operation.axis
        for axis in given if isinstance(given, list | tuple) else [given]:
            axis_of(call.operation, axis, len(b.shape(values[0])) + 1)
    sizes = [math.prod(b.shape(x)) for x in values]
    starts = np.cumsum([1, *sizes])  # 0 is what comes from nowhere: padding
    numbers = [
        (np.arange(start, start + n) + (starts[-1] - 1) * np.arange(EXAMPLES)[:, None]).reshape(EXAMPLES, *b.shape(x)).astype(np.int32)
        for x, start, n in zip(values, starts[:-1], sizes, strict=True)
    ]
    results = _run(call, numbers, alone=True)
    flat = [b.add(net.Shaped, call.operation, [x], (n,)) for x, n in zip(values, sizes, strict=True)]
    source = flat[0] if len(flat) == 1 else b.add(net.Joined, call.operation, flat, (sum(sizes),), axis=0)
    places = [_placed(b, call, source, one) for one in results]
    if name in PUT_BESIDE:
        beside = _run(call, [np.zeros(each.shape, np.float32) for each in numbers])
        places = [_beside(b, call, x, constants) for x, constants in zip(places, beside, strict=True)]
    return places if len(places) > 1 else places[0]


def _run(call: Call, numbers: list[Any], *, alone: bool = False) -> list[Any]:
    try:
        results = call.run(numbers, alone=alone)
    except Exception as error:  # of Keras' backend
        raise refuse(call.operation, "it can be run for one example only", "operations for any number of examples") from error
    return [np.asarray(one) for one in (results if isinstance(results, list | tuple) else [results])]


def _beside(b: NetworkBuilder, call: Call, x: int, constants: Any) -> int:
    """Put the constants that stand beside a value where it has zeros."""
    if not constants.any():
        return x
    if len(constants) != EXAMPLES or (constants != constants[0]).any():
        raise refuse(call.operation, "its constants are not the same for each example", "operations inside of an example")
    return plus(b, call.operation, x, constants[0].astype(np.float64))


def looked_up(b: NetworkBuilder, call: Call) -> int:
    """Rows of a table by private indices: compared with all indices, then a matrix product."""
    table, index = call.operands[0], call.operands[-1]
    if not isinstance(table, np.ndarray) or not isinstance(index, int) or table.ndim != 2 or call.operation.axis != 0:
        raise refuse(call.operation, "its table has not two axes, or not its rows are taken", "ops.take(table, indices, axis=0)")
    return rows_of(b, call.operation, table, index)


def rows_of(b: NetworkBuilder, layer: Any, table: Any, index: int) -> int:
    """Rows of a private table by private indices."""
    if len(table) > MOST_INDICES:
        raise refuse(layer, f"it has {len(table)} rows", f"at most {MOST_INDICES} rows: each index is compared with all of them")
    shape = b.shape(index)
    chosen = b.add(net.OneHot, layer, [index], (*shape, len(table)))
    return b.add(net.Product, layer, [chosen], (*shape, table.shape[1]), kernel=table, bias=None)


def _moved_alike(places: Any, total: int) -> Any:
    """Where elements of each example come from if they come from where those of the first do."""
    return places + total * np.arange(EXAMPLES).reshape(-1, *(1 for _ in places.shape)) * (places > 0)


def _placed(b: NetworkBuilder, call: Call, source: int, places: Any) -> int:
    (total,) = b.shape(source)
    if places.ndim < 2 or len(places) != EXAMPLES or places[0].max() > total or (places != _moved_alike(places[0], total)).any():
        raise refuse(call.operation, "it moves elements from one example to another", "operations inside of an example")
    indices = tuple(int(i) - 1 if i else total for i in places[0].reshape(-1))
    if total in indices:
        row = b.add(net.Shaped, call.operation, [source], (1, total, 1))
        longer = b.add(net.Padded, call.operation, [row], (1, total + 1, 1), padding=((0, 0), (0, 1)))
        source = b.add(net.Shaped, call.operation, [longer], (total + 1,))
    taken = source
    if indices != tuple(range(total)):
        taken = b.add(net.Taken, call.operation, [source], (len(indices),), axis=0, indices=indices)
    return b.add(net.Shaped, call.operation, [taken], places.shape[1:])


@operates("Add")
def add(b: NetworkBuilder, call: Call) -> Result:
    """x + y."""
    x, y = call.operands
    return plus(b, call.operation, x, y)


@operates("Subtract")
def subtract(b: NetworkBuilder, call: Call) -> Result:
    """x - y."""
    x, y = call.operands
    return plus(b, call.operation, x, y, -1)


@operates("Multiply")
def multiply(b: NetworkBuilder, call: Call) -> Result:
    """x y."""
    return times(b, call.operation, *call.operands)


@operates("Negative")
def negative(b: NetworkBuilder, call: Call) -> Result:
    """-x."""
    return times(b, call.operation, call.values[0], np.array(-1.0))


@operates("Square")
def square(b: NetworkBuilder, call: Call) -> Result:
    """x x."""
    return times(b, call.operation, call.values[0], call.values[0])


@operates("Power")
def power(b: NetworkBuilder, call: Call) -> Result:
    """x to a small whole number."""
    x, exponent = call.operands
    if isinstance(x, np.ndarray) or not isinstance(exponent, np.ndarray) or exponent.size != 1 or float(exponent) not in (1, 2, 3, 4):
        raise refuse(call.operation, "its exponent is not 1, 2, 3 or 4", "products, or ops.exp")
    return reduce(lambda y, _: times(b, call.operation, y, x), range(int(exponent) - 1), x)


@operates("Divide", "TrueDivide")
def divide(b: NetworkBuilder, call: Call) -> Result:
    """x / y; a private y must be proved to be positive."""
    x, y = call.operands
    if isinstance(y, np.ndarray):
        if not y.all():
            raise refuse(call.operation, "it divides by 0", "a divisor other than 0")
        return times(b, call.operation, x, 1 / y)
    return times(b, call.operation, x, b.add(net.Inverse, call.operation, [y], b.shape(y)))


@operates("Reciprocal", "Rsqrt")
def inverse(b: NetworkBuilder, call: Call) -> Result:
    """1 / x or 1 / sqrt(x) for x proved to be positive."""
    root = type(call.operation).__name__ == "Rsqrt"
    return b.add(net.Inverse, call.operation, call.values, call.shape, root=root)


@operates("Sqrt")
def square_root(b: NetworkBuilder, call: Call) -> Result:
    """x / sqrt(x) for x proved to be positive."""
    (x,) = call.values
    return times(b, call.operation, x, b.add(net.Inverse, call.operation, [x], call.shape, root=True))


@operates("Maximum", "Minimum")
def maximum(b: NetworkBuilder, call: Call) -> Result:
    """Write the larger, or smaller, of two; max(x, c) = c + ReLU(x - c)."""
    x, y = call.operands
    smallest = type(call.operation).__name__ == "Minimum"
    if isinstance(x, int) and isinstance(y, int):
        both = [broadcast(b, call.operation, each, call.shape) for each in (x, y)]
        return b.add(net.Largest, call.operation, both, call.shape, smallest=smallest)
    value, bound = (x, y) if isinstance(x, int) else (y, x)
    excess = plus(b, call.operation, value, bound, -1) if not smallest else plus(b, call.operation, bound, value, -1)
    above = b.add(net.Rectify, call.operation, [excess], b.shape(excess))
    return plus(b, call.operation, bound, above, -1 if smallest else 1)


@operates("Clip")
def clip(b: NetworkBuilder, call: Call) -> Result:
    """min(max(x, low), high) with public bounds."""
    ends = [np.asarray(bound, np.float64) for bound in (call.operation.x_min, call.operation.x_max)]
    if any(end.size != 1 for end in ends):
        shapes = " and ".join(str(end.shape) for end in ends)
        raise refuse(call.operation, f"its bounds have shapes {shapes}", "one number for each bound, or ops.maximum and ops.minimum")
    low, high = (float(end.reshape(())) for end in ends)
    if low >= high:
        raise refuse(call.operation, f"its bounds are {low:g} and {high:g}", "the smaller bound first: between them is nothing to compute")
    from_low = plus(b, call.operation, call.values[0], np.array(-low))
    cut = b.add(net.Rectify, call.operation, [from_low], call.shape, maximum=high - low)
    return plus(b, call.operation, cut, np.array(low))


@operates("Absolute", "Abs")
def absolute(b: NetworkBuilder, call: Call) -> Result:
    """x above 0, -x below."""
    return b.add(net.Rectify, call.operation, call.values, call.shape, slope=-1.0)


@operates("Relu", "Relu6", "LeakyRelu", "Threshold")
def rectified(b: NetworkBuilder, call: Call) -> Result:
    """ReLU and its relatives."""
    operation = call.operation
    settings = {"Relu6": {"maximum": 6.0}, "LeakyRelu": {"slope": float(getattr(operation, "negative_slope", 0.0))}}
    name = type(operation).__name__
    if name == "Threshold":
        if operation.default_value != 0:
            raise refuse(operation, f"its value is {operation.default_value}", "value=0")
        return b.add(net.Rectify, operation, call.values, call.shape, threshold=float(operation.threshold))
    return b.add(net.Rectify, operation, call.values, call.shape, **settings.get(name, {}))


NAMES = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Silu": "silu",
    "Softplus": "softplus",
    "Selu": "selu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh",
    "LogSigmoid": "log_sigmoid",
    "SoftShrink": "soft_shrink",
    "Softsign": "softsign",
    "TanhShrink": "tanh_shrink",
    "Squareplus": "squareplus",
    "Exp": "exponential",
    "Erf": "erf",
}


@operates(*NAMES, "Gelu", "Elu", "Celu")
def curved(b: NetworkBuilder, call: Call) -> Result:
    """Apply a function to each element."""
    return b.add(net.Curved, call.operation, call.values, call.shape, curve=_curve(call.operation))


def _curve(operation: Any) -> Curve:
    name = type(operation).__name__
    if name == "Gelu":
        name = "gelu_tanh" if operation.approximate else "gelu"
    elif name in ("Elu", "Celu"):
        name = name.upper()
    found = curve_of(operation, NAMES.get(name, name)) or CURVES.get(NAMES.get(name, name))
    if found is None:
        raise refuse(operation, "its settings are not the usual ones", "the defaults")
    return found


@operates("Log")
def logarithm(b: NetworkBuilder, call: Call) -> Result:
    """log x for x proved to be positive."""
    return b.add(net.Logarithm, call.operation, call.values, call.shape)
