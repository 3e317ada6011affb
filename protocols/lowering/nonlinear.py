"""Which function writes which node that needs more than one comparison for an element."""

from __future__ import annotations

from functools import reduce

from protocols.lowering import network as net
from protocols.lowering.elementwise import curve, logarithm, reciprocal, reciprocal_root
from protocols.lowering.emission import Value, Writer
from protocols.lowering.functions import masked, normalised, one_hot, softmax, top_k, truth
from protocols.lowering.maxima import largest_of, pooled
from protocols.lowering.network import Node
from protocols.lowering.products import matrix_product, product


def written(w: Writer, node: Node, inputs: list[Value]) -> Value:
    """The value of a node."""
    match node:
        case net.MaxPool():
            return pooled(w, node, inputs[0])
        case net.Largest():
            return largest_of(w, node, inputs)
        case net.Curved():
            return curve(w, node, inputs[0], node.curve.spline, steep=node.curve.steep)
        case net.Softmax():
            return softmax(w, node, inputs[0], log=node.log)
        case net.OneHot():
            return one_hot(w, node, inputs[0], node.shape[-1])
        case net.Normalised():
            return normalised(w, node, inputs[0], node.epsilon, centred=node.centred)
        case net.Truth():
            return truth(w, node, inputs[0], equal=node.equal)
        case net.Inverse():
            return (reciprocal_root if node.root else reciprocal)(w, node, inputs[0])
        case net.Logarithm():
            return logarithm(w, node, inputs[0])
        case net.TopK():
            return top_k(w, node, inputs[0], node.shape[0])
        case net.Masked():
            return masked(w, node, node.keep, *inputs)
        case net.Multiplied():
            return reduce(lambda x, y: product(w, node, x, y), inputs)
        case net.Matrices():
            return matrix_product(w, node, inputs[0], inputs[1])
        case _:
            raise TypeError(f"unknown node {type(node).__name__}")
