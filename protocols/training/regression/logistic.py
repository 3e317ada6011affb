"""Logistic regression on shares: full gradients, Nesterov's momentum, and one bit that says whether the gradient is small yet.

What is minimised, for weights w_i of the examples and their sum S, is

    1/S sum_i w_i loss(x_i W + b, y_i) + sum_j l_j/2 |W_j|^2.

Its Hessian is at most h M + diag(l) for the mean M of w_i (x_i, 1)^T (x_i, 1), where h is 1/4 for two classes (the largest slope of the
sigmoid) and 1/2 for the softmax. So it is below the diagonal matrix D of L + l_j for the columns and B for the intercepts, if h M is below
that of L and B: both h times the largest eigenvalue of M, or, where columns have the weighted mean 0, L by that of the columns alone
and B = h. With the steps 1 / D and the momentum min(k / (k + 3), (1 - r) / (1 + r)) in iteration k, where r^2 bounds the Hessian from below
in units of D, it converges from anywhere (Nesterov, 2004, section 2.2; Beck and Teboulle, 2009, eq. 4.2); a strong penalty slows neither
the intercepts nor columns with a weaker one. As in Keras, what is kept is the point from which momentum has moved on already:

    V <- beta V - rate G,    W <- W + beta V - rate G.

An iteration may be cut into batches, whose gradients are added before the last one moves the weights. All that changes from step to
step is public.

**Leaks** nothing in a step. At the end of an epoch, which is `every` iterations, the owner is told the bit `steep`.
"""

from __future__ import annotations

import math

import msgspec

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Put, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.draft import Signal
from protocols.training.networks.functions import FRACTION, SPLINE, sigmoid, softmax
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.networks.window import COUNT, WEIGHTS, Watched, apart, outside, summed

WEIGHT_BITS = 26
"""Fractional bits of weights and velocities: a gradient is told from 0 where a step would move a weight by 2^-26."""

RESOLVED = 4
"""Units of the last digit of a weight by which the penalty's gradient is told from 0: its velocity and itself are rounded."""

FLATTEST = 0.05
"""The slope of the sigmoid by which r counts on intercepts: that where one of twenty examples is of a class."""

RATE_BITS = 8
"""Significant bits of rate / S."""

CLASS_BITS = 24
"""Fractional bits of the weight of a class."""

EDGE_BITS = 7
"""Significant bits of the threshold of a gradient."""

MANY_EXAMPLES = 12
"""Sums of gradients over more than 2^MANY_EXAMPLES examples lose their last bits, so that they cannot wrap around."""


class Columns(msgspec.Struct, frozen=True):
    """Columns that have the same penalty and step.

    Attributes:
        places: which of X.
        penalty: l_j.
        rate: the step 1 / (L + l_j).
    """

    places: tuple[int, ...]
    penalty: float
    rate: float


class _Step:
    """A step as public integers, G being rate times the gradient with `unit` fractional bits.

    Attributes:
        factor: rate / S as `factor` 2^-s.
        unit: fractional bits of G.
        drop: what G has more of them than weights.
        exact: the rate that the rounded factor stands for.
    """

    def __init__(self, rate: float, total: float, cut: int) -> None:
        shift = RATE_BITS - 1 - math.floor(math.log2(rate / total))
        self.factor = round(rate / total * 2.0**shift)
        self.unit = shift + 2 * FRACTION - cut
        self.drop = self.unit - WEIGHT_BITS
        self.exact = self.factor * 2.0**-shift * total

    def penalty(self, penalty: float, iteration: int) -> int:
        """Return what multiplies a weight in G; of a fraction the part that is due, so that the mean over iterations is exact."""
        each = self.exact * penalty * 2.0**self.drop
        return round(each) if each > 2.0**RATE_BITS else math.floor(each * (iteration + 1)) - math.floor(each * iteration)

    def edge(self, tol: float, penalty: float) -> int:
        """Return the threshold of an element of G: `tol`, or where that is less what rounding a weight does to the penalty's gradient."""
        return round(self.exact * max(tol, RESOLVED * penalty * 2.0**-WEIGHT_BITS) * 2.0**self.unit)


