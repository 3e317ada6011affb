"""What a network is trained for: the gradient of a loss by the outputs of the network, and the metric that belongs to it."""

from __future__ import annotations

from typing import Literal

from protocols.training.circuit import Builder, Combine, Multiply, Open, Sum
from protocols.training.functions import softmax

Loss = Literal["crossentropy", "mse"]


def gradient_scale(loss: Loss, outputs: int) -> float:
    """The gradient of the loss is this times what `gradient` gives: Keras' mean squared error is a mean over outputs as well."""
    return 2 / outputs if loss == "mse" else 1.0


def gradient(build: Builder, loss: Loss, z: int, y: int, outputs: int) -> tuple[int, int]:
    """The gradient by the outputs `z` (batch, outputs) for the targets `y`, a wire, and the metric.

    Cross-entropy of softmax(z): softmax(z) - y, and how many rows have their largest output where y has its 1. Mean squared error:
    z - y, and the sum of squares, with 2 `FRACTION` fractional bits.
    """
    if loss == "mse":
        wire = build(Open(build(Combine((z, y), (1, -1)))))
        return wire, build(Sum(build(Multiply(wire, wire))))
    probabilities, largest = softmax(build, z, outputs)
    wire = build(Open(build(Combine((probabilities, y), (1, -1)))))
    return wire, build(Sum(build(Multiply(largest, y))))
