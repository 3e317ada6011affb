"""The circuit of one step of stochastic gradient descent for a network of dense layers: forward, loss, backward, update.

For a layer Z = H W + b, H' = ReLU(Z) = D Z, and the gradient G of the loss by Z:

    dW = H^T G,   db = sum over the batch of G,   the gradient by H is G W^T, and by the Z below it is D (G W^T)

with the D of the forward pass: the backward pass compares nothing. G of the last layer comes from `losses.py`; how dW and db move W and b
is in `optimizers.py`.

Weights are shares between steps; each step opens them under fresh masks, so that no mask is ever used with two values.
"""

from __future__ import annotations

import msgspec

from protocols.training.circuit import Builder, Circuit, Combine, Given, MatMul, Multiply, Open, Sign, Sum, Truncate
from protocols.training.functions import FRACTION, WINDOW
from protocols.training.losses import Loss, gradient, gradient_scale
from protocols.training.optimizers import Optimizer, Shapes, update
from protocols.training.window import outside


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
        optimizer: how gradients move weights.
        value: whether the value of the loss is computed as well.
    """

    layers: tuple[DenseLayer, ...]
    loss: Loss
    optimizer: Optimizer
    value: bool = False

    @property
    def inputs(self) -> int:
        """Features of an example."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Classes, or numbers of a target."""
        return self.layers[-1].units

    @property
    def shapes(self) -> Shapes:
        """The shape of every weight by name, in the order of Keras."""
        shapes: Shapes = {}
        for index, layer in enumerate(self.layers):
            shapes[f"kernel{index}"] = (layer.inputs, layer.units)
            if layer.bias:
                shapes[f"bias{index}"] = (layer.units,)
        return shapes

    @property
    def states(self) -> Shapes:
        """The shape of what is kept beside the weights, by name; it begins at zero. `outside` is a bit, see `window.py`."""
        return {"outside": (1,), **self.optimizer.states(self.shapes)}


def step(plan: Plan, batch: int, number: int = 0) -> Circuit:
    """The circuit of a step on `batch` examples; `number` counts steps from 0 and changes nothing but public factors.

    Given: wire `x` (batch, inputs), wire `y` (batch, outputs), and the shares of the weights by the names of `Plan.shapes`.
    Outputs: the new weights by the same names; `metric`: how many of the batch were right (cross-entropy) or the sum of squared errors
    with 2 `FRACTION` fractional bits (mean squared error), from before the update; `loss`: its sum over the batch, if the plan asks for it.

    Rounds: 1 to open the weights; 4 for each hidden layer forward and 2 backward; 1 for the last layer, 22 for softmax over 10 classes, 1
    for its gradient; 1 to update, 25 for Adam; 4 for the check: 36 for one hidden layer. Activations must lie within +-512; `outside`
    tells if they did not.
    """
    build = Builder()
    values = {name: build(Given(name, shape, "share")) for name, shape in (plan.shapes | plan.states).items()}
    kernels = [build(Open(values[f"kernel{index}"])) for index in range(len(plan.layers))]
    hidden, signs = [build(Given("x", (batch, plan.inputs), "wire"))], []
    y = build(Given("y", (batch, plan.outputs), "wire"))
    z, activations = -1, []
    for index, layer in enumerate(plan.layers):
        z = _linear(build, hidden[-1], kernels[index], values.get(f"bias{index}"))
        activations.append(z)
        if layer.relu:
            sign = build(Sign(z))
            signs.append(sign)
            hidden.append(build(Open(build(Multiply(sign, z)))))
        elif index < len(plan.layers) - 1:
            signs.append(-1)
            hidden.append(build(Open(z)))
    slope, metric, loss = gradient(build, plan.loss, z, y, plan.outputs, value=plan.value)
    slopes: dict[str, tuple[int, int]] = {}
    for index in reversed(range(len(plan.layers))):
        slopes[f"kernel{index}"] = build(MatMul(hidden[index], slope, transpose_x=True)), 2 * FRACTION
        if plan.layers[index].bias:
            slopes[f"bias{index}"] = build(Sum(slope, 0, keep=False)), FRACTION
        if index:
            below = build(Truncate(build(MatMul(slope, kernels[index], transpose_y=True)), FRACTION, 63 - FRACTION))
            sign = signs[index - 1]
            slope = build(Open(below if sign < 0 else build(Multiply(sign, below))))
    new = update(build, plan.optimizer, slopes, values, gradient_scale(plan.loss, plan.outputs) / batch, number)
    new["outside"] = outside(build, values["outside"], activations, [values[name] for name in plan.shapes])
    told = {"metric": metric, "loss": loss} if plan.value else {"metric": metric}
    return build.circuit({**{name: new[name] for name in plan.shapes | plan.states}, **told})


def _linear(build: Builder, x: int, kernel: int, bias: int | None) -> int:
    z = build(MatMul(x, kernel))
    if bias is not None:
        z = build(Combine((z, bias), (1, 1 << FRACTION)))
    return build(Truncate(z, FRACTION, WINDOW))
