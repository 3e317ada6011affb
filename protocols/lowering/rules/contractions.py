"""Rules of operations that multiply tensors and sum: matrices, letters, attention; see `operations.py` for what a rule is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Real
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import Operand, broadcast, times
from protocols.lowering.rules.operations import Call, Result, operates
from protocols.lowering.rules.truths import masked


@operates("DotProductAttention")
def dot_product_attention(b: NetworkBuilder, call: Call) -> Result:
    """softmax(scale Q K) V for values (steps, heads, depth); several heads of the query may share one of the keys."""
    operation, (query, key, value) = call.operation, call.values[:3]
    mask = call.named.get("mask")
    if call.named.get("bias") is not None or operation.attn_logits_soft_cap is not None:
        raise refuse(operation, "it has a bias or a soft cap", "the same without")
    (steps, heads, depth), (places, groups, width) = b.shape(query), b.shape(value)
    scale = call.named.get("scale")
    factor = np.asarray(1 / math.sqrt(depth) if scale is None else scale)
    of_heads = tuple(np.arange(groups).repeat(heads // groups).tolist())
    key, value = (
        each if groups == heads else b.add(net.Taken, operation, [each], (places, heads, n), axis=1, indices=of_heads)
        for each, n in ((key, depth), (value, width))
    )
    q, v = ordered(b, operation, times(b, operation, query, factor), [1, 0, 2]), ordered(b, operation, value, [1, 0, 2])
    scores = b.add(net.Matrices, operation, [q, ordered(b, operation, key, [1, 2, 0])], (heads, steps, places))
    causal = np.tril(np.ones((steps, places))) if operation.is_causal else None
    scores = masked(b, operation, scores, [(mask, None), (causal, None)])
    chosen = b.add(net.Matrices, operation, [b.add(net.Softmax, operation, [scores], b.shape(scores)), v], (heads, steps, width))
    return ordered(b, operation, chosen, [1, 0, 2])


@operates("Matmul", "Dot")
def matmul(b: NetworkBuilder, call: Call) -> Result:
    """Write the product of two private matrices, or of one with a constant on its right."""
    x, y = call.operands
    if isinstance(x, np.ndarray):
        raise refuse(call.operation, "its left factor is a constant", "the constant on the right")
    if isinstance(y, np.ndarray):
        return _by_constant(b, call, x, y)
    if len(b.shape(x)) < 2 or len(b.shape(y)) < 2 or (type(call.operation).__name__ == "Dot"):
        raise refuse(call.operation, f"its inputs have shapes {b.shape(x)} and {b.shape(y)}", "ops.matmul of matrices")
    outer = np.broadcast_shapes(b.shape(x)[:-2], b.shape(y)[:-2])
    x, y = (broadcast(b, call.operation, each, (*outer, *b.shape(each)[-2:])) for each in (x, y))
    return b.add(net.Matrices, call.operation, [x, y], (*outer, b.shape(x)[-2], b.shape(y)[-1]))


@operates("Einsum")
def einsum(b: NetworkBuilder, call: Call) -> Result:
    """Write sums of products by letters: of two private values, or of one and a constant that has no letter of the batch."""
    operation, subscripts = call.operation, call.operation.subscripts.replace(" ", "")
    terms, _, result = subscripts.partition("->")
    left, _, right = terms.partition(",")
    if len(call.operands) != 2 or not result or any("." in term or len(set(term)) < len(term) for term in (left, right, result)):
        raise refuse(operation, f"its subscripts are {subscripts!r}", "two operands, '->', each letter once in a term, no '...'")
    x, y = call.operands
    if not isinstance(x, int):
        x, y, left, right = y, x, right, left
    assert isinstance(x, int)
    batch = left[0]
    if result[0] != batch or (right[0] != batch if isinstance(y, int) else batch in right):
        raise refuse(operation, f"its subscripts are {subscripts!r}", "the batch first in each private value and in the result")
    return contracted(b, operation, (x, left[1:]), (y, right[1:] if isinstance(y, int) else right), result[1:])


def contracted(b: NetworkBuilder, layer: Any, x: tuple[int, str], y: tuple[Operand, str], result: str) -> int:
    """Write the product of two tensors, summed over the letters that the result does not have, as products of matrices."""
    (first, left), (second, right) = x, y
    shared = [c for c in left if c in right and c in result]
    rows, columns = ([c for c in term if c in result and c not in shared] for term in (left, right))
    summed = [c for c in left if c in right and c not in result]
    if set(left + right) - set(result) - set(summed) or (shared and not isinstance(second, int)):
        raise refuse(layer, f"its subscripts are {left},{right}->{result}", "letters that are in two of the three terms")
    sizes = dict(zip(left, b.shape(first), strict=True))
    sizes |= dict(zip(right, b.shape(second) if isinstance(second, int) else second.shape, strict=True))

    def size(letters: list[str]) -> int:
        return math.prod(sizes[c] for c in letters)

    a = ordered(b, layer, first, [left.index(c) for c in (*shared, *rows, *summed)])
    a = b.add(net.Shaped, layer, [a], (size(shared), size(rows), size(summed)))
    product_shape = (size(shared), size(rows), size(columns))
    if isinstance(second, int):
        z = ordered(b, layer, second, [right.index(c) for c in (*shared, *summed, *columns)])
        z = b.add(net.Shaped, layer, [z], (size(shared), size(summed), size(columns)))
        product = b.add(net.Matrices, layer, [a, z], product_shape)
    else:
        kernel = second.transpose([right.index(c) for c in (*summed, *columns)]).reshape(size(summed), size(columns))
        product = b.add(net.Product, layer, [a], product_shape, kernel=kernel, bias=None)
    letters = [*shared, *rows, *columns]
    product = b.add(net.Shaped, layer, [product], [sizes[c] for c in letters])
    return ordered(b, layer, product, [letters.index(c) for c in result])


def ordered(b: NetworkBuilder, layer: Any, x: int, order: list[int]) -> int:
    """Put axes in another order."""
    if order == sorted(order):
        return x
    return b.add(net.Permuted, layer, [x], [b.shape(x)[i] for i in order], axes=tuple(order))


def _by_constant(b: NetworkBuilder, call: Call, x: int, y: Real) -> int:
    if y.ndim != 2:
        raise refuse(call.operation, f"its right factor has shape {y.shape}", "a constant matrix (inputs, units)")
    return b.add(net.Product, call.operation, [x], call.shape, kernel=y, bias=None)
