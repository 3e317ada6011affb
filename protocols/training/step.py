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
from typing import Any, NamedTuple

import msgspec

from protocols.errors import ModelError
from protocols.mpc.circuit import Circuit
from protocols.mpc.operations.moves import Concatenate, Reshape
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Given
from protocols.mpc.parties.exchange import Ring
from protocols.training.networks.activity import PenalisedLayer, penalties_told, penalty_gradients
from protocols.training.networks.draft import Signal, StepDraft
from protocols.training.networks.ended import Ended, array_name, ended, jointly_ended, weights_of
from protocols.training.networks.functions import SoftmaxValues
from protocols.training.networks.layers import Variable
from protocols.training.networks.losses import AS_GIVEN, EXACT, AnyLoss, JointLoss, Labels, Told, compared, gradient_scale, loss_gradient
from protocols.training.networks.micro_batches import MicroBatch, gathered, handed
from protocols.training.networks.moments import GRADIENT, MEAN
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.optimizers import (
    Adaptive,
    Constraint,
    GradientDescent,
    Gradients,
    Optimizer,
    Penalty,
    Shapes,
    changes,
    exact,
    norms_of,
    penalised,
    pieces,
    prepared,
    update,
    watched_sums,
)
from protocols.training.networks.step_plan import StepPlan
from protocols.training.networks.window import SUMS, Watched, apart, outside
from protocols.training.private.clipped import clipped_gradients, noisy
from protocols.training.private.settings import Private, check_apart, check_plain, check_values

LARGEST_WEIGHT = 512.0
"""Of a class, or of an example."""


