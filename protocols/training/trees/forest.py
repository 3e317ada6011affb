"""Random forests on shares (Breiman, 2001): what a step is, one tree on examples that were drawn with replacement.

How often each example was drawn, times its weight, is a secret number d_i; so is which features a node may be split by. Whoever fits has
placed both, so that the servers do not learn which rows a tree was grown on. With targets y, or one-hot labels, G = sum d y and H = sum d:
the gain of a split is then the decrease of the squared error, or of Gini's impurity, times the number of examples, and the value of a leaf
is the mean of its targets, or the parts of its classes.

**Leaks** nothing in a step but shapes and settings. Targets beyond +-`reach` are found in every step: the bit `outside` stays 1.
"""

from __future__ import annotations

import math

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Concatenate, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.regression.moments import LARGEST_BITS
from protocols.training.trees.growth import Roots, beyond, grow, in_bits, put
from protocols.training.trees.units import Units


class Forest(StepPlan, frozen=True):
    """What is grown, and how. All of it is public.

    Attributes:
        inputs, splits, depth, examples: as for `Boosting`.
        outputs: columns of y: a target, or classes.
        rounds: how many trees.
        weight: the smallest sum of weights of drawn examples in a child.
        reach: the largest target, a power of two.
        labels: whether y is made of labels.
        features: of each split; empty if x holds splits and each node may be split by all features.
        columns: how many features there are, if nodes may be split by some of them only; else 0.
        compared: whether x holds features, and `Binning` has compared them with thresholds that are shared.
    """

    inputs: int
    outputs: int
    examples: int
    splits: int
    depth: int
    rounds: int
    weight: float
    reach: float = 1.0
    labels: bool = False
    features: tuple[int, ...] = ()
    columns: int = 0
    compared: bool = False

    @property
    def loss(self) -> Loss:
        """How `TrainingTerms` reads the targets."""
        return "crossentropy" if self.labels else "mse"

    @property
    def units(self) -> Units:
        """Of sums of targets and weights."""
        return Units(self.examples, self.reach, 1.0, 0.0, self.weight, bounded=True)

    @property
    def shapes(self) -> dict[str, Shape]:
        """What is opened at the end by who placed it: trees; what was drawn; features of each node of each tree; thresholds."""
        nodes, leaves = (1 << self.depth) - 1, 1 << self.depth
        known: dict[str, Shape] = {"splits": (self.rounds, nodes), "leaves": (self.rounds, leaves * self.outputs)}
        known["draws"] = (self.rounds, self.examples)
        if self.columns:
            known["allowed"] = (self.rounds, nodes * self.columns)
        return known | ({"thresholds": (1, self.splits)} if self.compared else {})

    @property
    def states(self) -> dict[str, Shape]:
        """Whether a target was outside; where examples are beside thresholds that are shared."""
        left: dict[str, Shape] = {"left": (self.examples, self.splits)} if self.compared else {}
        return {"outside": (1,)} | left

    def repeats(self, epoch: int) -> int:
        """How many steps there are."""
        return self.rounds

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Grow one tree, on the first row of what was drawn, which goes to the end.

        Given: wires `x` (n, inputs) and `y` (n, outputs), and all shares. Outputs: their new shares.
        """
        build, bits = Builder(), self.units.bits
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        x = build(Given("x", (batch, self.inputs), "wire"))
        y = build(Given("y", (batch, self.outputs), "wire"))
        left = build(Open(values["left"])) if self.compared else x
        drawn = build(Open(build(Reshape(build(Take(values["draws"], 0, (0,))), (batch, 1)))))
        targets = build(Multiply(drawn, y))
        g = in_bits(build, targets, 2 * FRACTION + round(math.log2(self.reach)), bits)
        gradients = tuple(build(Take(g, 1, (output,))) for output in range(self.outputs))
        allowed = self._allowed(build, values["allowed"]) if self.columns else ()
        grown = grow(build, left, Roots(gradients, in_bits(build, drawn, FRACTION, bits), None), self.depth, self.units, allowed)
        leaves = grown.values[0] if self.outputs == 1 else build(Concatenate(grown.values, 1))
        leaves = build(Reshape(leaves, (1, build.value(leaves).size)))
        new = dict(values) | {"splits": put(build, values["splits"], grown.splits), "leaves": put(build, values["leaves"], leaves)}
        for name in ("draws", "allowed"):
            if name in values:
                new[name] = put(build, values[name], build(Take(values[name], 0, (0,))))
        if not self.labels:
            new["outside"] = beyond(build, y, self.reach, FRACTION, FRACTION + LARGEST_BITS + 4, values["outside"])
        return build.circuit(new)

    def _allowed(self, build: Builder, rows: int) -> tuple[int, ...]:
        """Which splits each node may have, by its features, for each level."""
        first = build(Reshape(build(Open(build(Take(rows, 0, (0,))))), ((1 << self.depth) - 1, self.columns)))
        levels = [tuple(range((1 << level) - 1, (2 << level) - 1)) for level in range(self.depth)]
        return tuple(build(Take(build(Take(first, 0, nodes)), 1, self.features)) for nodes in levels)
