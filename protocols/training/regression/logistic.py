"""Logistic regression on shares: full gradients, Nesterov's momentum, and one bit that says whether the gradient is small yet.

What is minimised, for weights w_i of the examples and their sum S, is

    1/S sum_i w_i loss(x_i W + b, y_i) + l/2 |W|^2.

Its gradient is Lipschitz with L = h T / S + l, where T bounds the largest eigenvalue of the sum of w_i (x_i, 1)^T (x_i, 1), and h is 1/4
for two classes (the largest slope of the sigmoid) and 1/2 for the softmax. With the step 1 / L and the momentum
min(k / (k + 3), (1 - r) / (1 + r)), r = sqrt(l / L), in iteration k, it converges from anywhere (Nesterov, 2004, section 2.2; Beck and
Teboulle, 2009, eq. 4.2). As in Keras, what is kept is the point from which momentum has moved on already:

    V <- beta V - rate G,    W <- W + beta V - rate G.

An iteration may be cut into batches, whose gradients are added before the last one moves the weights. All that changes from step to
step is public.

**Leaks** nothing in a step. At the end of an epoch, which is `every` iterations, the owner is told the bit `steep`.
"""

from __future__ import annotations

import math

import msgspec

from protocols.program import Shape
from protocols.training.circuit import Builder, Circuit, Combine, Given, MatMul, Multiply, Open, Sign, Sum, Take, Truncate
from protocols.training.functions import FRACTION, SPLINE, sigmoid, softmax
from protocols.training.layers import Signal
from protocols.training.losses import Loss
from protocols.training.window import COUNT, outside

WEIGHT_BITS = 24
"""Fractional bits of weights and velocities: a gradient is told from 0 where a step would move a weight by 2^-24."""

RATE_BITS = 8
"""Significant bits of rate / S."""

CLASS_BITS = 24
"""Fractional bits of the weight of a class."""

EDGE_BITS = 7
"""Significant bits of the threshold of a gradient."""

SLOPE_LIMIT = 12
"""Sums of gradients over more than 2^SLOPE_LIMIT examples lose their last bits, so that they cannot wrap around."""


