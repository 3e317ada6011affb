"""Gradient boosting on shares (Friedman, 2001; Chen and Guestrin, 2016): what a step is, one tree for each output on all examples.

With scores F_i, which begin at `base`, and the loss of an example

    binary_crossentropy   g = p - y, h = p (1 - p) for p = 1 / (1 + e^-F)
    crossentropy          the same for each class, p being the softmax of the scores
    mse                   g = F - y, h = 1

a tree is grown on g and h times the weights of the examples, and F <- F - rate w for the value w = G / (H + lambda) of the leaf in which an
example is.

**Leaks** nothing in a step but shapes and settings. Nothing can wrap around: probabilities, values of nodes and so scores are bounded by
what is public, see `units.py`; with "mse" |g| <= `reach` is compared for every example in every step, and the bit `outside` stays 1 once
one was not.
"""

from __future__ import annotations

import math

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.regression.moments import LARGEST_BITS
from protocols.training.trees.growth import Roots, beyond, grow, in_bits, moved, put
from protocols.training.trees.links import sigmoid, softmax
from protocols.training.trees.units import VALUE, Units

RATE = 20
"""Fractional bits of a learning rate."""


class Boosting(StepPlan, frozen=True):
    """What is grown, and how. All of it is public.

    Attributes:
        inputs: columns of x: splits, each 1 where the feature is at most its threshold, as an integer; or features.
        outputs: trees of a step, and columns of y.
        loss: see above.
        examples: n.
        splits: how many thresholds there are.
        depth: of each tree.
        rounds: how many steps.
        rate: the learning rate.
        penalty: lambda.
        weight: the smallest sum of Hessians of a child.
        reach: with "mse" the largest gradient, else 1.
        start: the largest score that examples begin with.
        weighted: whether examples have weights, a wire.
        features: of each split, if x holds features: `Binning` has compared them with thresholds that are shared.
    """

    inputs: int
    outputs: int
    loss: Loss
    examples: int
    splits: int
    depth: int
    rounds: int
    rate: float
    penalty: float
    weight: float
    reach: float
    start: float
    weighted: bool = False
    features: tuple[int, ...] = ()

    @property
    def units(self) -> Units:
        """Of gradients and Hessians."""
        squares = self.loss == "mse"
        return Units(self.examples, self.reach, 1.0 if squares else 0.25, self.penalty, self.weight, squares)

    @property
    def shapes(self) -> dict[str, Shape]:
        """What is opened at the end, in whole or in part by who placed it: trees; scores at the beginning; thresholds."""
        nodes, leaves = self.outputs * ((1 << self.depth) - 1), self.outputs << self.depth
        known: dict[str, Shape] = {"splits": (self.rounds, nodes), "leaves": (self.rounds, leaves), "base": (1, self.outputs)}
        return known | ({"thresholds": (1, self.splits)} if self.features else {})

    @property
    def states(self) -> dict[str, Shape]:
        """Scores without `base`; whether a gradient was outside; where examples are beside thresholds that are shared."""
        left: dict[str, Shape] = {"left": (self.examples, self.splits)} if self.features else {}
        return {"outside": (1,), "scores": (self.examples, self.outputs)} | left

    def repeats(self, epoch: int) -> int:
        """How many steps there are."""
        return self.rounds

    @property
    def _reach(self) -> int:
        """Scores are within +-2^_reach, whatever the data are: the sum of the largest values of leaves."""
        units = self.units
        largest = 2.0**units.clip * units.reach / units.curve
        return max(1, math.ceil(math.log2(self.start + self.rounds * self.rate * largest * 1.01 + 1)))

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Grow one tree for each output.

        Given: wires `x` (n, inputs) and `y` (n, outputs), `w` (n, 1) if there are weights, and all shares. Outputs: their new shares.
        Trees stand in the order in which they were grown once `rounds` steps are done.
        """
        build = Builder()
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        x = build(Given("x", (batch, self.inputs), "wire"))
        y = build(Given("y", (batch, self.outputs), "wire"))
        left = build(Open(values["left"])) if self.features else x
        scores = build(Combine((values["scores"], values["base"]), (1, 1)))
        roots, outside = self._roots(build, scores, y, values["outside"])
        grown = grow(build, left, roots, self.depth, self.units)
        assert grown.members is not None  # asked for in `_roots`
        step = -round(self.rate * self.units.reach / self.units.curve * 2**RATE)
        added = build(Truncate(build(Combine((grown.values[0],), (step,))), RATE, 63 - RATE))
        new = dict(values) | {"outside": outside}
        new["scores"] = build(Combine((values["scores"], moved(build, grown.members, build(Open(added)), self.outputs)), (1, 1)))
        leaves = build(Reshape(added, (1, build.value(added).size)))
        new |= {"splits": put(build, values["splits"], grown.splits), "leaves": put(build, values["leaves"], leaves)}
        return build.circuit(new)

    def _roots(self, build: Builder, scores: int, y: int, before: int) -> tuple[Roots, int]:
        """Gradients and Hessians times weights; and whether a gradient is too large."""
        bits = self.units.bits
        outside, slope, have = before, -1, VALUE
        if self.loss == "mse":
            residual = build(Combine((scores, y), (1, -(1 << (VALUE - FRACTION)))))
            outside = self._beyond(build, residual, before)
            gradient, have = residual, VALUE + round(math.log2(self.reach))
        else:
            found = sigmoid(build, scores, self._reach) if self.outputs == 1 else softmax(build, scores, self.outputs, self._reach)
            gradient = build(Combine((found[0], y), (1, -(1 << (VALUE - FRACTION)))))
            slope = found[1]
        one = 1 << bits
        if not self.weighted:
            g = in_bits(build, gradient, have, bits)
            ones = build(Combine((g,), (0,), 1))
            h = build(Combine((g,), (0,), one)) if slope < 0 else in_bits(build, slope, VALUE, bits)
            return Roots((g,), h, ones), outside
        w = build(Given("w", (build.value(y).shape[0], 1), "wire"))
        g = in_bits(build, _weighted(build, gradient, w), have, bits)
        ones = build(Combine((g,), (0,), 1))
        each = build(Combine((g, w), (0, 1)))  # for each output
        h = in_bits(build, each, FRACTION, bits) if slope < 0 else in_bits(build, _weighted(build, slope, w), VALUE, bits)
        return Roots((g,), h, ones), outside

    def _beyond(self, build: Builder, residual: int, before: int) -> int:
        """[`before` or any |g| above `reach`]. Rounds: 6. Bytes: 2 comparisons an example and output."""
        return beyond(build, residual, self.reach, VALUE, VALUE + max(self._reach, LARGEST_BITS) + 4, before)


def _weighted(build: Builder, x: int, w: int) -> int:
    """Multiply a share by weights with `FRACTION` fractional bits."""
    product = build(Multiply(build(Open(x)), w))
    return build(Truncate(product, FRACTION, 63 - FRACTION))
