"""What is asked of a network without moving its weights: metrics, predictions, features, or its weights as they are served.

Each of these stands in the place of a `Plan` for one run. Servers keep the weights as they are; see `Plan` for what the names mean.
"""

from __future__ import annotations

from protocols.errors import ModelError, ProgramError
from protocols.mpc.circuit import Circuit
from protocols.mpc.engine import loops
from protocols.mpc.engine.sides import Scope
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import AnyLoss
from protocols.training.networks.micro_batches import MicroBatch
from protocols.training.networks.optimizers import Shapes
from protocols.training.networks.step_plan import StepPlan
from protocols.training.networks.window import apart, outside
from protocols.training.private.norms import folded
from protocols.training.step import Plan, compared_with, forward, told_loss

WEIGHT = "weight "
"""Before the number of a weight that is served."""
FEATURES = "features"
"""What a base gives."""
MOST_OPERATIONS = 1 << 14
"""Of what is computed of weights before they are served."""


class AskedPlan(StepPlan, frozen=True):
    """What these kinds have in common.

    Attributes:
        plan: of the network.
    """

    plan: Plan

    @property
    def mixes(self) -> str:
        """No weight moves: what is asked of each example by itself is added."""
        return ""

    @property
    def inputs(self) -> int:
        """Features of an example."""
        return self.plan.inputs

    @property
    def parts(self) -> tuple[int, ...]:
        """Return how many features each of several inputs has."""
        return self.plan.parts

    @property
    def outputs(self) -> int:
        """Numbers that the network gives."""
        return self.plan.outputs

    @property
    def loss(self) -> AnyLoss:
        """That of the network."""
        return self.plan.loss

    @property
    def shapes(self) -> Shapes:
        """The weights are those of the network,"""
        return self.plan.shapes

    @property
    def states(self) -> Shapes:
        """and so is what is kept beside them."""
        return self.plan.states


class SharedEvaluation(AskedPlan, frozen=True):
    """Metric and loss of the network on stored examples, as Keras computes them in `evaluate`.

    Outputs: `metric` and `loss`, summed over a batch; `outside`, see `window.py`.
    """

    @property
    def weighted(self) -> bool:
        """Whether examples have weights of their own."""
        return self.plan.weighted

    @property
    def classes(self) -> tuple[float, ...]:
        """The weights of classes: `evaluate` has none."""
        return ()

    def part(self, micro: MicroBatch, number: int = 0) -> Circuit:
        """Return the circuit of some examples of a batch."""
        return self.circuit(micro.rows, number, of=micro.batch)

    def circuit(self, batch: int, number: int = 0, *, of: int | None = None) -> Circuit:
        """Return the circuit of one batch, or of some examples `of` a larger one."""
        draft, values, large, outputs = forward(self.plan, batch, predicts=True)
        ending = compared_with(self.plan, draft, outputs, batch)
        sums = [*ending.watched, *(apart(draft, *softmax) for softmax in ending.softmaxes)]
        bit = outside(draft, draft(Given("outside", (1,), "share")), [*large, *ending.large], sums, **draft.inside)
        loss = {"loss": told_loss(self.plan, draft, ending.loss, values, batch, of or batch)} if self.plan.value else {}
        return draft.circuit({"metric": ending.metric, "outside": bit} | loss)


class SharedPrediction(AskedPlan, frozen=True):
    """The outputs of the network for stored examples, before a softmax or a sigmoid at its end, which is the owner's to add.

    Outputs: `outputs`, (batch, outputs), with `OUTPUT_BITS` fractional bits; `outside`, see `window.py`.
    """

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit of one batch."""
        draft, _, large, outputs = forward(self.plan, batch, predicts=True)
        bit = outside(draft, draft(Given("outside", (1,), "share")), large, [], **draft.inside)
        return draft.circuit({"outputs": draft.rounded(outputs), "outside": bit})


class BaseOutputs(AskedPlan, frozen=True):
    """What a frozen base gives for stored examples: it stays with the workers, each of which has its part of it, as of stored data.

    `plan` is that of the base, see `base.py`.

    Outputs: `outside`, see `window.py`; of a private training nothing is looked at, and features are folded: bounded, whatever an example
    is. Kept is the wire `FEATURES`, (batch, outputs).
    """

    @property
    def weighted(self) -> bool:
        """Examples have no weights."""
        return False

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit of one batch."""
        draft, _, large, outputs = forward(self.plan, batch, predicts=True)
        bit = draft(Given("outside", (1,), "share"))
        if self.plan.private is not None:
            return draft.circuit({"outside": bit}, {FEATURES: draft.put(Open(folded(draft, outputs)), FRACTION)})
        bit = outside(draft, bit, large, [], **draft.inside)
        return draft.circuit({"outside": bit}, {FEATURES: draft.opened(outputs)})


class Derivation(AskedPlan, frozen=True):
    """The weights of the network as a program of predictions needs them (`protocols/trained`): shares that stay at the servers.

    Attributes:
        ops: what is computed of the weights; public.
        made: the positions of what is served, in the order of the weights of the program.
        outside: the position of a bit, whether a weight is larger than the program allows.
    """

    ops: tuple[AnyOp, ...]
    made: tuple[int, ...]
    outside: int

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ModelError: there are too many operations, or something else than the weights of the network is asked for.
        """
        given = {op.name: op.shape for op in self.ops if isinstance(op, Given)}
        known = self.plan.shapes | {"outside": (1,)}
        if len(self.ops) > MOST_OPERATIONS or not self.made or any(known.get(name) != shape for name, shape in given.items()):
            raise ModelError("what is served is computed of the weights of a network, and of nothing else")

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit, which has no batch.

        Raises:
            ProgramError: the operations do not fit.
        """
        scope = Scope([])
        loops.infer(self.ops, scope)
        names = {f"{WEIGHT}{index}": at for index, at in enumerate(self.made)}
        circuit = Circuit(self.ops, tuple(scope.values), names | {"outside": self.outside})
        if scope.values[self.outside].shape != (1,):
            raise ProgramError("whether a weight is too large is one bit")
        return circuit

    @property
    def weights(self) -> list[tuple[int, ...]]:
        """The shapes of what is served."""
        values = self.circuit(1).values
        return [values[at].shape for at in self.made]
