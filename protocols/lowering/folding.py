"""Folds what is linear into the linear layer before it, in the clear: each fold saves rounds, bytes and multiplications.

- Batch normalisation after a linear layer: W' = W s, b' = b s + t.
- Batch normalisation before a matrix product, or a convolution without zeros around: W' = s W, b' = b + t W.
- Scales and shifts of channels one after the other: s = s1 s2, t = t1 s2 + t2.
- An average pool of k x k after a convolution: the kernel convolved with a box and divided by k^2, strides multiplied; where that is not
  more work.
- The largest of a window before a rectifier, not after it.
- Zeros around a convolution's input: its padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import AveragePool, ChannelAffine, Convolution, MaxPool, Node, Padded, Product, Real, Rectify

Join = Callable[[Node, Node], Node | None]
"""One node that does what two do, the first of which nothing else reads; None if there is none."""


def fold(nodes: list[Node], join: Join | None = None) -> list[Node]:
    """Return the same network with fewer nodes; the last is still the output. Which ones are joined may be said, see `padded`."""
    nodes = _pooled_first(nodes)
    uses = Counter(x for node in nodes for x in node.inputs)
    folded: list[Node] = []
    moved: dict[int, int] = {}
    alone: dict[int, bool] = {}
    for position, node in enumerate(nodes):
        inputs = tuple(moved[x] for x in node.inputs)
        node = replace(node, inputs=inputs)
        together = (join or _joined)(folded[inputs[0]], node) if len(inputs) == 1 and alone[inputs[0]] else None
        if together is None:
            folded.append(node)
            moved[position] = len(folded) - 1
        else:
            folded[inputs[0]] = together
            moved[position] = inputs[0]
        alone[moved[position]] = uses[position] == 1
    return folded


def _pooled_first(nodes: list[Node]) -> list[Node]:
    """Swap a rising function and the largest of a window: fewer elements are compared with 0."""
    uses = Counter(x for node in nodes for x in node.inputs)
    swapped = list(nodes)
    for position, node in enumerate(nodes):
        before = swapped[node.inputs[0]] if node.inputs else node
        rising = isinstance(before, Rectify) and before.slope >= 0 and before.threshold >= 0
        if isinstance(node, MaxPool) and rising and uses[node.inputs[0]] == 1:
            swapped[node.inputs[0]] = replace(node, inputs=before.inputs)
            swapped[position] = replace(before, inputs=node.inputs, shape=node.shape)
    return swapped


def _joined(before: Node, node: Node) -> Node | None:
    """One node that does both, or None. `before` is used by `node` only."""
    match before, node:
        case Convolution() | Product(), ChannelAffine():
            return _scaled(before, node)
        case ChannelAffine(), ChannelAffine():
            kind = f"{before.kind} + {node.kind}"
            scale, shift = before.scale * node.scale, before.shift * node.scale + node.shift
            return replace(node, kind=kind, inputs=before.inputs, scale=scale, shift=shift)
        case ChannelAffine(), Product():
            return _scaled_before(before, node, axes=0)
        case ChannelAffine(), Convolution(padding=net.NO_PADDING, groups=1):
            return _scaled_before(before, node, axes=(0, 1, 2))
        case Convolution(), AveragePool():
            return _pooled(before, node)
        case _:
            return padded(before, node)


def padded(before: Node, node: Node) -> Node | None:
    """Zeros around a convolution's input as its padding: weights stay as they are."""
    if not isinstance(before, Padded) or not isinstance(node, Convolution):
        return None
    (top, bottom), (left, right) = (
        tuple(a + b for a, b in zip(*pairs, strict=True)) for pairs in zip(before.padding, node.padding, strict=True)
    )
    return replace(node, inputs=before.inputs, padding=((top, bottom), (left, right)))


def _scaled(before: Convolution | Product, node: ChannelAffine) -> Node:
    bias = node.shift if before.bias is None else before.bias * node.scale + node.shift
    return replace(before, kind=f"{before.kind} + {node.kind}", kernel=before.kernel * node.scale, bias=bias)


def _scaled_before(before: ChannelAffine, node: Convolution | Product, *, axes: int | tuple[int, ...]) -> Node:
    shifted: Real = (before.shift[:, None] * node.kernel).sum(axes)
    bias = shifted if node.bias is None else node.bias + shifted
    kind = f"{before.kind} + {node.kind}"
    return replace(node, kind=kind, inputs=before.inputs, kernel=before.scale[:, None] * node.kernel, bias=bias)


def _pooled(before: Convolution, node: AveragePool) -> Node | None:
    if node.padding != net.NO_PADDING or before.dilation != (1, 1):
        return None
    kernel = _boxed(before.kernel, node, before.strides)
    strides = (before.strides[0] * node.strides[0], before.strides[1] * node.strides[1])
    both = replace(before, kind=f"{before.kind} + {node.kind}", shape=node.shape, kernel=kernel, strides=strides)
    return both if both.multiplications <= before.multiplications else None


def _boxed(kernel: Real, pool: AveragePool, strides: tuple[int, int]) -> Real:
    """sum over the pool's window of the kernel moved by the convolution's stride, divided by the size of the window."""
    (kh, kw), (ph, pw) = kernel.shape[:2], pool.size
    out = np.zeros((kh + (ph - 1) * strides[0], kw + (pw - 1) * strides[1], *kernel.shape[2:]))
    for i in range(ph):
        for j in range(pw):
            out[i * strides[0] : i * strides[0] + kh, j * strides[1] : j * strides[1] + kw] += kernel
    return out / (ph * pw)
