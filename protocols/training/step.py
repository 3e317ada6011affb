"""The circuit of one step of stochastic gradient descent for a chain of layers: forward, loss, backward, update.

What a layer computes, and how a gradient goes back through it, is in `layers.py`. The gradient by the logits comes from `losses.py`;
how the gradients by the weights move them is in `training/networks/optimizers.py`. The backward pass compares nothing.

Weights are shares between steps; each step opens kernels under fresh masks, so that no mask is ever used with two values.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import AnyLayer, Positions, Signal, affine
from protocols.training.networks.losses import EXACT, Loss, Told, gradient_scale, loss_gradient
from protocols.training.networks.optimizers import Adam, Gradients, Optimizer, Shapes, changes, update, watched
from protocols.training.networks.window import SUMS, WEIGHTS, Watched, apart, outside, summed, together


class Plan(msgspec.Struct, frozen=True, tag=True):
    """What a network computes and how it learns: all of it is public.

    Attributes:
        layers: from the inputs to the logits; the last one is dense.
        loss: of the logits and one-hot labels, or of outputs and targets.
        optimizer: how gradients move weights.
        value: whether the value of the loss is computed as well.
        weight: how many times the loss counts, above 0.
        threshold: what an output must be above to count as 1, where a binary cross-entropy tells an accuracy.
        sums: how sums of losses over an epoch are told.
    """

    layers: tuple[AnyLayer, ...]
    loss: Loss
    optimizer: Optimizer
    value: bool = False
    weight: float = 1.0
    threshold: float = 0.0
    sums: Told = EXACT

    @property
    def inputs(self) -> int:
        """Features of an example: it is stored flat."""
        return math.prod(self.layers[0].shape)

    @property
    def first(self) -> int:
        """Which layer is the first with weights: nobody needs the gradient by its input."""
        return next(index for index, layer in enumerate(self.layers) if layer.weights)

    @property
    def outputs(self) -> int:
        """Classes, or numbers of a target."""
        return math.prod(self.layers[-1].output)

    @property
    def shapes(self) -> Shapes:
        """The shape of every weight by name, in the order of Keras."""
        return {f"{name}{index}": shape for index, layer in enumerate(self.layers) for name, shape in layer.weights.items()}

    @property
    def states(self) -> Shapes:
        """The shape of what is kept beside the weights, by name; it begins at zero.

        `outside` is a bit, see `window.py`; `sums` are those of the gradients of the step before.
        """
        return {"outside": (1,), **({"sums": (1, SUMS)} if self.closing else {}), **self.optimizer.states(self.shapes)}

    @property
    def closing(self) -> bool:
        """Whether the last step before a report looks at its own gradients, which are otherwise looked at in the step after."""
        return not isinstance(self.optimizer, Adam)

    @property
    def told(self) -> tuple[str, ...]:
        """States that the owner may be told at the end of an epoch: none."""
        return ()

    @property
    def changing(self) -> bool:
        """Whether public factors are others from step to step."""
        return changes(self.optimizer)

    def repeats(self, epoch: int) -> int:
        """How often an epoch goes over the examples."""
        return 1

    def circuit(self, batch: int, number: int = 0, *, last: bool = False) -> Circuit:
        """Return the circuit of a step, see `step`."""
        return step(self, batch, number, last=last)


def step(plan: Plan, batch: int, number: int = 0, *, last: bool = False) -> Circuit:
    """The circuit of a step on `batch` examples; `number` counts steps from 0 and changes nothing but public factors.

    The `last` step before a report looks at its own gradients and velocities, too: that takes 5 rounds more, with momentum 6.

    Given: wire `x` (batch, inputs), wire `y` (batch, outputs), and the shares of the weights by the names of `Plan.shapes`.
    Outputs: the new weights by the same names; `metric`: how many of the batch were right (cross-entropy) or the sum of squared errors
    with 2 `FRACTION` fractional bits (mean squared error) less those that `Plan.sums` loses, from before the update; `loss`: its sum over
    the batch, if the plan asks for it.

    Rounds: 1 to open the kernels; for each dense or convolutional layer with ReLU 4 forward and 2 backward, for a max pooling 2x2 between
    them 6 and 2 more; 1 for the last layer, 22 for softmax over 10 classes, 1 for its gradient; 1 to update, 24 for Adam: 32 for
    one hidden dense layer. Activations must lie within +-512 (and so must the
    differences of logits of a softmax), gradients that Adam squares within +-128, and others, summed over the batch,
    within `reach`; `outside` tells if they did not, of others in the next step, or in the `last`.
    """
    build = Builder()
    values = {name: build(Given(name, shape, "share")) for name, shape in (plan.shapes | plan.states).items()}
    weights = [_opened(build, values, index, layer) for index, layer in enumerate(plan.layers)]
    x = build(Given("x", (batch, plan.inputs), "wire"))
    y = build(Given("y", (batch, plan.outputs), "wire"))
    signal = Signal(build(Reshape(x, (batch, *plan.layers[0].shape))))
    kept: list[Any] = []
    activations: list[Signal] = []
    for layer, mine in zip(plan.layers, weights, strict=True):
        signal, memory = layer.forward(build, mine, signal)
        kept.append(memory)
        activations += [signal] * bool(mine)
    gradient, metric, loss, found = loss_gradient(
        build, plan.loss, affine(build, signal), y, plan.outputs, value=plan.value, threshold=plan.threshold, sums=plan.sums
    )
    back: Signal | None = Signal(gradient)
    gradients: dict[str, tuple[int, int]] = {}
    for index in reversed(range(len(plan.layers))):
        if back is None:
            break
        made, back = plan.layers[index].backward(build, weights[index], kept[index], back, first=index == plan.first)
        gradients |= {f"{name}{index}": (by.at, by.bits) for name, by in made.items()}
    divides = isinstance(plan.optimizer, Adam)  # by the size of gradients, which it squares
    scale = (1.0 if divides else plan.weight) * gradient_scale(plan.loss, plan.outputs) / batch
    new = update(build, plan.optimizer, gradients, values, scale, number)
    squared = [Signal(*gradient) for gradient in gradients.values()] if divides else []
    sums = _sums(build, plan, gradients, values, new, scale, last=last)
    if found is not None:
        sums.append(apart(build, found, plan.outputs))
    new["outside"] = outside(build, values["outside"], activations, sums, gradients=squared, scale=scale)
    told = {"metric": metric, "loss": loss} if plan.value else {"metric": metric}
    return build.circuit({**{name: new[name] for name in plan.shapes | plan.states}, **told})


def _sums(
    build: Builder, plan: Plan, gradients: Gradients, values: Positions, new: Positions, scale: float, *, last: bool
) -> list[Watched]:
    """Sums of weights, and of gradients and velocities of the step before.

    Those of this step become a state; of the `last` they are watched as well, and the state is 0.
    """
    held = [Watched(values[name], 2.0 ** (WEIGHTS + FRACTION)) for name in plan.shapes]
    if isinstance(plan.optimizer, Adam):
        return [summed(build, held)]
    now, velocities = watched(plan.optimizer, gradients, values, scale)
    made = summed(build, now)
    before = Watched(values["sums"], made.edge)
    found = [together(build, [before, summed(build, [*velocities, *held], len(now))])]
    new["sums"] = build(Combine((made.at,), (0 if last else 1,)))
    if last:
        _, velocities = watched(plan.optimizer, gradients, new, scale)
        found.append(together(build, [made, summed(build, velocities, len(now))]) if velocities else made)
    return found


def _opened(build: Builder, values: Positions, index: int, layer: AnyLayer) -> Positions:
    """The weights of a layer by its own names: kernels become wires, biases stay shares."""
    mine = {name: values[f"{name}{index}"] for name in layer.weights}
    return {name: build(Open(value)) if name == "kernel" else value for name, value in mine.items()}
