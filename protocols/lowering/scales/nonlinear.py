"""Which function writes which node that needs more than one comparison for an element."""

from __future__ import annotations

from functools import reduce

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.network import Node
from protocols.lowering.scales.elementwise import curve, logarithm, reciprocal, reciprocal_root, scaled
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.functions import masked, normalised, one_hot, softmax, top_k, truth
from protocols.lowering.scales.maxima import largest_of, pooled
from protocols.lowering.scales.products import matrix_product, product
from protocols.lowering.scales.values import RangedValue


def written(w: Writer, node: Node, inputs: list[RangedValue]) -> RangedValue:
    """Write the value of a node."""
    match node:
        case net.Scaled():
            return scaled(w, node, inputs[0])
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
