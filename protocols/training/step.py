"""The circuit of one step of stochastic gradient descent for a network of dense layers: forward, loss, backward, update.

For a layer Z = H W + b, H' = ReLU(Z) = D Z, and the gradient G of the loss by Z:

    dW = H^T G,   db = sum over the batch of G,   the gradient by H is G W^T, and by the Z below it is D (G W^T)

with the D of the forward pass: the backward pass compares nothing. G of the last layer is softmax(Z) - Y (cross-entropy) or Z - Y (mean
squared error, whose factor 2 / outputs is folded into the learning rate). The update is W <- W - (rate / B) dW, or with momentum, as in
Keras, V <- momentum V - (rate / B) dW, W <- W + V. It is rounded at random without bias (Gupta et al., 2015, arXiv:1502.02551), so that
updates smaller than the last digit count on average.

Weights are shares between steps; each step opens them under fresh masks, so that no mask is ever used with two values.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from protocols.errors import ModelError
from protocols.training.circuit import Builder, Circuit, Combine, Given, MatMul, Multiply, Open, Sign, Sum, Truncate
from protocols.training.functions import FRACTION, WINDOW, softmax

Loss = Literal["crossentropy", "mse"]

RATE_BITS = 8
"""Significant bits of the learning rate: it is rounded by at most 0.2 %."""


class DenseLayer(msgspec.Struct, frozen=True):
    """Z = H W (+ b), W (inputs, units), then ReLU or nothing."""

    inputs: int
    units: int
    bias: bool
    relu: bool


class Plan(msgspec.Struct, frozen=True):
    """What a network computes and how it learns: all of it is public.

    Attributes:
        layers: from the inputs to the logits.
        loss: of the logits and one-hot labels, or of outputs and targets.
        rate: the learning rate of gradient descent, above 0.
        momentum: of each velocity in the next, from 0 up to 1; without it there are no velocities.
    """

    layers: tuple[DenseLayer, ...]
    loss: Loss
    rate: float
    momentum: float = 0.0

    @property
    def inputs(self) -> int:
        """Features of an example."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Classes, or numbers of a target."""
        return self.layers[-1].units

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by name, in the order of Keras."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, layer in enumerate(self.layers):
            shapes[f"kernel{index}"] = (layer.inputs, layer.units)
            if layer.bias:
                shapes[f"bias{index}"] = (layer.units,)
        return shapes

    @property
    def velocities(self) -> dict[str, tuple[int, ...]]:
        """The shape of every velocity by name; they begin at zero."""
        return {f"velocity of {name}": shape for name, shape in self.shapes.items()} if self.momentum else {}


def factor(plan: Plan, batch: int) -> tuple[int, int]:
    """rate / batch as q 2^-s with q below 2^RATE_BITS; the factor 2 / outputs of the mean squared error included.

    Raises:
        ModelError: a gradient of 1 would move a weight by less than half of its last digit, or by more than the ring can hold.
    """
    rate = plan.rate * (2 / plan.outputs if plan.loss == "mse" else 1)
    if not (rate > 0 and math.isfinite(rate)) or rate < 2.0 ** -(FRACTION + 1):
        raise ModelError(
            f"the learning rate {plan.rate:g} vanishes in fixed point: a gradient of 1 would move a weight by less than half of its"
            f" last digit, 2^-{FRACTION}; use at least {2.0**-FRACTION * plan.rate / rate if rate > 0 else 2.0**-FRACTION:.1e}"
        )
    shift = RATE_BITS - 1 - math.floor(math.log2(rate / batch))
    if shift < 1 - FRACTION or rate > 64:
        raise ModelError(f"the learning rate {plan.rate:g} is too large for fixed point: at most 64 is possible")
    return round(rate / batch * 2.0**shift), shift


