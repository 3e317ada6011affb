"""The circuit of one step of stochastic gradient descent for a network: forward, loss, backward, update.

What a node computes is in `layers.py`; how a gradient goes back follows from the operations that it has written
(`mpc/engine/gradients.py`).
The gradient by the logits comes from `losses.py`; how the gradients by the weights move them is in `optimizers.py`. The backward pass
compares nothing, but for the derivatives of curves, which are compared beside the curves.

Weights are shares between steps; each step opens kernels under fresh masks, so that no mask is ever used with two values.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import msgspec

from protocols.errors import ModelError
from protocols.mpc.circuit import Circuit
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Given
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.functions import FRACTION, Softmax
from protocols.training.networks.layers import Variable
from protocols.training.networks.losses import EXACT, Loss, Told, gradient_scale, loss_gradient
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.optimizers import Adam, GradientDescent, Gradients, Optimizer, Shapes, changes, update, watched
from protocols.training.networks.window import SUMS, WEIGHTS, Watched, apart, outside, summed, together
from protocols.training.private.clipped import private_gradients
from protocols.training.private.settings import Private, check_apart


class Plan(msgspec.Struct, frozen=True, tag=True):
    """What a network computes and how it learns: all of it is public.

    Attributes:
        layers: the nodes in an order in which they can be computed; the last one gives the logits, or the numbers that are compared.
        example: the shape of what the network takes.
        outputs: classes, or numbers of a target.
        variables: the weights.
        loss: of the logits and one-hot labels, or of outputs and targets.
        optimizer: how gradients move weights.
        value: whether the value of the loss is computed as well.
        weight: how many times the loss counts, above 0.
        threshold: what an output must be above to count as 1, where a binary cross-entropy tells an accuracy.
        sums: how sums of losses over an epoch are told.
        private: how each example is protected; None: not at all.
    """

    layers: tuple[AnyLayer, ...]
    example: tuple[int, ...]
    outputs: int
    variables: tuple[Variable, ...]
    loss: Loss
    optimizer: Optimizer
    value: bool = False
    weight: float = 1.0
    threshold: float = 0.0
    sums: Told = EXACT
    private: Private | None = None

    def __post_init__(self) -> None:
        """Refuse what is no network, before anything is made of it.

        Raises:
            ModelError: nodes read what comes later, names are double, sizes are none, or nothing is trained.
        """
        if not self.layers or any(not node.inputs or not all(0 <= x <= at for x in node.inputs) for at, node in enumerate(self.layers)):
            raise ModelError("a network is at least one node, and each reads the input or nodes before it")
        if len({variable.name for variable in self.variables}) < len(self.variables) or not any(one.trained for one in self.variables):
            raise ModelError("the weights of a network have names of their own, and one of them is trained at least")
        shapes = [self.example, (self.outputs,), *(variable.shape for variable in self.variables)]
        if not all(shape and min(shape) > 0 for shape in shapes):
            raise ModelError(f"values of shapes {[shape for shape in shapes if min(shape, default=0) < 1]} are not possible")
        if self.private is not None:
            check_apart(self.layers, self.loss)

    @property
    def inputs(self) -> int:
        """Features of an example: it is stored flat."""
        return math.prod(self.example)

    @property
    def shapes(self) -> Shapes:
        """The shape of every weight by name."""
        return {variable.name: variable.shape for variable in self.variables}

    @property
    def trained(self) -> Shapes:
        """The shape of every weight that is trained."""
        return {variable.name: variable.shape for variable in self.variables if variable.trained}

    @property
    def states(self) -> Shapes:
        """The shape of what is kept beside the weights, by name; it begins at zero.

        `outside` is a bit, see `window.py`; `sums` are those of the gradients of the step before.
        """
        return {"outside": (1,), **({"sums": (1, SUMS)} if self.closing else {}), **self.optimizer.states(self.trained)}

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
    one hidden dense layer. Activations must lie within +-512, and so must the differences of logits of a softmax; gradients that Adam
    squares within +-128, and others, summed over the batch, within `reach`; `outside` tells if they did not, of others in the next step,
    or in the `last`.
    """
    network = _network(msgspec.structs.replace(plan, optimizer=GradientDescent(1.0), weight=1.0), batch)
    draft, gradients = network.draft.copy(), network.gradients
    values = network.values | {name: draft(Given(name, shape, "share")) for name, shape in plan.states.items()}
    divides = isinstance(plan.optimizer, Adam)  # by the size of gradients, which it squares
    count = batch if plan.private is None else plan.private.batch
    scale = (1.0 if divides else plan.weight) * gradient_scale(plan.loss, plan.outputs) / count
    new = values | update(draft, plan.optimizer, gradients, values, scale, number)
    squared = [Signal(*gradient) for gradient in gradients.values()] if divides else []
    sums = _sums(draft, plan, gradients, values, new, scale, last=last)
    if network.softmax is not None:
        sums.append(apart(draft, network.softmax, plan.outputs))
    new["outside"] = outside(draft, values["outside"], network.large, sums, gradients=squared, scale=scale)
    return draft.circuit({**{name: new[name] for name in plan.shapes | plan.states}, **network.told})


