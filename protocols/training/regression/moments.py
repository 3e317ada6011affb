"""Sums of products over all examples, in one pass: what least squares by its normal equations needs, and less where less is asked for.

Products of integers are exact in Z_2^64 as long as they do not wrap around. A column lies within +-`LARGEST` (whoever stored it has checked
that), so an element of X^T X is below `LARGEST`^2 n 2^(2 f) for n examples. Where that may pass 2^63 each batch of at most `BATCH` examples
is rounded by `drop` bits before it is added, without bias and by less than 2^(drop - 2 f).

**Rounds**: 0, or 1 where sums are rounded; with weights 2 more (1 to round W X, 1 to open it under fresh masks).
**Leaks** nothing to the workers but the shapes and what is asked for. What is asked for is opened to the owner of the run, as a sum over
all examples.
"""

from __future__ import annotations

from typing import Literal

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION, WINDOW
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.networks.window import COUNT

Asked = Literal["gram", "cross", "features", "targets", "weight", "squares"]

LARGEST_BITS = 9
"""Numbers that are stored lie within +-2^LARGEST_BITS."""

BATCH = (1 << (62 - 2 * FRACTION - 2 * LARGEST_BITS)) - 1
"""Examples whose products cannot wrap around where they are rounded before they are added."""

BITS: dict[Asked, int] = {"gram": 2 * FRACTION, "cross": 2 * FRACTION, "features": FRACTION, "weight": FRACTION, "squares": FRACTION}
"""Fractional bits of each sum, before it is rounded; of targets `FRACTION`, and twice that with weights."""


class Moments(StepPlan, frozen=True):
    """Sums over all examples, with weights w_i or all of them 1.

    Attributes:
        inputs: columns of X.
        outputs: columns of Y: targets, or classes of one-hot labels.
        asks: what is summed. gram: X^T W X (inputs, inputs); cross: X^T W Y (inputs, outputs); features: X^T w (inputs,); targets: Y^T w
            (outputs,); weight: the sum of w (1,); squares: the trace of X^T W X (1,).
        drop: bits by which gram and cross are rounded.
        weighted: whether there are weights, a wire with values from 0 to 1.
        checked: whether it is found out on shares that weights are from 0 to 1: `outside` is 1 once one was not.
        labels: whether Y is made of labels.
    """

    inputs: int
    outputs: int
    asks: tuple[Asked, ...]
    drop: int = 0
    weighted: bool = False
    checked: bool = False
    labels: bool = False

    @property
    def loss(self) -> Loss:
        """How `TrainingTerms` reads the targets."""
        return "crossentropy" if self.labels else "mse"

    @property
    def shapes(self) -> dict[str, Shape]:
        """There are no weights to be learnt."""
        return {}

    def bits(self, asked: Asked) -> int:
        """Fractional bits of a sum."""
        match asked:
            case "gram" | "cross":
                return BITS[asked] - self.drop
            case "targets":
                return 2 * FRACTION if self.weighted else FRACTION
            case _:
                return BITS[asked]

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit of the sums over `batch` examples.

        Given: wires `x` (batch, inputs), `y` (batch, outputs), and `w` (batch, 1) if there are weights. Outputs: by the names in `asks`.
        """
        build = Builder()
        before = build(Given("outside", (1,), "share"))
        x = build(Given("x", (batch, self.inputs), "wire"))
        y = build(Given("y", (batch, self.outputs), "wire"))
        w = build(Given("w", (batch, 1), "wire")) if self.weighted else -1
        outputs = {"outside": _improper(build, before, w) if self.checked else before}
        products = {"gram", "cross", "features", "squares"} & set(self.asks)
        left = x if not self.weighted or not products else build(Open(_rounded(build, build(Multiply(w, x)))))
        for asked in self.asks:
            match asked:
                case "gram" | "cross":
                    product = build(MatMul(left, x if asked == "gram" else y, transpose_x=True))
                    outputs[asked] = build(Truncate(product, self.drop, 63 - self.drop)) if self.drop else product
                case "features":
                    outputs[asked] = build(Sum(left, 0, keep=False))
                case "targets":
                    outputs[asked] = build(MatMul(w, y, transpose_x=True)) if self.weighted else build(Sum(y, 0, keep=False))
                case "weight":
                    outputs[asked] = build(Sum(w))
                case "squares":
                    outputs[asked] = build(Sum(_rounded(build, build(Multiply(left, x)))))
        return build.circuit(outputs)


def _rounded(build: Builder, product: int) -> int:
    """Round a product of two numbers with `FRACTION` fractional bits to as many; of numbers that are at most 2^LARGEST_BITS."""
    return build(Truncate(product, FRACTION, 63 - FRACTION))


def _improper(build: Builder, before: int, w: int) -> int:
    """[`before` or any weight below 0 or above 1]. Rounds: 6. Bytes: 2 comparisons an example."""
    least, most = build(Sign(w, WINDOW)), build(Sign(build(Combine((w,), (-1,), 1 << FRACTION)), WINDOW))
    count = build(Sum(build(Combine((least, most), (-1, -1), 2))))
    return build(Sign(build(Truncate(build(Combine((before, count), (2, 2), -2)), 1, COUNT))))
