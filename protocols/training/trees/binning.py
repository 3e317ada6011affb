"""Features of others beside thresholds: which examples are at most at each, on shares.

Thresholds are secret as well: the servers learn how many each feature has. `Counts` tells its owner how many examples are at most at each,
from which quantiles are found; `Binning` keeps the comparisons for trees.

**Leaks** nothing to the servers but shapes. To the owner of a run of `Counts`, the counts.
"""

from __future__ import annotations

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Concatenate, Take
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.regression.moments import LARGEST_BITS
from protocols.training.trees.boosting import Boosting
from protocols.training.trees.forest import Forest

APART = FRACTION + LARGEST_BITS + 3
"""The window in which two stored numbers are compared."""


def _above(build: Builder, batch: int, inputs: int, features: tuple[int, ...], thresholds: int) -> int:
    """[x > t] for each example and threshold, affine (batch, splits). Rounds: 3."""
    x = build(Take(build(Given("x", (batch, inputs), "wire")), 1, features))
    return build(Sign(build(Combine((x, build(Open(thresholds))), (1, -1))), APART, strict=True))


class Counts(StepPlan, frozen=True):
    """How many examples are at most at each threshold.

    Attributes:
        inputs: features.
        outputs: columns of y, which is not looked at.
        loss: how `TrainingTerms` reads it.
        features: of each threshold.
    """

    inputs: int
    outputs: int
    loss: Loss
    features: tuple[int, ...]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Thresholds."""
        return {"thresholds": (1, len(self.features))}

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Count in some examples. Given: a wire `x` (batch, inputs). Output: `counts` (splits,)."""
        build = Builder()
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        above = build(Sum(_above(build, batch, self.inputs, self.features, values["thresholds"]), 0, keep=False))
        return build.circuit(values | {"counts": build(Combine((above,), (-1,), batch))})


class Binning(StepPlan, frozen=True):
    """The comparisons of all examples, kept as the state `left` of trees that are grown afterwards.

    Attributes:
        grown: the plan of the trees, which has the same shapes and states.
    """

    grown: Boosting | Forest

    @property
    def inputs(self) -> int:
        """Features."""
        return self.grown.inputs

    @property
    def outputs(self) -> int:
        """Columns of y, which is not looked at."""
        return self.grown.outputs

    @property
    def loss(self) -> Loss:
        """How `TrainingTerms` reads it."""
        return self.grown.loss

    @property
    def weighted(self) -> bool:
        """Whether examples have weights, which are not looked at."""
        return self.grown.weighted

    @property
    def shapes(self) -> dict[str, Shape]:
        """Those of the trees."""
        return self.grown.shapes

    @property
    def states(self) -> dict[str, Shape]:
        """Those of the trees."""
        return self.grown.states

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Compare some examples, and put them behind those of the steps before. Given: a wire `x` (batch, inputs), and all shares."""
        build = Builder()
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        above = _above(build, batch, self.inputs, self.grown.features, values["thresholds"])
        left = build(Combine((above,), (-1,), 1))
        if batch < self.grown.examples:
            left = build(Concatenate((build(Take(values["left"], 0, tuple(range(batch, self.grown.examples)))), left), 0))
        return build.circuit(values | {"left": left})