class _Network(NamedTuple):
    """A network forward and back, without what moves its weights.

    Attributes:
        draft: where it is written; whoever goes on copies it.
        values: the positions of the weights, by name.
        gradients: by weights that are trained, summed over the batch: positions and fractional bits.
        large: what has to be watched.
        told: the positions of the metric, and of the loss if it is computed.
        softmax: what belongs to a cross-entropy; None for other losses.
    """

    draft: StepDraft
    values: dict[str, int]
    gradients: Gradients
    large: list[Signal]
    told: dict[str, int]
    softmax: Softmax | None


@lru_cache(maxsize=8)  # a step with other public factors computes the same
def _network(plan: Plan, batch: int) -> _Network:
    draft = StepDraft()
    values = {name: draft.put(Given(name, shape, "share")) for name, shape in plan.shapes.items()}
    x = draft.put(Given("x", (batch, plan.inputs), "wire"))
    y = draft(Given("y", (batch, plan.outputs), "wire"))
    made, large = [draft.put(Reshape(x, (batch, *plan.example)))], []
    for place, node in enumerate(plan.layers):
        try:
            made.append(node.write(draft, values, [made[at] for at in node.inputs]))
        except (KeyError, IndexError, ValueError, ArithmeticError) as error:
            raise ModelError(f"node {place} of the network ({type(node).__name__}) cannot be written: {error}") from None
        if node.grows:
            large.append(Signal(made[-1], draft.bits(made[-1])))
    z = draft.affine(made[-1])
    if draft.value(z).shape != (batch, plan.outputs):
        raise ModelError(f"the network gives values of shape {draft.value(z).shape[1:]}, and {plan.outputs} numbers are compared")
    gradient, metric, loss, softmax = loss_gradient(
        draft, plan.loss, z, y, plan.outputs, value=plan.value, threshold=plan.threshold, sums=plan.sums
    )
    draft.say(gradient, FRACTION)
    if plan.private is None:
        found = draft.gradients({z: gradient}, [values[name] for name in plan.trained])
        gradients = {name: (found[values[name]], draft.bits(found[values[name]])) for name in plan.trained if values[name] in found}
    else:
        gradients = private_gradients(draft, plan.private, {z: gradient}, {name: values[name] for name in plan.trained}, batch)
        large, softmax = [], None  # that they have left their window is told, and nothing about examples may be without noise
    missing = [name for name in plan.trained if name not in gradients]
    if missing:
        raise ModelError(f"the weights {missing} do not move the outputs: leave them out, or do not train them")
    return _Network(draft, values, gradients, large, {"metric": metric} | ({"loss": loss} if plan.value else {}), softmax)


def _sums(
    draft: StepDraft, plan: Plan, gradients: Gradients, values: dict[str, int], new: dict[str, int], scale: float, *, last: bool
) -> list[Watched]:
    """Sums of weights, and of gradients and velocities of the step before.

    Those of this step become a state; of the `last` they are watched as well, and the state is 0.
    """
    held = [Watched(values[name], 2.0 ** (WEIGHTS + FRACTION)) for name in plan.trained]
    if isinstance(plan.optimizer, Adam):
        return [summed(draft, held)]
    now, velocities = watched(plan.optimizer, gradients, values, scale)
    if plan.private is not None:  # its sums are bounded by what they are made of, and noise in all of them would add up here
        new["sums"] = values["sums"]
        return [summed(draft, [*velocities, *held, *(watched(plan.optimizer, gradients, new, scale)[1] if last else [])])]
    made = summed(draft, now)
    before = Watched(values["sums"], made.edge)
    found = [together(draft, [before, summed(draft, [*velocities, *held], len(now))])]
    new["sums"] = draft(Combine((made.at,), (0 if last else 1,)))
    if last:
        _, velocities = watched(plan.optimizer, gradients, new, scale)
        found.append(together(draft, [made, summed(draft, velocities, len(now))]) if velocities else made)
    return found