def step(plan: Plan, batch: int) -> Circuit:
    """The circuit of a step on `batch` examples.

    Given: wire `x` (batch, inputs), wire `y` (batch, outputs), and the shares of the weights by the names of `Plan.shapes`.
    Outputs: the new weights by the same names; `metric`: how many of the batch were right (cross-entropy) or the sum of squared errors
    with 2 `FRACTION` fractional bits (mean squared error), from before the update.

    Rounds: 1 to open the weights; 4 for each hidden layer forward and 2 backward; 1 for the last layer, 22 for softmax over 10 classes, 1
    for its gradient; 1 to update: 32 for one hidden layer. Activations are not checked: they must lie within +-512.
    """
    build = Builder()
    values = {name: build(Given(name, shape, "share")) for name, shape in (plan.shapes | plan.velocities).items()}
    kernels = [build(Open(values[f"kernel{index}"])) for index in range(len(plan.layers))]
    hidden, signs = [build(Given("x", (batch, plan.inputs), "wire"))], []
    y = build(Given("y", (batch, plan.outputs), "wire"))
    z = -1
    for index, layer in enumerate(plan.layers):
        z = _linear(build, hidden[-1], kernels[index], values.get(f"bias{index}"))
        if layer.relu:
            sign = build(Sign(z))
            signs.append(sign)
            hidden.append(build(Open(build(Multiply(sign, z)))))
        elif index < len(plan.layers) - 1:
            signs.append(-1)
            hidden.append(build(Open(z)))
    gradient, metric = _loss(build, plan, z, y)
    q, shift = factor(plan, batch)
    new: dict[str, int] = {}
    for index in reversed(range(len(plan.layers))):
        slopes = {f"kernel{index}": (build(MatMul(hidden[index], gradient, transpose_x=True)), shift + FRACTION)}
        if plan.layers[index].bias:
            slopes[f"bias{index}"] = build(Sum(gradient, 0, keep=False)), shift
        for name, (slope, drop) in slopes.items():
            velocity = values.get(f"velocity of {name}")
            change = _change(build, slope, velocity, plan.momentum, q=q, drop=drop)
            new[name] = build(Combine((values[name], change), (1, 1)))
            if velocity is not None:
                new[f"velocity of {name}"] = change
        if index:
            below = build(Truncate(build(MatMul(gradient, kernels[index], transpose_y=True)), FRACTION, 63 - FRACTION))
            sign = signs[index - 1]
            gradient = build(Open(below if sign < 0 else build(Multiply(sign, below))))
    return build.circuit({**{name: new[name] for name in plan.shapes | plan.velocities}, "metric": metric})


def _linear(build: Builder, x: int, kernel: int, bias: int | None) -> int:
    z = build(MatMul(x, kernel))
    if bias is not None:
        z = build(Combine((z, bias), (1, 1 << FRACTION)))
    return build(Truncate(z, FRACTION, WINDOW))


def _loss(build: Builder, plan: Plan, z: int, y: int) -> tuple[int, int]:
    """The gradient by the outputs, a wire, and the metric."""
    if plan.loss == "mse":
        gradient = build(Open(build(Combine((z, y), (1, -1)))))
        return gradient, build(Sum(build(Multiply(gradient, gradient))))
    probabilities, largest = softmax(build, z, plan.outputs)
    gradient = build(Open(build(Combine((probabilities, y), (1, -1)))))
    return gradient, build(Sum(build(Multiply(largest, y))))


def _change(build: Builder, slope: int, velocity: int | None, momentum: float, *, q: int, drop: int) -> int:
    """momentum * velocity - slope q 2^-drop, in one truncation. Rounds: 1. A `drop` below RATE_BITS is made larger, and q with it."""
    if drop < RATE_BITS:
        q, drop = q << (RATE_BITS - drop), RATE_BITS
    total = Combine((slope,), (-q,))
    if velocity is not None:
        total = Combine((slope, velocity), (-q, round(momentum * 2**drop)))
    return build(Truncate(build(total), drop, 63 - drop))