class Logistic(StepPlan, frozen=True):
    """What is minimised, and how. All of it is public.

    Attributes:
        inputs: columns of X.
        outputs: 1 for two classes, else the classes.
        intercept: whether there is b.
        examples: n.
        total: S, of weights that are at most 1.
        penalty: l, of columns that are in no group.
        rate: the step of them, and of intercepts unless `bias_rate` says otherwise.
        tol: |gradient| below which an element of it counts as small.
        every: iterations of an epoch.
        iterations: at most so many.
        batches: of an iteration.
        weighted: whether there are weights of examples, a wire.
        classes: weights of classes, at most 1, by which those of examples are multiplied; none if all are 1.
        groups: columns with penalties and steps of their own; all of them, or none if all have `penalty` and `rate`.
        bias_rate: the step of intercepts; 0 if it is `rate`.
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
    groups: tuple[Columns, ...] = ()
    bias_rate: float = 0.0

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
        kept = {f"{kind} of {name}": shape for kind in ("velocity", "gradient") for name, shape in self.shapes.items()}
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
        """(1 - r) / (1 + r), which momentum tends to; r^2 is the least l_j / (L + l_j), or what is counted on for intercepts."""
        least = min((group.penalty * group.rate for group in self.groups), default=self.penalty * self.rate)
        if self.intercept and self.bias_rate:
            least = min(least, FLATTEST * self.bias_rate)
        r = math.sqrt(min(1.0, least))
        return (1 - r) / (1 + r)

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Step `number` from 0, on `batch` examples.

        Given: wires `x` (batch, inputs) and `y` (batch, outputs), `w` (batch, 1) if there are weights, and the shares of weights and
        states. Outputs: their new shares.

        Rounds: 1 to open W, 1 to round the logits, 3 for the sigmoid (22 for softmax over 10 classes), 2 for its gradient, with weights 1
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
        weights = summed(build, [Watched(values[name], 2.0 ** (WEIGHTS + WEIGHT_BITS)) for name in self.shapes])
        found = softmax(build, z, self.outputs) if self.outputs > 1 else None
        watched = [weights] if found is None else [weights, apart(build, found, self.outputs)]
        new = {"outside": outside(build, values["outside"], [Signal(z)], watched)}
        probabilities = sigmoid(build, z) if found is None else found.probabilities
        g = build(Open(self._slope(build, probabilities, y, self._weight(build, y, batch))))
        sums = {"kernel": build(MatMul(x, g, transpose_x=True))}
        if self.intercept:
            sums["bias"] = build(Combine((build(Sum(g, 0, keep=False)),), (1 << FRACTION,)))
        counts: list[int] = []
        for name, total in sums.items():
            new |= self._moved(build, name, total, values, number, counts)
        new["steep"] = self._steep(build, counts)
        return build.circuit({name: new[name] for name in values})

    def _weight(self, build: Builder, y: int, batch: int) -> tuple[int, int] | None:
        """Write the weight of each example, affine (batch, 1); return it, and its fractional bits."""
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

    def _slope(self, build: Builder, found: int, y: int, weight: tuple[int, int] | None) -> int:
        """Write the gradient by the logits for probabilities `found`, times the weights of examples, with `FRACTION` fractional bits."""
        if self.outputs == 1:
            distance = build(Combine((found, y), (1, -(1 << (SPLINE - FRACTION)))))
            gradient = build(Truncate(distance, SPLINE - FRACTION, 63 - SPLINE + FRACTION))
            if weight is None:
                return gradient
            product = build(Multiply(weight[0], gradient))
        else:
            if weight is None:
                return build(Combine((found, y), (1, -1)))
            product = build(Combine((build(Multiply(weight[0], found)), build(Multiply(weight[0], y))), (1, -1)))
        return build(Truncate(product, weight[1], 63 - weight[1]))

    @property
    def _cut(self) -> int:
        """Bits that sums of gradients lose."""
        return max(0, self.examples.bit_length() - MANY_EXAMPLES)

    def _parts(self, name: str) -> tuple[Columns, ...]:
        """Return the groups of columns of a weight; one without places for all of them."""
        if name == "bias":
            return (Columns((), 0.0, self.bias_rate or self.rate),)
        return self.groups if len(self.groups) > 1 else (Columns((), *self._only),)

    @property
    def _only(self) -> tuple[float, float]:
        return (self.groups[0].penalty, self.groups[0].rate) if self.groups else (self.penalty, self.rate)

    def _moved(self, build: Builder, name: str, total: int, values: dict[str, int], number: int, counts: list[int]) -> dict[str, int]:
        """Return the new weight and its states by name; append to `counts` how many elements of its gradient are large."""
        iteration, batch = divmod(number, self.batches)
        last, cut = batch == self.batches - 1, self._cut
        added = build(Truncate(total, cut, 63 - cut)) if cut else total
        gradient = build(Combine((values[f"gradient of {name}"], added), (0 if batch == 0 else 1, 1)))
        before = gradient, values[name], values[f"velocity of {name}"]
        parts = self._parts(name)
        made = []
        for part in parts:
            mine = tuple(build(Take(value, 0, part.places)) if part.places else value for value in before)
            made.append(self._part(build, part, mine, iteration, counts, last=last))
        weight, velocity = (self._whole(build, parts, xs) for xs in zip(*made, strict=True))
        return {name: weight, f"velocity of {name}": velocity, f"gradient of {name}": gradient}

    def _whole(self, build: Builder, parts: tuple[Columns, ...], xs: tuple[int, ...]) -> int:
        """Join what is there of groups of columns."""
        if not parts[0].places:
            return xs[0]
        put = tuple(build(Put((x,), 0, (part.places,), self.inputs)) for x, part in zip(xs, parts, strict=True))
        return build(Combine(put, (1,) * len(put)))

    def _part(
        self, build: Builder, part: Columns, before: tuple[int, ...], iteration: int, counts: list[int], *, last: bool
    ) -> tuple[int, int]:
        """Return the new weights and velocities of some columns, from the sums of their gradients, weights and velocities."""
        gradient, weight, velocity = before
        step = _Step(part.rate, self.total, self._cut)
        drop = step.drop
        move = build(Combine((gradient, weight), (step.factor, step.penalty(part.penalty, iteration))))
        beta = round(min(self.momentum, iteration / (iteration + 3)) * 2**drop)
        factors = (-1, beta) if last else (0, 1 << drop)  # until the last batch nothing moves
        velocity = build(Truncate(build(Combine((move, velocity), factors)), drop, 63 - drop))
        change = build(Truncate(build(Combine((move, velocity), factors if last else (0, 0))), drop, 63 - drop))
        counts.append(_large(build, move, step.edge(self.tol, part.penalty)))
        return build(Combine((weight, change), (1, 1))), velocity

    def _steep(self, build: Builder, counts: list[int]) -> int:
        """[|gradient| > tol in any element]."""
        total = build(Combine(tuple(counts), (2,) * len(counts), -2))
        return build(Sign(build(Truncate(total, 1, COUNT))))


def _large(build: Builder, move: int, edge: int) -> int:
    """How many elements are beyond +-`edge`."""
    drop = max(1, edge.bit_length() - EDGE_BITS)
    sides = [build(Truncate(build(Combine((move,), (side,), edge)), drop, 63 - drop)) for side in (1, -1)]
    inside = tuple(build(Sign(side)) for side in sides)
    return build(Sum(build(Combine(inside, (-1, -1), 2))))