class Plan(StepPlan, frozen=True):
    """What a network computes and how it learns: all of it is public.

    Attributes:
        layers: the nodes in an order in which they can be computed; the last one gives the logits, or the numbers that are compared.
        example: the shape of what the network takes.
        outputs: classes, or numbers of a target; of several outputs all of them.
        variables: the weights.
        loss: of the logits and one-hot labels, or of outputs and targets; of several outputs all of theirs.
        optimizer: how gradients move weights.
        value: whether the value of the loss is computed as well.
        weight: how many times the loss counts, above 0.
        threshold: what an output must be above to count as 1, where a binary cross-entropy tells an accuracy.
        sums: how sums of losses over an epoch are told.
        penalties: on weights, beside the loss.
        constraints: where weights are put after each update.
        labels: what a cross-entropy makes of targets.
        summed: whether the losses of a batch are summed, and not their mean is taken.
        weighted: whether examples have weights of their own, by which their losses are multiplied.
        classes: by which losses are multiplied, for each class of the targets; none: by 1. A binary cross-entropy has two.
        private: how each example is protected; None: not at all.
        parts: how many features each of several inputs has, which lie side by side in what the network takes; none of one input.
    """

    layers: tuple[AnyLayer, ...]
    example: tuple[int, ...]
    outputs: int
    variables: tuple[Variable, ...]
    loss: AnyLoss
    optimizer: Optimizer
    value: bool = False
    weight: float = 1.0
    threshold: float = 0.0
    sums: Told = EXACT
    penalties: tuple[Penalty, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    labels: Labels = AS_GIVEN
    summed: bool = False
    weighted: bool = False
    classes: tuple[float, ...] = ()
    private: Private | None = None
    parts: tuple[int, ...] = ()

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
        if self.parts and (sum(self.parts) != self.inputs or min(self.parts) < 1):
            raise ModelError(f"inputs of {self.parts} features do not make an example of shape {self.example}")
        if isinstance(self.loss, JointLoss) and sum(head.outputs for head in self.loss.heads) != self.outputs:
            raise ModelError(f"outputs of {[head.outputs for head in self.loss.heads]} numbers do not make {self.outputs}")
        stay = {variable.name for variable in self.variables if not variable.trained}
        if not stay.issuperset(name for layer in self.layers for name in layer.moves):
            raise ModelError("statistics that follow what a step sees are kept beside the weights that are trained")
        of_classes = self.loss in ("crossentropy", "binary_crossentropy") and not self.weighted
        if self.classes and (not of_classes or len(self.classes) != max(self.outputs, 2)):
            raise ModelError(f"{len(self.classes)} weights of classes were given for {self.outputs} outputs: one for each class is needed")
        if not all(0 <= weight < LARGEST_WEIGHT for weight in self.classes):
            raise ModelError(f"weights of classes lie between 0 and {LARGEST_WEIGHT:g}")
        if self.private is not None:
            beside = {"regularizers": self.penalties, "constraints": self.constraints, "reduction='sum'": self.summed}
            beside |= {"an activity_regularizer": self.activities}
            check_plain(self.optimizer, beside | {"sample_weight": self.weighted, "class_weight": self.classes})
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
        return not isinstance(self.optimizer, Adaptive)

    @property
    def activities(self) -> tuple[PenalisedLayer, ...]:
        """The penalties on activations."""
        return tuple(node for node in self.layers if isinstance(node, PenalisedLayer))

    @property
    def penalised(self) -> bool:
        """Whether anything is added to the loss."""
        return bool(self.penalties or self.activities)

    @property
    def exact(self) -> bool:
        """Whether gradients are needed as they are, and are looked at in their own step."""
        return self.optimizer.exact or bool(self.penalties)

    @property
    def scale(self) -> float:
        """How often gradients count, of a loss that counts `weight` times: some optimizers do not ask how large they are."""
        free = isinstance(self.optimizer, Adaptive) and self.optimizer.scaleless and self.optimizer.clip is None and not self.penalised
        return 1.0 if free else self.weight

    def rate(self, batch: int) -> float:
        """Return how many times gradients count that are summed over a batch, as `loss_gradient` gives them."""
        count = (1 if self.summed else batch) if self.private is None else self.private.batch
        return self.scale * gradient_scale(self.loss, self.outputs) / count

    def finished(self, shares: dict[str, Ring]) -> dict[str, Ring]:
        """Return shares of weights and states as they are after a whole training: averages, if any are kept, take the weights' places."""
        if self.optimizer.average is None:
            return shares
        return shares | {name: shares[f"average of {name}"] for name in self.trained}

    @property
    def changing(self) -> bool:
        """Whether public factors are others from step to step."""
        return changes(self.optimizer)

    @property
    def mixes(self) -> str:
        """Batch statistics are of a whole batch; all other nodes treat each example by itself, and so do losses."""
        found = [f"node {place} of the network ({type(node).__name__})" for place, node in enumerate(self.layers) if node.moves]
        return next(iter(found), "")

    def circuit(self, batch: int, number: int = 0, *, last: bool = False) -> Circuit:
        """Return the circuit of a step, see `step`."""
        return step(self, batch, number, last=last)

    def part(self, micro: MicroBatch, number: int = 0) -> Circuit:
        """Return that of a micro-batch."""
        return step(self, micro.batch, number, last=micro.last, rows=micro.rows, ends=micro.ends)


def step(plan: Plan, batch: int, number: int = 0, *, last: bool = False, rows: int | None = None, ends: bool = True) -> Circuit:
    """Return the circuit of a step on `batch` examples; `number` counts steps from 0 and changes nothing but public factors.

    With fewer `rows` it is that of a micro-batch, some examples of the step. What it is given and gives in addition are the sums of
    gradients so far, see `networks/micro_batches.py`; the one that `ends` the step adds its own, and moves weights as the whole batch
    does. Others give these, metric, loss and `outside`, and take the rounds of a step but for those of its update. Means divide by `batch`.

    The `last` step before a report looks at its own gradients and velocities, too: that takes 5 rounds more, with momentum 6.

    Given: wire `x` (batch, inputs), wire `y` (batch, outputs), wire `w` (batch, 1) if examples have weights, and the shares of the weights
    by the names of `Plan.shapes`.
    Outputs: the new weights by the same names; `metric`: how many of the batch were right (cross-entropy) or the sum of squared errors
    with 2 `FRACTION` fractional bits (mean squared error) less those that `Plan.sums` loses, from before the update; `loss`: its sum over
    the batch, if the plan asks for it.

    Rounds: 1 to open the kernels; for each dense or convolutional layer with ReLU 4 forward and 2 backward, for a max pooling 2x2 between
    them 6 and 2 more; 1 for the last layer, 18 for softmax over 10 classes, 1 for its gradient; 1 to update, 24 for Adam: 28 for
    one hidden dense layer. Activations must lie within +-512, and so must the differences of logits of a softmax; gradients that Adam
    squares within +-128, and others, summed over the batch, within `reach`; `outside` tells if they did not, of others in the next step,
    or in the `last`.

    Raises:
        ModelError: the network cannot be written, or a node needs all of the batch, and there are fewer rows.
    """
    rows = batch if rows is None else rows
    if rows < batch and plan.mixes:
        raise ModelError(f"{plan.mixes} needs all examples of a batch at once: there are no micro-batches of {rows}")
    weight = plan.weight if plan.activities else 1.0  # these are not multiplied by it
    alone = msgspec.structs.replace(plan, optimizer=GradientDescent(1.0), weight=weight, penalties=(), constraints=())
    network = _network(alone, rows, alone.rate(batch) * batch)
    draft, gradients, optimizer, scale = network.draft.copy(), network.gradients, plan.optimizer, plan.rate(batch)
    values = network.values | {name: draft(Given(name, shape, "share")) for name, shape in plan.states.items()}
    told = dict(network.told)
    if plan.value:
        told["loss"] = told_loss(plan, draft, told["loss"], values, rows, batch)
    if rows < batch:
        gradients = gathered(draft, gradients)
    seen = [*network.watched, *(apart(draft, *softmax) for softmax in network.softmaxes)]
    if not ends:
        if network.large or seen or any(network.inside.values()):
            told["outside"] = outside(draft, values["outside"], network.large, seen, **network.inside)
        return draft.circuit(handed(gradients) | told)
    if plan.private is not None:
        gradients = noisy(draft, plan.private, gradients)
    squared: list[Watched] = []
    row: int | None = None
    more: dict[str, int] = {}
    if plan.exact:
        squared = [Watched(at, 2.0 ** (GRADIENT + bits) / scale) for at, bits in gradients.values()]
        row, more = prepared(draft, optimizer, exact(draft, gradients, values, scale, plan.penalties), gradients, values, number)
    moved = update(draft, optimizer, gradients, values, scale, number, plan.constraints, row)
    new = values | network.moved | more | moved.new
    sums = [*moved.sums, *norms_of(draft, optimizer, gradients, values, scale)]
    if row is not None and not isinstance(optimizer, Adaptive):
        gradients, scale = {name: (at, MEAN) for name, at in pieces(draft, row, gradients).items()}, 1.0
    kinds: dict[str, Any] = {"trained": plan.trained, "private": plan.private is not None, "last": last}
    sums += [*watched_sums(draft, optimizer, gradients, values, new, scale, **kinds), *seen]
    new["outside"] = outside(draft, values["outside"], network.large, sums, gradients=[*squared, *moved.few], **network.inside)
    return draft.circuit({**{name: new[name] for name in plan.shapes | plan.states}, **told})


class _Network(NamedTuple):
    """A network forward and back, without what moves its weights.

    Attributes:
        draft: where it is written; whoever goes on copies it.
        values: the positions of the weights, by name.
        gradients: by weights that are trained, summed over the batch: positions and fractional bits.
        large: what has to be watched.
        told: the positions of the metric, and of the loss if it is computed.
        softmaxes: what belongs to cross-entropies, and of how many classes.
        watched: what else the loss is right for.
        moved: the positions of new values of what follows what a step sees, by name.
        inside: what nodes say has to be watched beside `large`, as `outside` takes it.
    """

    draft: StepDraft
    values: dict[str, int]
    gradients: Gradients
    large: list[Signal]
    told: dict[str, int]
    softmaxes: tuple[tuple[SoftmaxValues, int], ...]
    watched: tuple[Watched, ...]
    moved: dict[str, int]
    inside: dict[str, Any]


class Forward(NamedTuple):
    """A network forward, as it is written first.

    Attributes:
        draft: where it is written.
        values: the positions of the weights, by name.
        large: what has to be watched.
        outputs: the position of the logits, or of the numbers that are compared, (batch, outputs), not rounded yet.
    """

    draft: StepDraft
    values: dict[str, int]
    large: list[Signal]
    outputs: int


def forward(plan: Plan, batch: int, *, predicts: bool) -> Forward:
    """Write a network forward; `predicts` says whether as Keras does in `predict`, or as in a step of `fit`.

    Given: wire `x` (batch, inputs), of several inputs `x`, `x 1`, ..., and the shares of the weights by the names of `Plan.shapes`.

    Raises:
        ModelError: a node cannot be written, or the outputs have another shape than the plan says.
    """
    draft = StepDraft(predicts=predicts)
    values = {name: draft.put(Given(name, shape, "share")) for name, shape in plan.shapes.items()}
    parts = [draft.put(Given(array_name("x", at), (batch, size), "wire")) for at, size in enumerate(plan.parts or (plan.inputs,))]
    x = draft.put(Concatenate(tuple(parts), 1)) if len(parts) > 1 else parts[0]
    made, large = [draft.put(Reshape(x, (batch, *plan.example)))], []
    for place, node in enumerate(plan.layers):
        try:
            made.append(node.write(draft, values, [made[at] for at in node.inputs]))
        except (KeyError, IndexError, ValueError, ArithmeticError) as error:
            raise ModelError(f"node {place} of the network ({type(node).__name__}) cannot be written: {error}") from None
        if plan.private is not None:
            check_values(place, node, batch, [draft.value(made[at]).shape for at in node.inputs], draft.value(made[-1]).shape)
        if node.grows:
            large.append(Signal(made[-1], draft.bits(made[-1])))
    if draft.value(made[-1]).shape != (batch, plan.outputs):
        raise ModelError(f"the network gives values of shape {draft.value(made[-1]).shape[1:]}, and {plan.outputs} numbers are compared")
    return Forward(draft, values, large, made[-1])


def compared_with(plan: Plan, draft: StepDraft, outputs: int, batch: int) -> Ended:
    """Write what losses make of outputs, not rounded yet."""
    if isinstance(plan.loss, JointLoss):
        return jointly_ended(draft, plan.loss, outputs, batch, value=plan.value, weighted=plan.weighted)
    y = draft(Given("y", (batch, plan.outputs), "wire"))
    z, weights = draft.affine(outputs), weights_of(draft, y, plan.classes, weighted=plan.weighted)
    settings: dict[str, Any] = {"value": plan.value, "threshold": plan.threshold, "sums": plan.sums, "labels": plan.labels}
    return ended(draft, loss_gradient(draft, plan.loss, z, y, plan.outputs, weights=weights, **settings), z, plan.outputs, weights)


def told_loss(plan: Plan, draft: StepDraft, loss: int, values: dict[str, int], rows: int, batch: int) -> int:
    """Return the position of the loss of some `rows` of a batch as it is told: with penalties, and as often as it is told of a batch.

    A `batch` whose losses are summed counts as often as it has examples. Of several outputs these are their losses, not weighted, and
    penalties come last.
    """
    if plan.summed:
        loss = draft(Combine((loss,), (batch,)))
    if not plan.penalised:
        return loss
    count = compared(plan.loss, plan.outputs) / (1.0 if isinstance(plan.loss, JointLoss) else plan.weight)
    parts = penalties_told(draft, count, plan.sums.lost)
    if plan.penalties:
        wires = {one.name: draft.opened(values[one.name]) for one in plan.penalties}
        parts.append(penalised(draft, plan.penalties, wires, rows * count, plan.sums.lost))
    penalty = draft(Combine(tuple(parts), (1,) * len(parts)))
    return draft(Concatenate((loss, penalty), 0) if isinstance(plan.loss, JointLoss) else Combine((loss, penalty), (1, 1)))


@lru_cache(maxsize=8)  # a step with other public factors computes the same
def _network(plan: Plan, batch: int, unit: float) -> _Network:
    """Write the network for so many examples; `unit` is how often its gradients count in a step, times the examples of that."""
    draft, values, large, outputs = forward(plan, batch, predicts=False)
    ending = compared_with(plan, draft, outputs, batch)
    told = {"metric": ending.metric} | ({"loss": ending.loss} if plan.value else {})
    if plan.private is None:
        known = penalty_gradients(draft, ending.gradients, unit)
        found = draft.gradients(known, [values[name] for name in plan.trained])
        gradients = {name: (found[values[name]], draft.bits(found[values[name]])) for name in plan.trained if values[name] in found}
        network = _Network(
            draft, values, gradients, [*large, *ending.large], told, ending.softmaxes, ending.watched, draft.moved, draft.inside
        )
    else:  # that numbers have left their windows is told, and nothing about examples may be without noise
        if ending.large or ending.watched or draft.moved or any(draft.inside.values()):
            raise ModelError("numbers of single examples would have to be watched, and nothing of them may be told: not with privacy=")
        gradients = clipped_gradients(draft, plan.private, ending.gradients, {name: values[name] for name in plan.trained}, batch)
        network = _Network(draft, values, gradients, [], told, (), (), {}, {})
    missing = [name for name in plan.trained if name not in gradients]
    if missing:
        raise ModelError(f"the weights {missing} do not move the outputs: leave them out, or do not train them")
    return network