class Logistic(msgspec.Struct, frozen=True, tag=True):
    """What is minimised, and how. All of it is public.

    Attributes:
        inputs: columns of X.
        outputs: 1 for two classes, else the classes.
        intercept: whether there is b.
        examples: n.
        total: S, of weights that are at most 1.
        penalty: l.
        rate: the step 1 / L.
        tol: |gradient| below which an element of it counts as small.
        every: iterations of an epoch.
        iterations: at most so many.
        batches: of an iteration.
        weighted: whether there are weights of examples, a wire.
        classes: weights of classes, at most 1, by which those of examples are multiplied; none if all are 1.
    """

    inputs: int
    outputs: int
    intercept: bool
    examples: int
    total: float
    penalty: float
    rate: float
    tol: float
    every: int
    iterations: int
    batches: int = 1
    weighted: bool = False
    classes: tuple[float, ...] = ()

    @property
    def loss(self) -> Loss:
        """Which gradient by the logits is taken."""
        return "binary_crossentropy" if self.outputs == 1 else "crossentropy"

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every weight by name."""
        return {"kernel": (self.inputs, self.outputs)} | ({"bias": (self.outputs,)} if self.intercept else {})

    @property
    def states(self) -> dict[str, Shape]:
        """The shape of what is kept beside the weights, by name; it begins at zero."""
        kept = {f"{kind} of {name}": shape for kind in ("velocity", "slope") for name, shape in self.shapes.items()}
        return {"outside": (1,), "steep": (1,), **kept}

    @property
    def told(self) -> tuple[str, ...]:
        """States that the owner may be told at the end of an epoch: one bit."""
        return ("steep",)

    @property
    def changing(self) -> bool:
        """Public factors are others from step to step."""
        return True

    def repeats(self, epoch: int) -> int:
        """How often an epoch goes over the examples."""
        return min(self.every, self.iterations - epoch * self.every)

    @property
    def momentum(self) -> float:
        """(1 - r) / (1 + r), r = sqrt(l / L), which momentum tends to."""
        r = math.sqrt(min(1.0, self.penalty * self.rate))
        return (1 - r) / (1 + r)

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Step `number` from 0, on `batch` examples.

        Given: wires `x` (batch, inputs) and `y` (batch, outputs), `w` (batch, 1) if there are weights, and the shares of weights and
        states. Outputs: their new shares.

        Rounds: 1 to open W, 1 to round the logits, 3 for the sigmoid (21 for softmax over 10 classes), 2 for its gradient, with weights 1
        or 2 more, 2 to update. `steep` is ready 4 rounds later.
        """
        build = Builder()
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        x = build(Given("x", (batch, self.inputs), "wire"))
        y = build(Given("y", (batch, self.outputs), "wire"))
        logits = build(MatMul(x, build(Open(values["kernel"]))))
        if self.intercept:
            logits = build(Combine((logits, values["bias"]), (1, 1 << FRACTION)))
        z = build(Truncate(logits, WEIGHT_BITS, 63 - WEIGHT_BITS))
        weights = [values[name] for name in self.shapes]
        new = {"outside": outside(build, values["outside"], [Signal(z)], weights, bits=WEIGHT_BITS)}
        g = build(Open(self._slope(build, z, y, self._weight(build, y, batch))))
        sums = {"kernel": build(MatMul(x, g, transpose_x=True))}
        if self.intercept:
            sums["bias"] = build(Combine((build(Sum(g, 0, keep=False)),), (1 << FRACTION,)))
        moves: list[int] = []
        for name, total in sums.items():
            changed, move = self._moved(build, name, total, values, number)
            new |= changed
            moves.append(move)
        new["steep"] = self._steep(build, moves)
        return build.circuit({name: new[name] for name in values})

    def _weight(self, build: Builder, y: int, batch: int) -> tuple[int, int] | None:
        """The weight of each example, affine (batch, 1), and its fractional bits."""
        given = build(Given("w", (batch, 1), "wire")) if self.weighted else None
        if not self.classes:
            return None if given is None else (given, FRACTION)
        first, *others = (round(weight * 2**CLASS_BITS) for weight in self.classes)
        bits = FRACTION + CLASS_BITS
        if self.outputs == 1:  # y is the column of the second label
            weight = build(Combine((y,), (others[0] - first,), first << FRACTION))
        else:
            columns = [build(Take(y, 1, (column,))) for column in range(self.outputs)]
            weight = build(Combine(tuple(columns), (first, *others)))
        if given is None:
            return weight, bits
        return build(Truncate(build(Multiply(given, weight)), bits, 63 - bits)), FRACTION

    def _slope(self, build: Builder, z: int, y: int, weight: tuple[int, int] | None) -> int:
        """The gradient by the logits, times the weight of each example, with `FRACTION` fractional bits."""
        if self.outputs == 1:
            distance = build(Combine((sigmoid(build, z), y), (1, -(1 << (SPLINE - FRACTION)))))
            slope = build(Truncate(distance, SPLINE - FRACTION, 63 - SPLINE + FRACTION))
            if weight is None:
                return slope
            product = build(Multiply(weight[0], slope))
        else:
            found = softmax(build, z, self.outputs).probabilities
            if weight is None:
                return build(Combine((found, y), (1, -1)))
            product = build(Combine((build(Multiply(weight[0], found)), build(Multiply(weight[0], y))), (1, -1)))
        return build(Truncate(product, weight[1], 63 - weight[1]))

    # In what follows G is rate times the gradient with `unit` fractional bits.

    @property
    def _cut(self) -> int:
        """Bits that sums of gradients lose."""
        return max(0, self.examples.bit_length() - SLOPE_LIMIT)

    @property
    def _factor(self) -> tuple[int, int]:
        """rate / S as q 2^-s."""
        shift = RATE_BITS - 1 - math.floor(math.log2(self.rate / self.total))
        return round(self.rate / self.total * 2.0**shift), shift

    @property
    def _unit(self) -> int:
        return self._factor[1] + 2 * FRACTION - self._cut

    @property
    def _exact_rate(self) -> float:
        """The rate that the rounded factor stands for."""
        q, shift = self._factor
        return q * 2.0**-shift * self.total

    def _moved(self, build: Builder, name: str, total: int, values: dict[str, int], number: int) -> tuple[dict[str, int], int]:
        """The new weight and its states by name, and G."""
        iteration, batch = divmod(number, self.batches)
        last, drop, cut = batch == self.batches - 1, self._unit - WEIGHT_BITS, self._cut
        added = build(Truncate(total, cut, 63 - cut)) if cut else total
        slope = build(Combine((values[f"slope of {name}"], added), (0 if batch == 0 else 1, 1)))
        penalty = round(self._exact_rate * self.penalty * 2.0**drop) if name == "kernel" else 0
        move = build(Combine((slope, values[name]), (self._factor[0], penalty)))
        beta = round(min(self.momentum, iteration / (iteration + 3)) * 2**drop)
        factors = (-1, beta) if last else (0, 1 << drop)  # until the last batch nothing moves
        velocity = build(Truncate(build(Combine((move, values[f"velocity of {name}"]), factors)), drop, 63 - drop))
        change = build(Truncate(build(Combine((move, velocity), factors if last else (0, 0))), drop, 63 - drop))
        weight = build(Combine((values[name], change), (1, 1)))
        return {name: weight, f"velocity of {name}": velocity, f"slope of {name}": slope}, move

    def _steep(self, build: Builder, moves: list[int]) -> int:
        """[|gradient| > tol in any element]."""
        edge = round(self._exact_rate * self.tol * 2.0**self._unit)
        drop = max(1, edge.bit_length() - EDGE_BITS)
        counts = []
        for move in moves:
            sides = [build(Truncate(build(Combine((move,), (side,), edge)), drop, 63 - drop)) for side in (1, -1)]
            inside = tuple(build(Sign(side)) for side in sides)
            counts.append(build(Sum(build(Combine(inside, (-1, -1), 2)))))
        total = build(Combine(tuple(counts), (2,) * len(counts), -2))
        return build(Sign(build(Truncate(total, 1, COUNT))))
