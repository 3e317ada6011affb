"""Lloyd's algorithm on shares: which centre is nearest to each example, and sums over the examples of each centre.

Centres are shares that the owner of the run has placed, so that the servers do not learn them. The distance of an example x to a centre c,
without |x|^2, is |c|^2 - 2 x c; the nearest is found by comparing all pairs, and stays a secret one-hot row.

Sums are integers, exact: numbers lie within +-2^LARGEST_BITS, and a sum over at most `MANY` examples cannot wrap around. Products x c lie
within +-d 2^(2 LARGEST_BITS), with d columns: at most `COLUMNS`.

**Leaks** nothing to the servers but shapes. To the owner of the run: how many examples each centre has, and their sums.
"""

from __future__ import annotations

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.argmax import OneHotArgmax
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.regression.moments import LARGEST_BITS

COLUMNS = 1 << 8
"""Columns of x, at most: |c|^2 - 2 x c is then below 2^(2 LARGEST_BITS + 10)."""

LOST = 8
"""Bits that distances lose before they are compared: what is left has 2 FRACTION - LOST fractional bits."""

DISTANCE = 2 * (FRACTION + LARGEST_BITS) + 10 - LOST + 2
"""The window in which two distances are compared."""

MANY = 1 << (62 - FRACTION - LARGEST_BITS)
"""Examples, at most."""


class Clusters(StepPlan, frozen=True):
    """One iteration.

    Attributes:
        inputs: d, columns of x.
        centers: how many.
    """

    inputs: int
    centers: int

    @property
    def outputs(self) -> int:
        """Columns of y, which is x itself and is not looked at."""
        return self.inputs

    @property
    def loss(self) -> Loss:
        """How `TrainingTerms` reads y."""
        return "mse"

    @property
    def shapes(self) -> dict[str, Shape]:
        """Centres with `FRACTION` fractional bits, and their squares |c|^2 with twice as many."""
        return {"centers": (self.centers, self.inputs), "squares": (1, self.centers)}

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit of the sums over some examples.

        Given: a wire `x` (batch, inputs), and shares. Outputs: `counts` (centers,), and `sums` (centers, inputs) with `FRACTION` bits.

        Rounds: 8 for up to 5 centres.
        """
        build = Builder()
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        x = build(Given("x", (batch, self.inputs), "wire"))
        product = build(MatMul(x, build(Open(values["centers"])), transpose_y=True))
        near = build(Truncate(build(Combine((product, values["squares"]), (2, -1))), LOST, 63 - LOST))
        nearest = build(Open(build(OneHotArgmax(near, DISTANCE))))
        counts = build(Sum(nearest, 0, keep=False))
        return build.circuit(values | {"counts": counts, "sums": build(MatMul(nearest, x, transpose_x=True))})
